"""Merging whole models: copies come out as they were, others are measured, and what a class cannot express is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stock import make
from surgery.rows import measure_again, token_batches, write_rows
from tiny_model import save_tiny
from typer.testing import CliRunner

from unimoe.checkpoint.loading import load_model
from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery.damage import Answers
from unimoe.surgery.folders import Rows
from unimoe.surgery.merge import MergeWish, merge, merge_folder, similar_experts
from unimoe.surgery.mixture import sparse_layers
from unimoe.surgery.statistics import gather

STOCK = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "qwen3_vl_moe"]
CLONES = [0, 1, 0, 1]


@torch.no_grad()
def with_clones(kind: str, *, permuted: bool = False) -> Any:
    """Make a model of which experts 2 and 3 of each layer are copies of 0 and 1, with channels in another order."""
    model = make(kind)
    for layer in sparse_layers(model):
        experts = layer.experts
        width = experts.down_proj.shape[-1]
        order = torch.randperm(width) if permuted else torch.arange(width)
        for copy, own in enumerate(CLONES):
            if copy != own:
                experts.gate_up_proj[copy] = experts.gate_up_proj[own][torch.cat([order, order + width])]
                experts.down_proj[copy] = experts.down_proj[own][:, order]
    return model


@pytest.mark.parametrize("similarity", ["outputs", "weights"])
@pytest.mark.parametrize("kind", ["mlp", *STOCK])
def test_copies_are_found_and_merging_them_changes_nothing(kind: str, similarity: Any) -> None:
    model = with_clones(kind)
    found = gather(model, token_batches())
    aliases = similar_experts(model, found, 2, similarity=similarity)
    assert list(aliases.values()) == [CLONES, CLONES]
    merged = merge(model, aliases, counts=found.saliency.scores("frequency"))
    assert Answers.of(model, token_batches()).compare(merged).largest < 1e-6
    experts = sparse_layers(merged)[0].experts.gate_up_proj
    assert len(experts) == (2 if kind == "mlp" else 4)


def test_copies_with_channels_in_another_order_merge_exactly_if_aligned() -> None:
    model = with_clones("mlp", permuted=True)
    answers = Answers.of(model, token_batches())
    assert answers.compare(merge(model, {0: CLONES, 1: CLONES})).largest < 1e-6
    assert answers.compare(merge(model, {0: CLONES, 1: CLONES}, align=False)).largest > 1e-3


def test_rows_of_all_but_the_most_used_members_can_go() -> None:
    model = make("mixtral")
    counts = {0: torch.tensor([1, 2, 3, 1]), 1: torch.tensor([5, 1, 1, 2])}
    merged = merge(model, {0: [0, 0, 1, 1], 1: [0, 1, 1, 0]}, counts=counts, rows="drop")
    assert merged.config.num_local_experts == 2
    for layer, kept in zip(sparse_layers(merged), ([1, 2], [0, 1]), strict=True):
        before = sparse_layers(model)[layer.index].router.weight
        assert torch.equal(layer.router.weight, before[kept])


@pytest.mark.parametrize("kind", ["lora", "latent", "two widths", "gpt_oss"])
def test_experts_without_an_average_are_refused_by_name(kind: str) -> None:
    with pytest.raises(UniMoEError, match=r"layers\.0\.mlp: the experts are .*not plain gated feed-forwards"):
        merge(make(kind), {0: CLONES, 1: CLONES})


def test_layers_that_are_not_named_and_merging_twice_are_refused() -> None:
    model = make("mlp")
    with pytest.raises(UniMoEError, match=r"aliases: it names the layers \[0\]; the sparse layers are \[0, 1\]"):
        merge(model, {0: CLONES})
    with pytest.raises(UniMoEError, match="the experts were merged already"):
        merge(merge(model, {0: CLONES, 1: CLONES}), {0: CLONES, 1: CLONES})


def test_the_command_merges_a_folder_and_its_certificate_can_be_measured_again(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_experts=4, num_experts_per_tok=2)
    rows = write_rows(tmp_path / "data")
    command = ["merge", str(folder), str(tmp_path / "out"), "--data", str(rows), "--keep", "3"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert measure_again(folder, tmp_path / "out", rows).largest > 0
    merged = load_model(tmp_path / "out")
    assert merged.num_parameters() < load_model(folder).num_parameters()
    draft, none = merge_folder(folder, tmp_path / "no", rows=Rows(rows), wish=MergeWish(3), dry_run=True)
    assert none is None
    assert draft.losses[0]["speech"]["weight error"] > 0
