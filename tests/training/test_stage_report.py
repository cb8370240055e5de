"""What a stage says before its first step: the rows and their media, its length, a sample of each modality."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoProcessor

from training.config_data import DataConfig
from training.data import Collator, MixtureDataset
from training.data.dataset import read_mixture
from training.report import data_table, look_at_rows, mean_length, show_samples
from training.stages import run_stage
from training.trainer import StageTrainer


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


def test_rows_are_counted_by_the_media_that_they_have(make_dataset, monkeypatch):
    dataset = make_dataset("image_kind", "text")
    contents = look_at_rows(dataset)
    assert contents.is_complete and contents.modalities == ["text", "image"]
    assert [dict(kinds) for kinds in contents.kinds] == [{"image": dataset.sizes[0]}, {"text": dataset.sizes[1]}]
    monkeypatch.setattr("training.report.LOOKED_AT", 5)
    some = look_at_rows(dataset)
    assert not some.is_complete and 0 < some.kinds[0]["image"] <= 5
    assert f"(of {some.kinds[0]['image']} looked at)" in shown(data_table(dataset, some))


def test_of_a_stream_the_first_rows_are_looked_at_and_it_is_not_taken_for_all(make_dataset):
    dataset = make_dataset("spoken_word", stream=True)
    contents = look_at_rows(dataset)
    assert not contents.is_complete and contents.modalities == ["speech"]
    table = shown(data_table(dataset, contents))
    assert "a stream" in table and "share" in table and "100%" in table and mean_length(dataset, None) is None


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


def test_a_stage_says_how_many_tokens_and_held_back_rows_there_are(make_stage, workspace, wide):
    data = {
        "mixture": [str(workspace / "data" / "text_train.jsonl")],
        "validation": [str(workspace / "data" / "image_kind_train.jsonl")],
    }
    run_stage(make_stage(data=data, train={"parts": ["mlp"]}), console=wide)
    rows = len(Path(data["validation"][0]).read_text().splitlines())
    text = wide.file.getvalue()
    assert "1 steps of 4 rows, about " in text and f"{rows} held-back rows" in text
    assert text.index("held-back rows") < text.index("step 1/1")
