"""A stage passes the tokens that it is said to pass: with short last batches, padding, packs and augmentation."""

import io
import itertools
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import AutoProcessor

from training.config.training_arguments import arguments_for_estimate
from training.data.batching import batches
from training.monitor.metrics import attended_tokens
from training.planning.batches import estimate_batches
from training.planning.tokens import batches_shown, estimate_tokens
from training.stage.run import run_stage
from training.trainer.data import count_steps, read_data, schedule_data
from training.trainer.trainer import StageTrainer

CONFIGURATIONS = {
    "epochs with a short last batch and padding": ({}, {"max_steps": -1, "num_train_epochs": 1}),
    "part of a second epoch, accumulated": ({}, {"max_steps": 9, "gradient_accumulation_steps": 2}),
    "packs of two epochs": ({"max_length": 256, "packing": True}, {"max_steps": -1, "num_train_epochs": 2}),
    "rows that are too long are dropped": (
        {"max_length": 20, "too_long": "drop"},
        {"max_steps": -1, "num_train_epochs": 1, "gradient_accumulation_steps": 3},
    ),
    "sounds that augmentation lengthens": (
        {"augment": {"speech": {"speed": 0.3, "shift": 0.2}, "audio": {"speed": 0.3}}},
        {"max_steps": -1, "num_train_epochs": 1},
    ),
}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_tokens_are_those_that_the_training_passes(name, make_stage, workspace, monkeypatch, quiet):
    data, trainer = CONFIGURATIONS[name]
    config = make_stage(data=data, trainer=trainer)
    passed = count_passed(monkeypatch, config, quiet)
    args, processor = arguments_for_estimate(config), AutoProcessor.from_pretrained(workspace / "start")
    dataset, _ = read_data(config)
    schedule, _ = schedule_data(config.data, dataset, processor, args)
    steps = count_steps(dataset, schedule, args, processes=1)
    assert estimate_tokens(dataset, schedule, processor, args, steps).total == pytest.approx(passed.tokens, rel=0.02)
    planned = estimate_batches(config, args, processor, processes=1)
    assert planned.tokens == pytest.approx(passed.tokens / passed.batches, rel=0.02)


def test_rows_that_are_dropped_are_logged_once_by_the_training_that_drops_them(make_stage, quiet, monkeypatch):
    named = []
    monkeypatch.setattr(batches.logger, "log", lambda level, text, name, *others: named.append(name))
    data, trainer = CONFIGURATIONS["rows that are too long are dropped"]
    run_stage(make_stage(data=data, trainer=trainer), console=quiet)
    assert named and len(named) == len(set(named))


def test_augmentation_that_changes_no_length_draws_none(make_stage, workspace):
    config = make_stage(data={"augment": {"speech": {"gain": 6}, "audio": {"noise": 0.1}}})
    args, processor = arguments_for_estimate(config), AutoProcessor.from_pretrained(workspace / "start")
    plain = estimate_batches(make_stage(), args, processor, processes=1).tokens
    assert estimate_batches(config, args, processor, processes=1).tokens == plain


def count_passed(monkeypatch, config, console):
    """Let a training fetch its batches, and count them instead of training on them."""
    passed = SimpleNamespace(tokens=0, batches=0)

    def count(self, **kwargs):
        loader, args = self.get_train_dataloader(), self.args
        steps = count_steps(self.train_dataset, self.schedule, args, processes=1)
        left = batches_shown(self._batches, args, steps)
        for epoch in itertools.count():
            self._batches.set_epoch(epoch)
            for batch in itertools.islice(loader, left):
                passed.tokens += int(attended_tokens(batch))
                passed.batches, left = passed.batches + 1, left - 1
            if not left:
                raise KeyboardInterrupt

    monkeypatch.setattr(StageTrainer, "train", count)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config, console=console)
    return passed


def test_the_batches_of_steps_are_those_that_the_trainer_fetches(make_stage, monkeypatch, quiet):
    """Of an epoch whose batches are no multiple of those of a step."""
    fetched = []
    fetch = StageTrainer.get_batch_samples

    def note(self, *args, **kwargs):
        found = fetch(self, *args, **kwargs)
        fetched.append((len(found[0]), batches_shown(self._batches, self.args, self.state.max_steps)))
        return found

    monkeypatch.setattr(StageTrainer, "get_batch_samples", note)
    run_stage(make_stage(trainer={"max_steps": 7, "gradient_accumulation_steps": 3}), console=quiet)
    assert sum(count for count, _ in fetched) == fetched[0][1]
