"""Adapters are saved in peft's format, merged, put on again, and gone on with."""

import json
from pathlib import Path

import pytest
import torch
from launch import train
from peft import PeftModel
from transformers import AutoModelForMultimodalLM, AutoProcessor
from typer.testing import CliRunner

from training.__main__ import app
from training.config.train import LoraTraining
from training.data import Collator, MixtureDataset
from training.data.mixture.dataset import read_mixture
from training.stage.run import run_stage
from training.trainer.start import load_start
from unimoe.errors import ConfigError


@pytest.fixture(scope="module")
def stage_in(make_stage_in, mixture_start):
    """LoRA on experts and attention of a mixture, connectors whole."""

    def make(output, start=mixture_start, steps=3, zero=None, **lora):
        return make_stage_in(
            output,
            start=str(start),
            train={"parts": ["connectors"], "lora": {"parts": ["experts", "attention"], "r": 4, **lora}},
            trainer={"max_steps": steps, "learning_rate": 1e-2, "save_steps": 2},
            parallel={"zero": zero},
        )

    return make


@pytest.fixture
def stage(stage_in, tmp_path):
    return lambda name="stage", **settings: stage_in(tmp_path / name, **settings)


@pytest.fixture(scope="module")
def merged(stage_in, tmp_path_factory):
    """What a stage leaves that adds its adapter to the weights."""
    return run_stage(stage_in(tmp_path_factory.mktemp("merged") / "merged"))


@pytest.fixture(scope="module")
def apart(stage_in, tmp_path_factory):
    """What the same stage leaves that saves its adapter apart; no test changes it."""
    return run_stage(stage_in(tmp_path_factory.mktemp("apart") / "apart", merge=False))


@pytest.fixture(scope="module")
def batch(workspace, make_stage_in):
    files = make_stage_in("nowhere").data
    processor = AutoProcessor.from_pretrained(workspace / "start")
    dataset = MixtureDataset(read_mixture(files), seed=0)
    inputs = Collator(processor)([dataset[row] for row in (0, 20, 40)])
    return {name: value for name, value in inputs.items() if name != "row_ids"}


@torch.no_grad()
def logits(model, batch, experts="eager"):
    model.set_experts_implementation(experts)
    return model.eval()(**batch).logits


def close(actual, expected):
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_a_merged_model_is_the_unmerged_one_with_its_adapter_on_it(merged, apart, batch, experts):
    expected = logits(AutoModelForMultimodalLM.from_pretrained(merged), batch)
    bare = AutoModelForMultimodalLM.from_pretrained(apart)
    assert (logits(bare, batch) - expected).abs().max() > 1e-3 * expected.abs().max(), "the deltas are not in it"
    with_adapter = PeftModel.from_pretrained(bare, apart / "adapter")
    with_adapter.get_base_model().set_experts_implementation(experts)
    with torch.no_grad():
        close(with_adapter.eval()(**batch).logits, expected)
    config = json.loads((apart / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4 and config["base_model_name_or_path"] == str(apart)


def test_a_stage_that_starts_from_an_unmerged_one_starts_from_what_was_trained(stage, merged, apart, batch):
    expected = logits(AutoModelForMultimodalLM.from_pretrained(merged), batch)
    close(logits(load_start(stage("next", start=apart))[0], batch), expected)


def test_the_command_merges_what_was_saved_apart(merged, apart, batch, tmp_path):
    result = CliRunner().invoke(app, ["merge", str(apart), str(tmp_path / "one")])
    assert result.exit_code == 0, result.output
    expected = logits(AutoModelForMultimodalLM.from_pretrained(merged), batch)
    close(logits(AutoModelForMultimodalLM.from_pretrained(tmp_path / "one"), batch), expected)
    AutoProcessor.from_pretrained(tmp_path / "one")


def test_merging_twice_or_over_a_model_is_refused(apart, tmp_path):
    """What was added once must not be added again, by the command or by a stage that starts from its output."""
    merged = tmp_path / "merged"
    before = sorted((path, path.read_bytes()) for path in apart.rglob("*.safetensors"))
    assert CliRunner().invoke(app, ["merge", str(apart), str(merged)]).exit_code == 0
    for arguments, said in (
        ([apart, apart], "is not empty"),
        ([merged, tmp_path / "again"], "lora.merge: false"),
        ([apart, tmp_path / "again", "--adapter", merged], "does not fit"),
        ([tmp_path / "nowhere", tmp_path / "again"], "lora.merge: false"),
    ):
        result = CliRunner().invoke(app, ["merge", *map(str, arguments)])
        assert result.exit_code == 2 and said in result.output.replace("\n", " "), result.output
    assert sorted((path, path.read_bytes()) for path in apart.rglob("*.safetensors")) == before
    assert not (tmp_path / "again").exists()


def test_an_adapter_is_gone_on_with_where_it_was_left(stage, apart, batch):
    first = apart
    second = stage("second", start=first, adapter=str(first / "adapter"), merge=False, steps=1)
    second.trainer["learning_rate"] = 1e-12
    again = run_stage(second)
    expected = logits(
        PeftModel.from_pretrained(AutoModelForMultimodalLM.from_pretrained(first), first / "adapter"), batch
    )
    actual = PeftModel.from_pretrained(AutoModelForMultimodalLM.from_pretrained(again), again / "adapter")
    close(logits(actual, batch), expected)


def test_stopped_and_resumed_the_adapter_is_that_of_an_unbroken_run(stage, apart, monkeypatch):
    from training.trainer import trainer

    step = trainer.StageTrainer.training_step

    def stop(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.StageTrainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run_stage(stage("stopped", merge=False))
    monkeypatch.setattr(trainer.StageTrainer, "training_step", step)
    stopped = run_stage(stage("stopped", merge=False), resume=True)
    from safetensors.torch import load_file

    expected, actual = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (apart, stopped))
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-7, msg=name)


@pytest.mark.distributed
def test_under_zero_the_adapter_is_whole(stage, merged, batch, tmp_path):
    two = stage("two", zero=2, merge=False)
    two.trainer["per_device_train_batch_size"] = 2
    train(two, tmp_path / "stage.yaml", processes=2)
    adapted = PeftModel.from_pretrained(
        AutoModelForMultimodalLM.from_pretrained(two.output), Path(two.output) / "adapter"
    )
    expected = logits(AutoModelForMultimodalLM.from_pretrained(merged), batch)
    torch.testing.assert_close(logits(adapted, batch), expected, rtol=1e-3, atol=1e-3)


def test_dropout_on_stacked_experts_is_refused_when_the_configuration_is_read():
    with pytest.raises(ValueError, match="dropout between stacked experts"):
        LoraTraining(parts=["attention", "experts"], dropout=0.1)
    assert LoraTraining(parts=["attention"], dropout=0.1).dropout == 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, r"lora\.r is 8, but the adapter .* was trained with 4"),
        ({"parts": ["attention"]}, "was trained on other parts"),
        ({"adapter": "nowhere"}, "nowhere holds no adapter"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(stage, apart, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_stage(stage("second", start=apart, **{"adapter": str(apart / "adapter"), **changes}))
