"""Latent experts of whole models: the error is the tail energy, stock classes are refused, certificates hold."""

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
from unimoe.surgery import Certificate
from unimoe.surgery.damage import Answers
from unimoe.surgery.latent import LatentWish, multiplied_out, to_latent
from unimoe.surgery.mixture import gated_stacks, sparse_layers
from unimoe.surgery.statistics import gather

STOCK = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "qwen3_vl_moe"]


def shared_space(rank: int, groups: int, order: list[int]) -> Any:
    """Make a model whose experts, group by group in this order, read and write spaces of a rank."""
    model = make("mlp")
    with torch.no_grad():
        for layer in sparse_layers(model):
            gate, up, down = gated_stacks(layer)
            for group in range(groups):
                members = order[group * 4 // groups : (group + 1) * 4 // groups]
                inside, outside = (torch.linalg.qr(torch.randn(32, rank))[0] for _ in range(2))
                for expert in members:
                    layer.experts.gate_up_proj[expert] = torch.cat([gate[expert], up[expert]]) @ inside @ inside.T
                    layer.experts.down_proj[expert] = outside @ outside.T @ down[expert]
    return model


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("groups", "order"), [(1, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (2, [0, 2, 1, 3])])
def test_experts_that_share_a_space_lose_nothing_whatever_their_order(
    groups: int, order: list[int], whiten: bool
) -> None:
    model = shared_space(8, groups, order)
    moments = gather(model, token_batches(), moments=True).moments if whiten else None
    latent, factors = to_latent(model, LatentWish(groups, rank=8), moments=moments)
    assert Answers.of(model, token_batches()).compare(latent).largest < 1e-4
    assert sum(own.parameters[1] for own in factors.values()) < sum(own.parameters[0] for own in factors.values())
    assert latent.config.expert_latent_size == 8


def test_the_error_of_the_weights_is_the_tail_energy() -> None:
    model = make("mlp")
    _, factors = to_latent(model, LatentWish(2, rank=10, multiple_of=1))
    for layer in sparse_layers(model):
        stacks = gated_stacks(layer)
        orders = [list(order) for order in ([0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2])]
        found = factors[layer.index]
        lost = [
            sum(
                float((before[order] - after).double().square().sum())
                for before, after in zip(stacks, own, strict=True)
            )
            for own in [multiplied_out(found.weights)]
            for order in orders
        ]
        assert min(lost) == pytest.approx(float(found.lost.sum()), rel=1e-4)


def test_an_error_budget_holds_in_every_layer() -> None:
    model = shared_space(6, 1, [0, 1, 2, 3])
    _, factors = to_latent(model, LatentWish(max_error=0.3))
    assert {own.weights["latent_gate"].shape for own in factors.values()} == {
        next(iter(factors.values())).weights["latent_gate"].shape
    }
    assert all(own.relative_error.max() <= 0.3 for own in factors.values())


@pytest.mark.parametrize("kind", STOCK)
def test_stock_classes_are_refused_unless_the_factors_are_multiplied_out(kind: str) -> None:
    model = make(kind)
    with pytest.raises(UniMoEError, match="no class of transformers has latent experts"):
        to_latent(model, LatentWish(rank=8))
    approximated, factors = to_latent(model, LatentWish(rank=8, materialize=True))
    assert type(approximated) is type(model)
    gate, up, _ = multiplied_out(factors[0].weights)
    torch.testing.assert_close(sparse_layers(approximated)[0].experts.gate_up_proj, torch.cat([gate, up], dim=1))


def test_a_size_that_kernels_do_not_take_is_refused() -> None:
    with pytest.raises(UniMoEError, match="A latent size of 10 is no multiple of 8"):
        to_latent(make("mlp"), LatentWish(2, rank=10))
    _, factors = to_latent(make("mlp"), LatentWish(2, ratio=0.9))
    assert factors[0].weights["latent_gate"].shape[1] == 16


def test_what_saves_nothing_is_refused_with_both_numbers() -> None:
    with pytest.raises(UniMoEError, match="have 10,752 parameters, and the 4 experts of width 24 have 9,216"):
        to_latent(make("mlp"), LatentWish(4, rank=16))


def test_the_command_makes_experts_latent_and_its_certificate_can_be_measured_again(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
    rows = write_rows(tmp_path / "data")
    command = ["latent", str(folder), str(tmp_path / "out"), "--data", str(rows), "--ratio", "0.6", "--groups", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    certificate = Certificate.load(tmp_path / "out")
    found = measure_again(folder, tmp_path / "out", rows)
    assert found.largest > 0
    old, new = certificate.details["expert_parameters"]
    assert load_model(folder).num_parameters() - load_model(tmp_path / "out").num_parameters() == old - new
