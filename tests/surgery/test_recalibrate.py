"""Recalibration: the divergence never rises, and nothing but routers changes."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import make
from surgery.rows import token_batches, write_rows
from tiny_model import save_tiny
from typer.testing import CliRunner

from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery import Certificate, audit_change
from unimoe.surgery.damage import Answers
from unimoe.surgery.mixture import sparse_layers
from unimoe.surgery.prune import prune
from unimoe.surgery.recalibrate import recalibrate


@pytest.mark.parametrize("learning_rate", [1e-2, 30.0])
@pytest.mark.parametrize("kind", ["mlp", "mixtral", "qwen3_moe", "qwen3_vl_moe"])
def test_routers_alone_change_and_no_step_raises_the_divergence(kind: str, learning_rate: float) -> None:
    model = make(kind)
    answers = Answers.of(model, token_batches())
    pruned = prune(model, {layer.index: [0, 1, 2] for layer in sparse_layers(model)})
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    found = recalibrate(pruned, answers, steps=6, learning_rate=learning_rate)
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[-1] < found[0] or learning_rate == 30
    compared = answers.compare(pruned).by_modality["text"].divergence
    assert found[-1] == pytest.approx(compared, rel=1e-3, abs=1e-6)
    touched = audit_change(before, pruned).by_part()
    assert {part for part, (_, own, _) in touched.items() if own} <= {"router"}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pruned.parameters())


@pytest.mark.parametrize(("steps", "rate"), [(0, 1e-3), (1, 0.0)])
def test_what_would_change_nothing_is_refused(steps: int, rate: float) -> None:
    model = make("mlp")
    with pytest.raises(UniMoEError, match="change nothing"):
        recalibrate(model, Answers.of(model, token_batches()), steps=steps, learning_rate=rate)


def test_the_command_brings_a_pruned_model_nearer_to_the_one_before(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_experts=4, num_experts_per_tok=2)
    rows = ["--data", str(write_rows(tmp_path / "data"))]
    run("prune", str(folder), str(tmp_path / "pruned"), *rows, "--keep", "2")
    options = [*rows, "--like", str(folder), "--steps", "4", "--learning-rate", "0.01"]
    printed = run("recalibrate", str(tmp_path / "pruned"), str(tmp_path / "out"), *options)
    assert "step 4 of 4: divergence" in printed
    before, after = Certificate.load(tmp_path / "pruned"), Certificate.load(tmp_path / "out")
    assert divergence(after) < divergence(before)
    touched = audit_change(tmp_path / "pruned", tmp_path / "out").by_part()
    assert [part for part, (_, own, _) in touched.items() if own] == ["router"]


def test_the_command_adapts_routers_alone(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_experts=4, num_experts_per_tok=2)
    rows = ["--data", str(write_rows(tmp_path / "data"))]
    printed = run("adapt", str(folder), str(tmp_path / "out"), *rows, "--steps", "4", "--learning-rate", "0.01")
    assert "loss" in printed
    damage = Certificate.load(tmp_path / "out").details["damage"]
    assert sum(own["loss_after"] for own in damage.values()) < sum(own["loss_before"] for own in damage.values())
    touched = audit_change(folder, tmp_path / "out").by_part()
    assert [part for part, (_, own, _) in touched.items() if own] == ["router"]
    again = CliRunner().invoke(app, ["adapt", str(folder), str(tmp_path / "no"), *rows, "--parts", "rooter"])
    assert again.exit_code == 2 and "the model has no 'rooter'" in again.output


def divergence(certificate: Certificate) -> float:
    damage: dict[str, Any] = certificate.details["damage"]
    return float(torch.tensor([own["divergence"] * own["tokens"] for own in damage.values()]).sum())


def run(*command: str) -> str:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output
