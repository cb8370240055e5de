"""What a stage says before its first step: the rows and their media, its length, a sample of each modality."""

import io
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from transformers import AutoProcessor, TrainerControl, TrainerState
from typer.testing import CliRunner

from training.__main__ import app
from training.config.data import DataConfig
from training.config.training_arguments import training_arguments
from training.data import Collator, MixtureDataset, schedule_batches
from training.data.mixture.dataset import read_mixture
from training.monitor import progress as progress_module
from training.monitor.progress import StageProgress, duration, track
from training.planning.models import DescribedRecipe
from training.planning.plan import estimate_stage
from training.planning.tokens import estimate_tokens
from training.stage.report import count_epochs, data_table, look_at_rows, show_samples
from training.stage.run import run_stage
from training.trainer.trainer import StageTrainer
from unimoe import UniMoEForConditionalGeneration
from unimoe.connectors.mlp import MLPConnector
from unimoe.errors import ConfigError
from unimoe.errors.terminal import fail


@pytest.fixture
def wide():
    return Console(file=io.StringIO(), width=300)


def shown(*things):
    console = Console(file=io.StringIO(), width=300)
    console.print(*things)
    return console.file.getvalue()


@pytest.fixture
def make_dataset(workspace):
    def make(*names, **changes):
        mixture = [{"path": str(workspace / "data" / f"{name}_train.jsonl"), **changes} for name in names]
        return MixtureDataset(read_mixture(DataConfig(mixture=mixture)), seed=0)

    return make


def test_rows_are_counted_by_the_media_that_they_have(make_dataset):
    dataset = make_dataset("image_kind", "text")
    contents = look_at_rows(dataset)
    assert contents.is_complete and contents.modalities == ["text", "image"]
    assert [dict(kinds) for kinds in contents.kinds] == [{"image": dataset.sizes[0]}, {"text": dataset.sizes[1]}]
    assert f"image {dataset.sizes[0]}" in shown(data_table(dataset, contents))


@pytest.mark.parametrize(
    ("trainer", "data", "epochs"),
    [
        ({"max_steps": 30, "gradient_accumulation_steps": 2}, {}, 7 + 2 * 8 / 26),
        ({"max_steps": -1, "num_train_epochs": 1.5}, {"packing": True, "max_length": 99}, 1.5),
        ({"max_steps": 30}, {"packing": True, "max_length": 99}, None),
    ],
    ids=["steps of rows", "epochs of packs", "steps of packs"],
)
def test_passes_are_those_of_the_whole_stage(make_dataset, make_stage, trainer, data, epochs):
    """A file of weight 2 passes twice in each of them."""
    dataset, stage = make_dataset("image_kind", weight=2), make_stage(trainer=trainer, data=data)
    processor = AutoProcessor.from_pretrained(stage.start.path)
    schedule = schedule_batches(stage.data, dataset, processor, sized=False)
    found = count_epochs(dataset, schedule, training_arguments(stage), is_split=False)
    assert found == epochs
    table = shown(data_table(dataset, look_at_rows(dataset), epochs=found))
    assert ("passes an epoch" in table) == (epochs is None) and f" {2 * (epochs or 1):.3g} │" in table
    assert count_epochs(dataset, schedule, training_arguments(stage), is_split=True) is None


def test_lines_say_how_long_it_will_take_at_the_pace_so_far(monkeypatch):
    console = Console(file=io.StringIO(), width=300)
    progress, clock = StageProgress(console, title="stage"), iter([0.0, 200.0, 300.0])
    monkeypatch.setattr("training.monitor.progress.time.monotonic", lambda: next(clock))
    state = TrainerState(global_step=10, max_steps=40, is_world_process_zero=True)
    progress.on_train_begin(None, state, TrainerControl())
    for state.global_step in (10, 20, 40):
        progress.on_log(None, state, TrainerControl(), {"loss": 1.0})
    assert [line.endswith("loss 1.000  7 min left") for line in console.file.getvalue().splitlines()] == [
        False,
        True,
        False,
    ]
    assert [duration(seconds) for seconds in (0.4, 89, 91, 5399, 5400, 90000)] == [
        "0 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "1 h 30 min",
        "25 h 0 min",
    ]


def test_of_a_stream_the_first_rows_are_looked_at_and_it_is_not_taken_for_all(make_dataset):
    dataset = make_dataset("spoken_word", stream=True)
    contents = look_at_rows(dataset)
    assert not contents.is_complete and contents.modalities == ["speech"]
    table = shown(data_table(dataset, contents))
    assert "a stream" in table and "share" in table and "100%" in table
    assert estimate_tokens(dataset, None, None, None, 1) is None


def test_there_is_one_sample_of_each_modality_whole_whatever_the_limits(make_dataset, workspace):
    dataset = make_dataset("image_kind", "spoken_word", "sound_kind", "text")
    processor = AutoProcessor.from_pretrained(workspace / "start")
    collator = Collator(processor, max_length=3, packing=True)
    panels = show_samples(dataset, collator, look_at_rows(dataset).modalities)
    assert len(panels) == 4
    text = shown(*panels)
    assert all(f"<|{key}|> x " in text for key in ("image", "audio", "speech")) and "One sample: text-" in text


@pytest.mark.parametrize(
    ("trainer", "data"),
    [
        ({"max_steps": 3}, {}),
        ({"num_train_epochs": 1, "per_device_train_batch_size": 7}, {}),
        ({"num_train_epochs": 1.4, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}, {}),
        ({"num_train_epochs": 2}, {"packing": True, "max_length": 400}),
    ],
    ids=str,
)
def test_the_steps_that_are_announced_are_those_that_are_trained(make_stage, wide, monkeypatch, trainer, data):
    announced = []

    def count(self, **kwargs):
        announced.append(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(StageTrainer, "train", count)
    with pytest.raises(KeyboardInterrupt):
        run_stage(make_stage(trainer={"max_steps": -1, **trainer}, data=data), console=wide)
    size = trainer.get("per_device_train_batch_size", 4) * trainer.get("gradient_accumulation_steps", 1)
    what = "packs" if data else "rows"
    assert f"{announced[0]:,} steps of {size} {what}" in wide.file.getvalue()


@pytest.mark.parametrize("cache", [False, True])
def test_the_memory_of_a_step_is_said_before_the_first_one_as_it_was_planned(make_stage, wide, monkeypatch, cache):
    config = make_stage(data={"cache_encoders": cache}, report={"memory": True})
    start = DescribedRecipe().begin(config)
    planned = estimate_stage("stage", config, start).host.step - sum_of_encoders(start) * cache
    monkeypatch.setattr("training.stage.memory.device_memory", lambda device: 10)
    run_stage(config, console=wide)
    text = wide.file.getvalue()
    assert f"memory of a step: about {planned / 1e6:.2f} MB: " in text
    assert "the GPU has 0.0 GB" in text and text.index("memory of a step") < text.index("step 1/1")


def test_a_model_that_looks_at_values_trains_without_an_estimate(make_stage, wide, monkeypatch):
    """Such as a tower of a library: it cannot be tried out on tensors without values."""
    forward = MLPConnector.forward

    def looking(self, states):
        assert float(states.sum()) != 0.5
        return forward(self, states)

    monkeypatch.setattr(MLPConnector, "forward", looking)
    config = make_stage(report={"memory": True})
    run_stage(config, console=wide)
    text = wide.file.getvalue()
    assert "memory of a step cannot be told: the model looks at values" in text and "step 1/1" in text
    with pytest.raises(ConfigError, match="cannot be told"):
        estimate_stage("stage", config, DescribedRecipe().begin(config))


def sum_of_encoders(start):
    with torch.device("meta"):
        model = UniMoEForConditionalGeneration._from_config(start.config)
    return sum(parameter.nbytes for parameter in model.model.encoders.parameters())


@pytest.mark.parametrize("is_terminal", [False, True])
def test_long_work_shows_how_far_it_is(is_terminal):
    console = Console(file=io.StringIO(), width=100, force_terminal=is_terminal)
    assert list(track("abcd", 4, "reading", console, first=0, seconds=0)) == list("abcd")
    text = console.file.getvalue()
    assert ("reading" in text) and ("reading: 2 of 4, 0 s left\n" in text) is not is_terminal
    assert ("reading: all 4 in 0 s\n" in text) is not is_terminal


def test_short_work_says_nothing_in_a_plain_log():
    console = Console(file=io.StringIO(), width=100)
    assert list(track("abcd", 4, "reading", console)) == list("abcd")
    assert console.file.getvalue() == ""


def test_validation_within_a_training_is_a_second_bar_and_is_gone_afterwards():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = StageProgress(console, title="stage")
    progress.on_train_begin(None, TrainerState(max_steps=4, is_world_process_zero=True), TrainerControl())
    try:
        for done, _ in enumerate(progress.track("abc", 3, "validation")):
            assert [task.description for task in progress.bar.tasks] == ["stage", "validation"]
            assert progress.bar.tasks[1].completed == done and progress.bar.tasks[1].total == 3
        assert [task.description for task in progress.bar.tasks] == ["stage"]
    finally:
        progress.close()


@pytest.mark.parametrize("lengths", [{}, {"too_long": "drop", "max_length": 256}])
def test_each_wait_before_and_in_a_training_is_told(make_stage, workspace, wide, monkeypatch, lengths):
    """Loading, encoding and validation, with counts, in a plain log."""
    monkeypatch.setattr(progress_module.track, "__kwdefaults__", {"first": 0, "seconds": 0})
    validated, *trained = (str(workspace / "data" / f"{name}_train.jsonl") for name in ("image_kind", "spoken_word"))
    config = make_stage(
        data={"mixture": trained, "cache_encoders": True, "validation": [validated], **lengths},
        trainer={"eval_strategy": "steps", "eval_on_start": True, "per_device_eval_batch_size": 2},
    )
    run_stage(config, console=wide)
    text = wide.file.getvalue()
    expected = [
        "the model is there: ",
        "looking for media: 1 of ",
        "encoding media: 1 of ",
        "validation, batches: 1 of ",
    ]
    if lengths:
        expected.insert(1, "measuring validation rows: 1 of ")
    places = [text.index(words) for words in expected]
    assert places == sorted(places)
    assert text.index("validation, batches: all ") < text.index("step 1/1")


def test_a_stage_says_how_many_tokens_and_validation_rows_there_are(make_stage, workspace, wide):
    data = {
        "mixture": [str(workspace / "data" / "text_train.jsonl")],
        "validation": [str(workspace / "data" / "image_kind_train.jsonl")],
    }
    run_stage(make_stage(data=data, train={"parts": ["mlp"]}), console=wide)
    rows = len(Path(data["validation"][0]).read_text().splitlines())
    text = wide.file.getvalue()
    assert "1 steps of 4 rows, 0.308 epochs, about " in text and f"{rows} validation rows" in text
    assert text.index("validation rows") < text.index("step 1/1")


HOSTILE = "\x1b]0;title\x07\x1b[2J[link=http://x]\u202e[/nothing]"


def test_no_row_or_name_reaches_the_terminal_as_more_than_text(workspace, write_jsonl, tmp_path):
    turns = [{"role": "user", "content": f"say {HOSTILE}"}, {"role": "assistant", "content": f"it {HOSTILE}"}]
    path = write_jsonl({"id": HOSTILE, "messages": turns}, name="\x1b[2J[red].jsonl")
    dataset = MixtureDataset(read_mixture(DataConfig(mixture=[str(path)])), seed=0)
    collator = Collator(AutoProcessor.from_pretrained(workspace / "start"))
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    console.print(data_table(dataset, look_at_rows(dataset)), *show_samples(dataset, collator, ["text"]))
    StageProgress(console, title=HOSTILE).warn(HOSTILE)
    text = console.file.getvalue()
    assert not set(text) & {"\x1b", "\x07", "\u202e"} and "\\x1b[2J[red].jsonl" in text
    assert text.count("\\x1b]0;title\\x07\\x1b[2J[link=http://x]\\u202e[/nothing]") == 4


def test_an_error_reaches_the_terminal_as_text(capsys):
    with pytest.raises(typer.Exit):
        fail(ConfigError(f"{HOSTILE}.yaml", "is damaged."))
    assert capsys.readouterr().err.strip().endswith("\\x1b[2J[link=http://x]\\u202e[/nothing].yaml: is damaged.")


def test_check_shows_problems_as_text(write_jsonl):
    path = write_jsonl({"id": HOSTILE, "messages": [{"role": HOSTILE, "content": HOSTILE}]}, name="\x1b[2J.jsonl")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 1 and not set(result.output) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b" in result.output
