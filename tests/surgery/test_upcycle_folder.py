"""Upcycling from folder to folder: the model that is upcycled in memory, and what fails leaves nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import save_tiny
from typer.testing import CliRunner

from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.cli import app
from unimoe.surgery import Certificate, Recipe, upcycle
from unimoe.surgery.upcycle import upcycle_folder

OPTIONS: dict[str, dict[str, Any]] = {
    "copies": {},
    "virtual groups and a shared slice": {
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "recipe": Recipe(pieces=2, shared_expert_intermediate_size=8),
    },
    "drawn anew": {"recipe": Recipe(drop_ratio=0.5), "exact": False},
    "lora": {"expert_type": "lora", "modality_routing": "bias"},
    "one layer": {"moe_layers": [1], "noise": 0.1, "exact": False},
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("dense") / "model", intermediate_size=24)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_folder_holds_the_model_that_is_upcycled_in_memory(
    options: str, tied: bool, dense: Path, tmp_path: Path
) -> None:
    if tied:
        dense = save_tiny(tmp_path / "dense", intermediate_size=24, tie_word_embeddings=True)
    draft, certificate = upcycle_folder(dense, tmp_path / "out", **OPTIONS[options])
    expected, theirs = upcycle(load_model(dense), **OPTIONS[options])
    model = load_model(tmp_path / "out")
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert certificate is not None
    assert (
        certificate.difference == theirs.difference == max(own["all"]["difference"] for own in draft.losses.values())
    )
    assert Certificate.load(tmp_path / "out") == certificate
    load_processor(tmp_path / "out", model.config)


def test_the_commands_make_a_mixture_and_a_dense_model_of_it_again(dense: Path, tmp_path: Path) -> None:
    run("upcycle", str(dense), str(tmp_path / "mixture"), "--experts", "3", "--top-k", "3")
    printed = run("densify", str(tmp_path / "mixture"), str(tmp_path / "dense"), "--how", "average")
    assert "exact: " in printed
    before, after = load_model(dense), load_model(tmp_path / "dense")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(after(input_ids=ids).logits, before(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


def test_a_dry_run_and_what_is_not_exact_write_nothing(dense: Path, tmp_path: Path) -> None:
    printed = run("upcycle", str(dense), str(tmp_path / "out"), "--inexact", "--drop-ratio", "0.5", "--dry-run")
    assert "difference" in printed
    result = CliRunner().invoke(app, ["upcycle", str(dense), str(tmp_path / "out"), "--drop-ratio", "0.5"])
    assert result.exit_code == 2
    assert "This upcycling is not exact" in result.output
    assert not list(tmp_path.iterdir())


def run(*command: str) -> str:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output
