"""Recipes of upcycling: which of them compute what the dense model computed, and by how much the others miss it."""

from functools import cache
from typing import Any

import pytest
import torch
from tiny import tiny_inputs, tiny_model
from torch import Tensor

from unimoe import UniMoEForConditionalGeneration
from unimoe.moe import RoutingContext
from unimoe.surgery import Certificate, Recipe, assemble, upcycle

SLICES = Recipe(pieces=2, virtual_groups=False)
GROUPS = Recipe(pieces=2)
PARTITION = {"num_experts": 4, "num_experts_per_tok": 4, "recipe": Recipe(pieces=4, virtual_groups=False)}
EXACT: dict[str, dict[str, Any]] = {
    "copies": {},
    "virtual groups, one copy": {"recipe": GROUPS},
    "virtual groups, two copies": {"recipe": GROUPS, "num_experts_per_tok": 4},
    "shared slice": {"recipe": Recipe(shared_expert_intermediate_size=16)},
    "shared slice, virtual groups": {"recipe": Recipe(pieces=2, shared_expert_intermediate_size=16)},
    "nothing dropped": {"recipe": Recipe(drop_ratio=0.0)},
}
# Relative errors measured apart from this code, with E = 8, K = 2, router N(0, 0.02): settings, error.
INEXACT: dict[str, tuple[dict[str, Any], float]] = {
    "weights not renormalised": ({"norm_topk_prob": False}, 0.716),
    "scaled by E / K": ({"norm_topk_prob": False, "routed_scaling_factor": 4.0}, 0.147),
    "independent slices, one copy": ({"recipe": SLICES}, 0.75),
    "independent slices, two copies": ({"recipe": SLICES, "num_experts_per_tok": 4}, 0.42),
    "virtual groups, scaled by C / 1": (
        {"recipe": GROUPS, "norm_topk_prob": False, "routed_scaling_factor": 4.0},
        0.15,
    ),
    "virtual groups, scaled by C / 2": (
        {"recipe": GROUPS, "norm_topk_prob": False, "routed_scaling_factor": 2.0, "num_experts_per_tok": 4},
        0.09,
    ),
    "every slice of one copy": (PARTITION, 0.11),
    "a quarter dropped": ({"recipe": Recipe(drop_ratio=0.25)}, 0.52),
    "half dropped": ({"recipe": Recipe(drop_ratio=0.5)}, 0.78),
    "all dropped": ({"recipe": Recipe(drop_ratio=1.0)}, 1.23),
}


@cache
def dense_layer() -> UniMoEForConditionalGeneration:
    """A feed-forward of 64 channels on 32 dimensions, in float64."""
    return tiny_model(intermediate_size=64, num_hidden_layers=1).double()


def answers(model: UniMoEForConditionalGeneration, router_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """What the dense and the sparse feed-forward say of 500 tokens."""
    hidden = torch.randn(1, 500, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    block, mlp = (each.model.language_model.layers[0].mlp for each in (model, dense_layer()))
    with torch.no_grad():
        block.router.weight.mul_(router_scale)
        return mlp(hidden), block(hidden, RoutingContext(torch.zeros(500, dtype=torch.long)))


def relative_error(model: UniMoEForConditionalGeneration, router_scale: float = 1.0) -> float:
    expected, actual = answers(model, router_scale)
    return float((actual - expected).norm() / expected.norm())


def upcycled(settings: dict[str, Any], **more: Any) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    return upcycle(dense_layer(), **{"num_experts": 8, "num_experts_per_tok": 2, **settings, **more})


@pytest.mark.parametrize("router_scale", [1.0, 100.0])
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_recipe_computes_the_dense_feed_forward(name: str, router_scale: float) -> None:
    for seed in range(3):
        model, certificate = upcycled(EXACT[name], seed=seed)
        expected, actual = answers(model, router_scale)
        assert (actual - expected).abs().max() <= 1e-7 * expected.abs().max()
        assert certificate.kind == "exact" and certificate.difference <= 1e-7


@pytest.mark.parametrize("name", INEXACT)
def test_an_inexact_recipe_misses_it_by_what_was_measured_and_is_refused(name: str) -> None:
    settings, measured = INEXACT[name]
    errors = [relative_error(upcycled(settings, exact=False, seed=seed)[0]) for seed in range(3)]
    assert all(0.6 * measured < error < 1.4 * measured for error in errors)
    assert sum(errors) / 3 == pytest.approx(measured, rel=0.15)
    with pytest.raises(ValueError, match=r"not exact: .* by \d\S* of its largest output. Use .*exact=False"):
        upcycled(settings)
    assert upcycled(settings, exact=False)[1].kind == "measured"


@pytest.mark.parametrize("name", ["scaled by E / K", "every slice of one copy"])
def test_a_router_without_a_preference_makes_scaled_weights_exact(name: str) -> None:
    assert relative_error(upcycled(INEXACT[name][0], exact=False)[0], router_scale=0.0) <= 1e-7


def test_a_router_with_a_preference_weighs_the_slices_of_a_feed_forward_apart() -> None:
    errors = [relative_error(upcycled(PARTITION, exact=False, seed=seed)[0], router_scale=25) for seed in range(3)]
    assert all(1.0 < error < 1.8 for error in errors)


def test_slices_nulls_and_shared_experts_under_one_softmax_are_no_copy_of_the_dense_layer() -> None:
    """The start of Uni-MoE-2.0's preview: its experts add up to the feed-forward, but are not weighed so."""
    moe = {"router_type": "top_p", "router_top_p": 0.7, "num_null_experts": 1, "combine_weights": "near_tie"}
    moe |= {"num_shared_experts": 2, "shared_expert_intermediate_size": 8, "shared_expert_weighting": "router"}
    dense = dense_layer()
    kept = {"num_experts_per_tok": 5, "base_experts": 0, "pieces": 4, "modality_routing": "shared", "moe": moe}
    model, certificate = assemble(dense, {"text": dense}, **kept)
    assert certificate.kind == "exact"
    assert 0.75 < relative_error(model) < 0.9


@pytest.mark.parametrize("modality_routing", ["shared", "separate", "bias"])
@pytest.mark.parametrize("recipe", [GROUPS, Recipe(pieces=2, shared_expert_intermediate_size=8)], ids=str)
def test_exact_recipes_keep_the_logits_and_so_does_the_saved_model(recipe, modality_routing, tmp_path) -> None:
    dense = tiny_model()
    model, certificate = upcycle(
        dense, num_experts=6, num_experts_per_tok=4, recipe=recipe, modality_routing=modality_routing
    )
    for layer in model.model.language_model.layers:
        layer.mlp.router.weight.data.mul_(50)
    model.save_pretrained(tmp_path)
    certificate.save(tmp_path)
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path)
    with torch.no_grad():
        expected, actual, again = (each(**tiny_inputs(dense.config)).logits for each in (dense, model, loaded))
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(actual, again)
    assert Certificate.load(tmp_path).details["recipe"]["pieces"] == 2


@pytest.mark.parametrize("modality_routing", ["shared", "separate"])
def test_the_slices_of_a_copy_have_one_router_row_bit_for_bit(modality_routing: str) -> None:
    settings = {"num_experts": 8, "num_experts_per_tok": 4, "modality_routing": modality_routing}
    rows = upcycled({**settings, "recipe": Recipe(pieces=4)})[0].model.language_model.layers[0].mlp.router.weight
    copies = rows.unflatten(-2, (2, 4))  # (2 copies, 4 slices, D)
    assert torch.equal(copies, copies[..., :1, :].expand_as(copies))
    assert not torch.equal(copies[..., 0, 0, :], copies[..., 1, 0, :])


def test_dropping_draws_a_share_of_the_channels_of_each_expert_anew() -> None:
    model, _ = upcycled({"recipe": Recipe(drop_ratio=0.25)}, exact=False)
    mlp, experts = dense_layer().model.language_model.layers[0].mlp, model.model.language_model.layers[0].mlp.experts
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    dropped = (gate != mlp.gate_proj.weight).all(dim=-1)  # (E, I)
    assert dropped.sum(dim=-1).tolist() == [16] * 8
    assert len({tuple(row.tolist()) for row in dropped}) == 8  # others in each expert
    down = experts.down_proj.detach().mT
    for matrix, linear in ((gate, mlp.gate_proj.weight), (up, mlp.up_proj.weight), (down, mlp.down_proj.weight.T)):
        source = linear.detach()
        assert torch.equal((matrix != source).any(dim=-1), dropped)
        for expert, channels in enumerate(dropped):
            drawn, before = matrix[expert, channels], source[channels]
            assert 0.8 < drawn.std() / before.std() < 1.2
            assert (drawn.mean() - before.mean()).abs() < 4 * before.std() / drawn.numel() ** 0.5


def test_copies_teach_the_router_nothing_and_dropped_channels_teach_it() -> None:
    dense = tiny_model()
    inputs = tiny_inputs(dense.config)
    largest = {}
    for ratio in (0.0, 0.5):
        model, _ = upcycle(dense, recipe=Recipe(drop_ratio=ratio), exact=ratio == 0)
        model(**inputs, labels=inputs["input_ids"]).losses["language"].backward()
        largest[ratio] = float(model.model.language_model.layers[0].mlp.router.weight.grad.abs().max())
    assert largest[0.0] < 1e-6 < 1e-5 < largest[0.5]


def test_recipes_that_cannot_be_are_refused_with_both_numbers() -> None:
    for numbers, message in (
        ({"pieces": 0}, "pieces is 0"),
        ({"drop_ratio": 1.5}, "drop_ratio is 1.5"),
        ({"shared_expert_intermediate_size": -1}, "shared_expert_intermediate_size is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**numbers)
    for settings, message in (
        ({"recipe": Recipe(pieces=3)}, r"pieces \(3\) does not divide the 64 channels"),
        ({"recipe": GROUPS, "num_experts": 5}, r"pieces \(2\) does not divide num_experts \(5\)"),
        ({"recipe": GROUPS, "num_experts_per_tok": 3}, r"pieces \(2\) does not divide num_experts_per_tok \(3\)"),
        ({"recipe": Recipe(shared_expert_intermediate_size=64)}, r"\(64\) leaves the experts none of the 64"),
        ({"recipe": GROUPS, "expert_type": "lora"}, r"LoRA experts .* Recipe\(pieces=2"),
    ):
        with pytest.raises(ValueError, match=message):
            upcycled(settings)
    assert upcycled({"recipe": SLICES, "num_experts_per_tok": 3}, exact=False)[1].difference > 0.01
