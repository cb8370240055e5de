"""A recipe that extends a mixture by a modality or a task: data alone says it, and all other tensors stay."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tiny import tiny_model
from typer.testing import CliRunner

from training.__main__ import app
from training.config.recipe import load_recipe
from training.config.stage import ExtendConfig
from training.config.train import TrainConfig
from training.monitor.metrics_file import METRICS_FILE, read_metrics
from training.planning.models import DescribedRecipe
from training.trainable.parts import turn_task_on
from unimoe.checkpoint.loading import load_mixture
from unimoe.errors import ConfigError
from unimoe.surgery import Certificate, audit_change

NEW = ["reserved_experts.speech", "reserved_router.speech", "encoders.speech", "connectors.speech"]


def test_a_stage_trains_what_is_new_and_changes_no_other_tensor(workspace, make_sparse, tmp_path: Path) -> None:
    base, output = make_sparse(modality_routing="bias"), tmp_path / "extended"
    recipe = {
        "output": str(tmp_path),
        "stages": {
            "extended": {
                "start": {"extend": {"base": base, "modality": "speech", "num_experts": 3}},
                "train": {"parts": NEW},
                "data": {"mixture": [f"{workspace}/data/spoken_word_train.jsonl"]},
                "trainer": {
                    "max_steps": 2,
                    "per_device_train_batch_size": 4,
                    "learning_rate": 0.01,
                    "weight_decay": 0.5,
                    "report_to": "none",
                },
            }
        },
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))  # JSON is YAML
    planned = DescribedRecipe().begin(load_recipe(file).stages["extended"])
    done = CliRunner().invoke(app, [str(file)])
    assert done.exit_code == 0, done.output[-2000:]
    assert Certificate.load(output).details["stage"]["train"]["parts"] == NEW
    model, _ = load_mixture(output)
    assert planned.config.text_config.reserved_experts == model.config.text_config.reserved_experts
    found = audit_change(base, output)
    moved = {part for part, (_, touched, _) in found.by_part().items() if touched}
    assert moved == {"encoders", "connectors"} and not found.gone
    before, _ = load_mixture(base)
    new, own = model.state_dict(), {name for part in NEW for name in model.parts()[part]}
    old = {name for name, value in before.state_dict().items() if torch.equal(value, new[name])}
    assert old >= before.state_dict().keys() - own
    assert all(".speech." in name for name in new.keys() - old)


def test_stages_train_the_experts_of_a_task_with_the_task_on(workspace, make_sparse, tmp_path: Path) -> None:
    base, own = make_sparse(modality_routing="bias"), ["reserved_experts.task_ocr", "reserved_router.task_ocr"]
    trainer = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "weight_decay": 0.5,
        "logging_steps": 1,
        "report_to": "none",
    }
    stage = {
        "train": {"parts": own},
        "data": {"mixture": [f"{workspace}/data/image_kind_train.jsonl"]},
        "trainer": trainer,
    }
    first, second = tmp_path / "first", tmp_path / "second"
    stages = {
        "first": {**stage, "start": {"extend": {"base": base, "task": "ocr", "num_experts": 2}}},
        "second": {**stage, "start": str(first)},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"output": str(tmp_path), "stages": stages}))
    done = CliRunner().invoke(app, [str(file)])
    assert done.exit_code == 0, done.output[-2000:]
    assert Certificate.load(first).details["stage"]["train"]["parts"] == own
    for before, after in ((base, first), (first, second)):
        (old, _), (new, _) = load_mixture(before), load_mixture(after)
        moved = {name for name, value in old.state_dict().items() if not torch.equal(value, new.state_dict()[name])}
        assert moved == ({name for part in own for name in old.parts()[part]} if before == first else set())
        logs = [log for log in read_metrics(after / METRICS_FILE) if "load" in log]
        assert all(sum(layer[4:6]) > 0 for log in logs for layer in log["load"]["text"])


def test_experts_of_two_tasks_do_not_train_at_once() -> None:
    model = tiny_model(num_experts=4, reserved_experts={"task_ocr": [2], "task_asr": [3]})
    turn_task_on(model, TrainConfig(parts=["reserved_router.task_asr"]))
    assert model.config.text_config.active_task == "asr"
    with pytest.raises(ConfigError, match="experts of ocr and asr would train, and one task is on at a time"):
        turn_task_on(model, TrainConfig(parts=["reserved_experts"]))
    turn_task_on(model, TrainConfig(parts=["connectors"]))
    assert model.config.text_config.active_task is None


@pytest.mark.parametrize("given", [{}, {"modality": "speech", "task": "ocr"}])
def test_a_stage_extends_by_either_a_modality_or_a_task(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either a modality or a task"):
        ExtendConfig(base="model", **given)
