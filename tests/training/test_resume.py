"""A stage that was killed and resumed ends as one that was never stopped; what does not fit is refused."""

import io
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from launch import train, train_and_kill
from rich.console import Console
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.checkpoint.folder import begin
from training.checkpoint.model_card import mean_loss
from training.checkpoint.state import MANIFEST
from training.data.batching.measure import LENGTHS_FILE
from training.monitor.metrics import WALL_CLOCK as metrics_of_speed
from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer
from unimoe.errors import ConfigError
from unimoe.surgery import assemble

STEPS, KILLED_AT = 30, 10
WALL_CLOCK = (
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
    "total_flos",
    *metrics_of_speed,
)


@pytest.fixture(scope="module")
def start(workspace, tmp_path_factory):
    """A mixture with dropout, so that the state of the random generators matters."""
    folder = tmp_path_factory.mktemp("dropout")
    model, _ = assemble(workspace / "start", {"image": workspace / "start"})
    model.config.text_config.attention_dropout = 0.1
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(workspace / "start").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def make_long_stage(make_stage_in, start):
    def make(output, *, steps=STEPS, saved_at=KILLED_AT, logged_at=4, **changes):
        return make_stage_in(
            output,
            start=start,
            train={"parts": ["router", "connectors"], "lora": {"parts": ["experts", "attention"], "r": 2}},
            trainer={"max_steps": steps, "save_steps": saved_at, "logging_steps": logged_at, "learning_rate": 0.01},
            **changes,
        )

    return make


@pytest.fixture(scope="module")
def make_short_stage(make_long_stage):
    """The same in small, for one process: stopped after step 5, it goes on from step 4."""
    return lambda output: make_long_stage(output, steps=6, saved_at=2, logged_at=3)


def metrics(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK} for line in lines]


def state(folder):
    return AutoModelForMultimodalLM.from_pretrained(folder).state_dict()


def assert_equal_runs(one, two):
    expected, actual = state(one), state(two)
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert metrics(one) == metrics(two)
    losses = [json.loads((Path(folder) / "history.json").read_text())[-1]["loss"] for folder in (one, two)]
    assert losses[0] == losses[1]


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("processes", "zero", "size"),
    [
        pytest.param(0, None, 1, id="one process"),
        pytest.param(2, 2, 1, id="two under ZeRO-2"),
        pytest.param(2, 3, 1, id="two under ZeRO-3"),
        pytest.param(2, 2, 2, id="two that share experts under ZeRO-2"),
        pytest.param(2, 3, 2, id="two that share experts under ZeRO-3"),
    ],
)
def test_a_killed_stage_that_is_resumed_ends_like_an_unbroken_one(make_long_stage, tmp_path, processes, zero, size):
    parallel = {"zero": zero, "expert_parallel_size": size}
    unbroken, broken = (make_long_stage(tmp_path / name, parallel=parallel) for name in ("unbroken", "broken"))
    file = tmp_path / "stage.yaml"
    train(unbroken, file, processes=processes)
    step = random.Random(f"{processes} {zero} {size}").randrange(KILLED_AT, 2 * KILLED_AT)
    train_and_kill(broken, file, at=KILLED_AT, step=step, processes=processes)
    done = train(broken, file, "--resume", processes=processes)
    assert "going on from" in done.stdout
    assert_equal_runs(unbroken.output, broken.output)
    assert not list(Path(broken.output).glob("checkpoint-*"))


@pytest.fixture(scope="module")
def unbroken(make_short_stage, tmp_path_factory):
    stage = make_short_stage(tmp_path_factory.mktemp("unbroken") / "output")
    return run_stage(stage, console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def begun(make_short_stage, tmp_path_factory):
    """The output of a stage that was stopped."""
    stage = make_short_stage(tmp_path_factory.mktemp("begun") / "output")
    step = StageTrainer.training_step

    def stop(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StageTrainer, "training_step", stop)
        run_stage(stage, console=Console(file=io.StringIO()))
    assert [path.name for path in Path(stage.output).glob("checkpoint-*")] == ["checkpoint-4"]
    return Path(stage.output)


def copy_of(output, make_short_stage, folder):
    """A copy of an output as if its stage had written there, the stage, and the console to run it on."""
    shutil.copytree(output, folder)
    settings = folder / "stage.yaml"
    settings.write_text(settings.read_text().replace(str(output), str(folder)))
    return make_short_stage(folder), Console(file=io.StringIO(), width=120)


@pytest.fixture
def unfinished(begun, make_short_stage, tmp_path):
    return copy_of(begun, make_short_stage, tmp_path / "output")


def test_a_stopped_stage_that_is_resumed_ends_like_an_unbroken_one(unbroken, unfinished):
    stage, console = unfinished
    cut_off = Path(stage.output) / "unfinished-40"  # one that was not written to its end is passed over
    cut_off.mkdir()
    (cut_off / "trainer_state.json").write_text("cut off")
    folder = run_stage(stage, resume=True, console=console)
    assert "going on from" in console.file.getvalue()
    assert_equal_runs(unbroken, folder)
    assert metrics(folder)[-1]["step"] == 6, "there is no step after the last one"
    assert not [*folder.glob("checkpoint-*"), *folder.glob("unfinished-*")]


def test_an_unfinished_stage_is_not_begun_again_by_accident(unfinished):
    stage, console = unfinished
    with pytest.raises(ConfigError, match=r"holds checkpoint-4 of an unfinished stage\. Go on .*--resume"):
        run_stage(stage, console=console)


def test_a_checkpoint_is_refused_under_other_settings_or_processes(unfinished, monkeypatch):
    stage, console = unfinished
    other = stage.model_copy(update={"trainer": {**stage.trainer, "learning_rate": 0.5}})
    with pytest.raises(ConfigError, match=r"other settings: trainer\.learning_rate was 0\.01, is 0\.5\."):
        run_stage(other, resume=True, console=console)
    monkeypatch.setattr("training.checkpoint.folder.launched", lambda: (0, 4))
    message = r"4 rows in a step, 4 in each .*4 process\(es\) would now take 16 and 16\. Set .* whose product is 1\."
    with pytest.raises(ConfigError, match=message):
        run_stage(stage, resume=True, console=console)


def test_the_checkpoint_before_stays_until_the_next_one_is_whole(make_stage, monkeypatch):
    """A process that is killed while a checkpoint is written must not lose the one before, of which one is kept."""
    trainer = {"max_steps": 4, "save_steps": 1, "save_total_limit": 1}
    stage = make_stage(data={"group_by_length": True}, trainer=trainer)
    rename = Path.rename

    def killed(self, target):
        if target.name == "checkpoint-2":
            assert (self / LENGTHS_FILE).is_file() and (self / MANIFEST).is_file(), "all is there before its name is"
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage)
    monkeypatch.setattr(Path, "rename", rename)
    shown = io.StringIO()
    run_stage(stage, resume=True, console=Console(file=shown, width=200))
    assert "going on from" in shown.getvalue() and "checkpoint-1" in shown.getvalue()


def test_a_complete_stage_is_skipped_and_one_with_other_settings_is_not(unbroken, make_short_stage, tmp_path):
    folder = tmp_path / "output"
    stage, console = copy_of(unbroken, make_short_stage, folder)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert run_stage(stage, resume=True, console=console) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        run_stage(stage.model_copy(update={"seed": 1}), resume=True, console=console)


def test_a_checkpoint_of_another_model_is_refused(unfinished, make_stage):
    stage, console = unfinished
    for name in ("stage.yaml", "start.json"):  # which would say it first
        (Path(stage.output) / name).unlink()
    other = make_stage(train={"parts": ["connectors"]}, trainer=stage.trainer, output=stage.output)
    begin(other)
    with pytest.raises(ConfigError, match=r"does not hold this stage's model: .* more weights are missing or unknown"):
        run_stage(other, resume=True, console=console)


def test_the_mean_loss_counts_every_step_once():
    log = [{"step": 4, "loss": 2.0}, {"step": 10, "loss": 1.0, "other": 3}, {"step": 10, "train_loss": 9.0}]
    assert mean_loss(log) == pytest.approx((4 * 2.0 + 6 * 1.0) / 10)
