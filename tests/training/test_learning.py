"""A run that learns nothing but the label prior is named at its first validation; one that learns more is not."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from transformers import AutoModelForMultimodalLM, AutoProcessor, TrainerControl, TrainerState

from training.monitor.learning import Signs, WatchLearning
from training.monitor.metrics_file import read_metrics
from training.monitor.progress import summarize_validation
from training.stage.run import run_stage

COLOURS = {"r": (220, 30, 30), "g": (30, 200, 30), "b": (30, 30, 220), "w": (240, 240, 240)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Pictures of one colour each, in two files of which the answers have one distribution: `train` and `test`."""
    folder = tmp_path_factory.mktemp("colours")
    noise = np.random.default_rng(0)
    for split, each in (("train", 8), ("test", 4)):
        rows = []
        for number in range(each * len(COLOURS)):
            name = list(COLOURS)[number % len(COLOURS)]
            pixels = np.clip(COLOURS[name] + noise.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{split}{number}.png")
            content = [{"type": "image", "path": f"{split}{number}.png"}, {"type": "text", "text": "color?"}]
            rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": name}]})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def blind_start(workspace, tmp_path_factory):
    """The tiny start with connectors of zeros: to it all pictures are alike."""
    folder = tmp_path_factory.mktemp("blind")
    model = AutoModelForMultimodalLM.from_pretrained(workspace / "start")
    for parameter in model.model.connectors.parameters():
        torch.nn.init.zeros_(parameter)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(workspace / "start").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(make_stage, colours):
    """Run a stage on the pictures; return what the console showed, and the folder."""

    def run(**changes):
        data = {"mixture": [str(colours / "train.jsonl")], "validation": [str(colours / "test.jsonl")]}
        trainer = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 0.01, "eval_steps": 40}
        trainer |= changes.pop("trainer", {})
        console = Console(file=io.StringIO(), width=200)
        folder = run_stage(
            make_stage(data=data | changes.pop("data", {}), trainer=trainer, **changes), console=console
        )
        return console.file.getvalue(), folder

    return run


def warned(text):
    return [line for line in text.splitlines() if line.startswith("Warning:") and "fine_tuning" in line]


def test_a_run_that_learns_the_label_prior_alone_is_named_at_its_first_validation(run, blind_start):
    text, folder = run(start=blind_start, train={"parts": ["mlp", "norms", "lm_head"]})
    (line,) = warned(text)
    assert line.startswith("Warning: test, step 40 of 40: loss ")
    assert "is not below that of the label prior, 0.693" in line, "ln 4 on two labels"
    assert "it does not look at its media" in line and "1 distinct answer(s), where the labels have 4" in line
    assert "Raise trainer.learning_rate" in line
    assert line.removeprefix("Warning: ") in json.loads((folder / "history.json").read_text())[0]["warnings"]


def test_a_run_that_learns_what_is_shown_is_not_named(run):
    text, folder = run(
        trainer={"max_steps": 70, "eval_steps": 70},
        train={"parts": ["encoders.image", "connectors.image", "attention", "mlp", "norms", "lm_head"]},
    )
    assert not warned(text)
    last = [line for line in read_metrics(folder / "metrics.jsonl") if "eval_loss" in line][-1]
    assert last["eval_loss"] < last["eval_loss_prior"] < last["eval_loss_shuffled"]
    assert last["eval_exact_match"] > 0.5 and last["eval_distinct_answers"] > 2 and last["eval_distinct_labels"] == 4


def test_the_prior_is_said_before_the_first_step_and_stands_beside_the_loss(run, blind_start):
    text, folder = run(start=blind_start, train={"parts": ["norms"]}, trainer={"max_steps": 1})
    before, after = text.split("step 0/1", 1)
    assert before.count("0.693") == 2, "of the file that trains, and of the one that validates"
    assert "prior 0.693" in after
    assert read_metrics(folder / "metrics.jsonl")[1]["loss_prior"] == pytest.approx(np.log(4) / 2)


def test_without_validation_rows_the_loss_of_the_last_steps_is_compared(run, blind_start):
    changes = {"start": blind_start, "train": {"parts": ["mlp"]}, "data": {"validation": []}}
    text, _ = run(**changes, trainer={"max_steps": 2, "eval_steps": None})
    (line,) = warned(text)
    assert line.startswith("Warning: the rows that train, step 2 of 2: loss ") and "label prior, 0.693" in line


def test_signs_are_read_with_a_margin():
    healthy = Signs("a", 0.4, prior=0.5, shuffled=0.9, answers=2, labels=3)
    assert healthy.troubles() == {}
    assert Signs("a", 2.0).troubles() == {}, "where nothing can be compared, nothing is said"
    assert set(Signs("a", 0.5, prior=0.5).troubles()) == {"prior"}
    assert Signs("a", 0.6, prior=0.5, shuffled=0.9).troubles() == {}, "it looks at its media, and has only begun"
    assert set(Signs("a", 0.6, prior=0.5, shuffled=0.9).final_troubles()) == {"sure"}
    assert Signs("a", 0.4, prior=0.5, shuffled=0.9).final_troubles() == {} == Signs("a", 0.6, 0.5).final_troubles()
    assert set(Signs("a", 1.0, prior=2.0, shuffled=1.04).troubles()) == {"shuffled"}
    assert set(Signs("a", 1.0, prior=2.0, shuffled=1.06, answers=2, labels=4).troubles()) == {"answers"}


def test_a_file_is_named_once_again_at_the_end_and_told_when_it_is_in_order():
    warnings, said = [], []
    watch = WatchLearning(["a", "b"], warn=warnings.append, say=said.append)
    losses = [(0, 9.0, 9.0), (1, 0.9, 0.1), (2, 0.8, 0.1), (3, 0.3, 0.1), (4, 0.7, 0.1)]
    for step, first, second in losses:
        metrics = {"eval_loss": 1.0, "eval_loss/a": first, "eval_loss_prior/a": 0.5}
        metrics |= {"eval_loss/b": second, "eval_loss_prior/b": 0.5}
        state = TrainerState(global_step=step, max_steps=4)
        watch.on_evaluate(None, state, TrainerControl(), metrics=metrics)
    assert [warning.partition(": loss")[0] for warning in warnings] == ["a, step 1 of 4", "a, step 4 of 4"]
    assert said == ["a: in order again, loss 0.300, below that of the label prior, 0.500."]


def test_the_line_of_a_validation_says_whether_a_file_is_below_its_prior():
    logs = {"eval_loss": 0.5, "eval_loss/a": 0.3, "eval_loss_prior/a": 0.4, "eval_loss_shuffled/a": 0.9}
    logs |= {"eval_loss/b": 0.7, "eval_loss_prior/b": 0.6, "eval_exact_match/b": 0.25}
    logs |= {"eval_distinct_answers/b": 2, "eval_distinct_labels/b": 11}
    assert summarize_validation(logs) == (
        "validation loss 0.500  a 0.300 (below the label prior's 0.400, shuffled media 0.900)  "
        "b 0.700 (not below the label prior's 0.600, exact 0.25, 2 distinct answers of 11)"
    )


def test_the_pictures_have_one_distribution_of_answers(colours):
    counts = []
    for split in ("train", "test"):
        rows = map(json.loads, (Path(colours) / f"{split}.jsonl").read_text().splitlines())
        counts.append(Counter(row["messages"][1]["content"] for row in rows))
    assert {name: count / 8 for name, count in counts[0].items()} == {name: c / 4 for name, c in counts[1].items()}
