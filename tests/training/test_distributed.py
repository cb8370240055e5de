"""Two processes learn what one process learns from the same rows, with and without DeepSpeed."""

import io
import json
import subprocess
from pathlib import Path

import pytest
import torch
from launch import ROOT, command, environment, train
from rich.console import Console
from transformers import AutoModelForMultimodalLM

from training.config.training_arguments import deepspeed_arguments, training_arguments
from training.distributed.deepspeed import check_engaged
from training.stage.run import run_stage
from unimoe.errors import ConfigError

STEPS = 8


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def make_mixed_stage(make_stage, mixture_start, workspace, tmp_path):
    """The quickstart's last stage in small: router, connectors, and LoRA on experts and attention; 8 rows a step."""
    files = sorted((workspace / "data").glob("*_train.jsonl"))

    def make(processes, zero, accumulate=1, **changes):
        return make_stage(
            start=mixture_start,
            # An epoch is longer than the stage: at its end, processes share out fewer rows than one would take.
            data={"mixture": [{"path": str(file), "weight": 4} for file in files]},
            train={
                "parts": ["router", "connectors"],
                "lora": {"parts": ["experts", "attention"], "r": 2},
                "losses": {"balance": 0, "z": 0.1},
            },
            trainer={
                "per_device_train_batch_size": 8 // processes // accumulate,
                "gradient_accumulation_steps": accumulate,
                "max_steps": STEPS,
                "learning_rate": 1e-3,
            },
            parallel={"zero": zero},
            output=str(tmp_path / f"{processes}-{zero}"),
            **changes,
        )

    return make


@pytest.mark.distributed
@pytest.mark.parametrize(("zero", "accumulate"), [(None, 1), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_two_processes_learn_what_one_learns(make_mixed_stage, tmp_path, zero, accumulate):
    one, two = make_mixed_stage(1, None), make_mixed_stage(2, zero, accumulate)
    run_stage(one, console=Console(file=io.StringIO()))
    if (zero, accumulate) == (2, 1):  # once as users do
        words = command(two, tmp_path / "stage.yaml", processes=2)
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    else:
        done = train(two, tmp_path / "stage.yaml", processes=2)
    assert done.stdout.count("What trains") == 1, "the first process speaks for all"
    assert done.stdout.count("\nrouter: ") == 1 and "not examined: gradients" in done.stdout
    expected, actual = metrics(one.output), metrics(two.output)
    assert len(expected) == len(actual) == STEPS + 1
    for step, (a, b) in enumerate(zip(expected[:STEPS], actual[:STEPS], strict=True)):
        for key in [key for key in a if key.startswith(("loss", "load_"))]:
            # A token between two experts may go to the other one by a rounding error.
            tolerance = {"abs": 0.01} if key.startswith("load_") else {"rel": 1e-4}
            assert key == "loss_balance" or b[key] == pytest.approx(a[key], **tolerance), (step, key)
    models = [AutoModelForMultimodalLM.from_pretrained(stage.output) for stage in (one, two)]
    for (name, value), other in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.distributed
def test_computing_in_half_precision_keeps_float32_weights(make_mixed_stage, mixture_start, tmp_path):
    stage = make_mixed_stage(2, 2)
    stage.trainer |= {"bf16": True, "learning_rate": 1e-5, "max_steps": 4}
    train(stage, tmp_path / "stage.yaml", processes=2)
    before, after = (AutoModelForMultimodalLM.from_pretrained(folder) for folder in (mixture_start, stage.output))
    assert after.dtype == torch.float32
    name = "model.connectors.image.linear_1.weight"
    moved = after.state_dict()[name] - before.state_dict()[name]
    assert 0 < moved.abs().max() < 2e-4, "bf16 would have rounded these steps away, or the weights themselves"
    assert (after.state_dict()[name] != after.state_dict()[name].bfloat16().float()).any()


@pytest.mark.distributed
def test_one_process_without_a_launcher_and_a_recipe_of_two_stages(make_mixed_stage, tmp_path):
    stages = {}
    for name in ("first", "second"):
        stage = make_mixed_stage(1, 2).model_dump()
        stage["trainer"]["max_steps"] = 2
        stages[name] = {**stage, "output": str(tmp_path / name)}
    stages["second"]["start"] = str(tmp_path / "first")

    class Recipe:
        @staticmethod
        def model_dump():
            return {"stages": stages}

    train(Recipe, tmp_path / "recipe.yaml")
    history = json.loads((tmp_path / "second" / "history.json").read_text())
    assert [entry["stage"] for entry in history] == ["first", "second"]


def test_the_configuration_follows_the_stage(make_stage, monkeypatch):
    assert deepspeed_arguments(make_stage()) == {}
    settings = deepspeed_arguments(make_stage(parallel={"zero": 2}, trainer={"bf16": True}))["deepspeed"]
    assert settings["zero_optimization"] == {"stage": 2} and settings["torch_autocast"]["enabled"]
    with pytest.raises(ConfigError, match=r"Use trainer\.bf16"):
        training_arguments(make_stage(parallel={"zero": 2}, trainer={"fp16": True}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs DeepSpeed.*pip install 'unimoe\[train\]'"):
        training_arguments(make_stage(parallel={"zero": 2}))


def test_a_stage_that_asks_for_deepspeed_does_not_train_without_it(make_stage):
    class Trainer:
        is_deepspeed_enabled = False

    with pytest.raises(ConfigError, match="Unset the environment variable ACCELERATE_USE_CPU"):
        check_engaged(Trainer, make_stage(parallel={"zero": 2}))
    check_engaged(Trainer, make_stage())
