"""Mixtures become dense: what the algebra says is exact is exact, and what is not is refused with the difference."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_inputs, tiny_model
from torch import Tensor

from unimoe import UniMoEForConditionalGeneration, experts_as_linears, fold_experts
from unimoe.moe import SparseMoeBlock
from unimoe.surgery import Certificate, Recipe, densify, upcycle

MIXTURE = {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 24}
SHARED = {"num_shared_experts": 2, "shared_expert_intermediate_size": 8}
CONSTANT: dict[str, dict[str, Any]] = {  # the weights of every token are the same once routers and gates are 0
    "experts": {},
    "lora": {"expert_type": "lora"},
    "latent": {"expert_type": "latent", "expert_latent_groups": 2},
    "shared": SHARED,
    "shared, by a sigmoid": {**SHARED, "shared_expert_weighting": "sigmoid"},
    "shared, by the router": {**SHARED, "shared_expert_weighting": "router"},
    "nulls": {"num_null_experts": 2, "num_experts_per_tok": 6},
    "scaled scores": {"norm_topk_prob": False, "routed_scaling_factor": 2.5},
    "a router for each modality": {"modality_routing": "separate"},
    "merged": {"expert_aliases": [[0, 1, 0, 1], [0, 0, 0, 1]]},
    "a dense layer": {"moe_layers": [1]},
}


def mixture(seed: int = 0, **text: Any) -> UniMoEForConditionalGeneration:
    return tiny_model(seed, **{**MIXTURE, **text})


def without_preference(model: UniMoEForConditionalGeneration) -> UniMoEForConditionalGeneration:
    for name, parameter in model.named_parameters():
        if ".router." in name or "shared_expert_gate" in name:
            parameter.data.zero_()
        elif name.endswith(("gate_b", "up_b", "down_b")):  # LoRA experts begin equal
            torch.nn.init.normal_(parameter.data, std=0.02)
    return model


def block_of(model: UniMoEForConditionalGeneration) -> SparseMoeBlock:
    return model.model.language_model.layers[0].mlp


def expert(block: SparseMoeBlock, index: int, token: Tensor) -> Tensor:
    gate, up = (half @ token for half in block.experts.gate_up_proj[index].chunk(2))
    return block.experts.down_proj[index] @ (F.silu(gate) * up)


def mixed(block: SparseMoeBlock, token: Tensor, top_k: int, scale: float) -> Tensor:
    """What a block says of one token (D,): the `top_k` likeliest experts, renormalised, and the shared expert."""
    scores = (block.router.weight @ token).exp()
    chosen = sorted(range(len(scores)), key=lambda index: -float(scores[index]))[:top_k]
    total = sum(scores[index] for index in chosen)
    answer = sum(scores[index] / total * scale * expert(block, index, token) for index in chosen)
    shared = block.shared_expert
    inner = F.silu(shared.gate_proj.weight @ token) * (shared.up_proj.weight @ token)
    return answer + shared.down_proj.weight @ inner


def compare(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def logits_differ(one: UniMoEForConditionalGeneration, other: UniMoEForConditionalGeneration) -> float:
    inputs = tiny_inputs(one.config)
    with torch.no_grad():
        return compare(*(model(**inputs).logits for model in (other, one)))


@torch.no_grad()
def test_equal_weights_of_all_experts_are_one_wide_feed_forward() -> None:
    model = without_preference(mixture(**SHARED, routed_scaling_factor=2.5)).double()
    dense, certificate = densify(model)
    tokens = torch.randn(500, 32, dtype=torch.float64)
    expected = torch.stack([mixed(block_of(model), token, 4, 2.5) for token in tokens])
    assert compare(block_of(dense)(tokens), expected) <= 1e-7
    assert certificate.kind == "exact" and certificate.difference <= 1e-7
    assert dense.config.text_config.intermediate_size == 4 * 24 + 2 * 8


@torch.no_grad()
def test_experts_are_put_together_by_given_weights_averaged_or_taken_out() -> None:
    model = mixture(num_experts_per_tok=2, routed_scaling_factor=2.5).double()
    block, weights, tokens = block_of(model), [1.0, 2.0, 0.0, 5.0], torch.randn(50, 32, dtype=torch.float64)
    wide = block_of(densify(model, weights=weights, exact=False)[0])
    expected = [sum(w / 8 * 2.5 * expert(block, e, token) for e, w in enumerate(weights)) for token in tokens]
    assert compare(wide(tokens), torch.stack(expected)) <= 1e-7
    mean = block_of(densify(model, how="average", weights=weights, exact=False)[0])
    gate = sum(w / 8 * block.experts.gate_up_proj[e, :24] for e, w in enumerate(weights))
    down = sum(w / 8 * 2.5 * block.experts.down_proj[e] for e, w in enumerate(weights))
    torch.testing.assert_close((mean.gate_proj.weight, mean.down_proj.weight), (gate, down))
    single = block_of(densify(model, how="extract", expert=3, exact=False)[0])
    expected = [2.5 * expert(block, 3, token) for token in tokens]
    assert compare(single(tokens), torch.stack(expected)) <= 1e-7


@torch.no_grad()
def test_without_weights_each_expert_has_the_mean_weight_that_the_router_gives_it() -> None:
    model = mixture().double()
    block = block_of(model)
    block.router.weight.mul_(20)
    states = torch.randn(20_000, 32, dtype=torch.float64)
    gates = (states @ block.router.weight.T).softmax(-1).mean(0)
    down = block_of(densify(model, exact=False)[0]).down_proj.weight.unflatten(1, (4, 24))
    found = (down * block.experts.down_proj.transpose(0, 1)).sum((0, 2)) / block.experts.down_proj.pow(2).sum((1, 2))
    torch.testing.assert_close(found, gates, atol=0.1, rtol=0)  # of 64 states
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", CONSTANT)
def test_a_mixture_of_constant_weights_keeps_its_logits_side_by_side(name: str) -> None:
    model = without_preference(mixture(**CONSTANT[name]))
    dense, certificate = densify(model)
    assert certificate.kind == "exact"
    assert logits_differ(model, dense) <= 1e-5


@pytest.mark.parametrize("how", ["average", "extract", "concatenate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_upcycled_exactly_comes_back(how: str, dtype: torch.dtype) -> None:
    dense = tiny_model().to(dtype)
    recipe = Recipe(shared_expert_intermediate_size=16)
    model, _ = upcycle(dense, num_experts=3, recipe=recipe)
    again, certificate = densify(model, how=how, expert=2 if how == "extract" else None)
    assert certificate.kind == "exact"
    assert logits_differ(dense, again) <= (1e-5 if dtype == torch.float32 else 3e-2)
    assert again.config.text_config.intermediate_size == (48 if how != "concatenate" else 16 + 3 * 32)


def test_virtual_groups_come_back_side_by_side_though_a_token_takes_half_of_them() -> None:
    dense = tiny_model()
    again, certificate = densify(upcycle(dense, num_experts=8, num_experts_per_tok=4, recipe=Recipe(pieces=2))[0])
    assert certificate.kind == "exact" and logits_differ(dense, again) <= 1e-5


@pytest.mark.parametrize("how", ["concatenate", "average", "extract"])
def test_what_is_not_exact_is_refused_with_its_difference_or_measured(how: str) -> None:
    model = mixture(num_experts_per_tok=2)
    settings: dict[str, Any] = {"how": how, "expert": 0 if how == "extract" else None}
    with pytest.raises(ValueError, match=r"not exact: .* by \d\S* of .* exact where .* exact=False"):
        densify(model, **settings)
    dense, certificate = densify(model, exact=False, **settings)
    assert certificate.kind == "measured" and certificate.difference > 1e-2
    assert logits_differ(model, dense) > 1e-4


def test_nearly_equal_experts_are_not_called_exact_in_bfloat16() -> None:
    model, _ = upcycle(tiny_model().to(torch.bfloat16), noise=0.005, exact=False)
    with pytest.raises(ValueError, match="not exact"):
        densify(model, how="average")


@torch.no_grad()
def test_an_expert_of_another_width_is_found_by_its_index() -> None:
    groups = {"text": [0, 2], "image": [1, 3]}
    model = mixture(
        num_experts_per_tok=2,
        modality_routing="isolated",
        expert_groups=groups,
        expert_group_intermediate_sizes={"image": 8},
    ).double()
    tokens = torch.randn(50, 32, dtype=torch.float64)
    dense = densify(model, how="extract", expert=3, exact=False)[0]
    assert dense.config.text_config.intermediate_size == 8
    expected = block_of(model).experts.expert_output(3, tokens)
    assert compare(block_of(dense)(tokens), expected) <= 1e-7
    assert densify(model, exact=False)[0].config.text_config.intermediate_size == 2 * 24 + 2 * 8
    with pytest.raises(ValueError, match=r"\[8, 24\] channels wide"):
        densify(model, how="average", exact=False)


def test_the_mixture_stays_as_it_is_and_chance_in_training_plays_no_part() -> None:
    model = mixture(router_type="noisy_top_k", router_jitter_noise=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, other = (densify(model, exact=False)[1].difference for _ in range(2))
    assert one == other
    assert model.training and block_of(model).training and block_of(model).config._experts_implementation != "eager"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_result_is_a_dense_model_that_is_saved_and_loaded(tmp_path) -> None:
    model = without_preference(mixture(**SHARED, output_router_logits=True))
    model.save_pretrained(tmp_path / "moe")
    dense, certificate = densify(tmp_path / "moe")
    dense.save_pretrained(tmp_path / "dense")
    certificate.save(tmp_path / "dense")
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path / "dense")
    text = loaded.config.text_config
    assert (text.num_experts, text.shared_expert_intermediate_size, text.output_router_logits) == (0, 0, None)
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert torch.equal(dense(**inputs).logits, loaded(**inputs).logits)
    assert Certificate.load(tmp_path / "dense").details["mixture"] == str(tmp_path / "moe")
    upcycle(loaded)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ({"num_experts": 0}, {}, "has no experts"),
        ({"router_type": "expert_choice"}, {}, "each expert chooses among all tokens"),
        ({"router_type": "soft"}, {}, "every slot mixes all tokens"),
        ({"capacity_factor": 1.0}, {}, "capacity_factor lets the tokens"),
        ({}, {"how": "sum"}, "how is 'sum'; choose concatenate, average, extract"),
        ({}, {"how": "extract"}, "expert is the index"),
        ({}, {"expert": 1}, "expert is the index"),
        ({}, {"how": "extract", "expert": 4}, "expert is 4, but there are 4"),
        ({}, {"how": "extract", "expert": 1, "weights": [1] * 4}, "'extract' takes one expert"),
        ({}, {"weights": [1, 2]}, r"Found 2 weight\(s\) for 4 experts"),
        ({}, {"weights": [1, 1, -1, 1]}, "none may be negative"),
    ],
    ids=str,
)
def test_what_cannot_be_densified_is_refused_by_name(text, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        densify(mixture(**text), **settings)


def test_experts_seen_as_linear_maps_are_refused_until_they_are_folded() -> None:
    model = without_preference(mixture())
    experts_as_linears(model)
    with pytest.raises(ValueError, match="Call fold_experts first"):
        densify(model)
    fold_experts(model)
    assert densify(model)[1].kind == "exact"
