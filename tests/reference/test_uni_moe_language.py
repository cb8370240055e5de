"""Our language model beside a slow one of Uni-MoE v1, 8e and 2.0 with the same weights, and each rule left out."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference.uni_moe_language import BOUNDS, Language, Weights, distance
from torch import Tensor
from transformers import DynamicCache

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.presets import text_config

D, WIDTH, SHARED, V, HEAD = 16, 12, 6, 40, 8
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "intermediate_size": WIDTH,
    "moe_intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
}
WIDE = 0.2
"""A tie so wide that many logits come within it; the released 0.01 is tried too."""
COMMON: dict[str, Any] = {"layers": 2, "heads": 4, "key_value_heads": 2, "sparse": (0, 1)}
V1 = Language("v1", experts=4, eps=1e-5, theta=1e4, **COMMON)
OMNI = Language("2.0", experts=4, nulls=1, shared=2, eps=1e-6, theta=1e6, sections=(2, 1, 1), tie=WIDE, **COMMON)
REFERENCES = {
    "uni-moe-4e-speech": V1,
    "uni-moe-4e-audio": replace(V1, sparse=(0,)),
    "uni-moe-8e": replace(V1, family="8e", experts=8),
    "uni-moe-2.0": OMNI,
}
FIELDS: dict[str, dict[str, Any]] = {
    "uni-moe-4e-speech": {},
    "uni-moe-4e-audio": {"moe_layers": [0]},
    "uni-moe-8e": {},
    "uni-moe-2.0": {
        "combine_weights": "near_tie",
        "sparsemixer_epsilon": WIDE,
        "shared_expert_intermediate_size": SHARED,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]},
    },
}


def shapes(reference: Language) -> dict[str, tuple[int, ...]]:
    """Names of the released files -> shapes of a small model."""
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,)}
    names["lm_head.weight"] = (V, D)
    for layer in range(reference.layers):
        start = f"model.layers.{layer}."
        names |= {f"{start}{name}_layernorm.weight": (D,) for name in ("input", "post_attention")}
        widths = {"q": reference.heads * HEAD, "k": reference.key_value_heads * HEAD}
        widths["v"] = widths["k"]
        names |= {f"{start}self_attn.{part}_proj.weight": (width, D) for part, width in widths.items()}
        names[f"{start}self_attn.o_proj.weight"] = (D, widths["q"])
        if reference.family == "2.0":
            names |= {f"{start}self_attn.{part}_proj.bias": (width,) for part, width in widths.items()}
        for expert, width in feed_forwards(reference, layer):
            names |= {f"{start}{expert}.{part}_proj.weight": (width, D) for part in ("gate", "up")}
            names[f"{start}{expert}.down_proj.weight"] = (D, width)
        if layer in reference.sparse:
            gate = "mlp.deepspeed_moe.gate.wg" if reference.family == "8e" else "mlp.gate"
            names[f"{start}{gate}.weight"] = (reference.experts + reference.nulls + reference.shared, D)
    return names


def feed_forwards(reference: Language, layer: int) -> list[tuple[str, int]]:
    """Names and widths of the feed-forwards of a layer: routed experts first."""
    if layer not in reference.sparse:
        return [("mlp", WIDTH)]
    folder = {
        "v1": "mlp.experts",
        "8e": "mlp.deepspeed_moe.experts.deepspeed_experts",
        "2.0": "mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts",
    }[reference.family]
    routed = [(f"{folder}.{expert}", WIDTH) for expert in range(reference.experts)]
    return [*routed, *((f"mlp.fixed_real_moe.{expert}", SHARED) for expert in range(reference.shared))]


def draw(reference: Language) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * (1.0 if "gate.w" in name else 0.4)
        for name, shape in shapes(reference).items()
    }


def under_our_names(weights: Weights, reference: Language) -> Weights:
    """The same weights as `UniMoEForCausalLM` holds them: experts stacked, shared ones side by side."""
    ours = {name: weight for name, weight in weights.items() if ".mlp." not in name}
    for layer in range(reference.layers):
        start, names = f"model.layers.{layer}.", [name for name, _ in feed_forwards(reference, layer)]
        gate, up, down = (
            [weights[f"{start}{name}.{part}_proj.weight"] for name in names] for part in ("gate", "up", "down")
        )
        if layer not in reference.sparse:
            parts = {"gate": gate[0], "up": up[0], "down": down[0]}
            ours |= {f"{start}mlp.{part}_proj.weight": weight for part, weight in parts.items()}
            continue
        count = reference.experts
        ours[f"{start}mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(gate[:count], up[:count], strict=True)]
        )
        ours[f"{start}mlp.experts.down_proj"] = torch.stack(down[:count])
        (router,) = (weight for name, weight in weights.items() if name.startswith(start) and "gate.w" in name)
        ours[f"{start}mlp.router.weight"] = router
        if reference.shared:
            ours[f"{start}mlp.shared_expert.gate_proj.weight"] = torch.cat(gate[count:])
            ours[f"{start}mlp.shared_expert.up_proj.weight"] = torch.cat(up[count:])
            ours[f"{start}mlp.shared_expert.down_proj.weight"] = torch.cat(down[count:], dim=1)
    return ours


def our_model(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> UniMoEForCausalLM:
    """The preset in small with the weights of its reference; rows of the router that a change leaves out are cut."""
    config: UniMoETextConfig = text_config(name, **{**SIZES, "pad_token_id": None, **FIELDS[name], **changes})
    model = UniMoEForCausalLM._from_config(config, dtype=dtype, experts_implementation="eager").eval()
    weights = under_our_names(draw(REFERENCES[name]), REFERENCES[name])
    held = model.state_dict()
    assert held.keys() <= weights.keys(), held.keys() - weights.keys()
    if not changes:
        assert held.keys() == weights.keys()
    model.load_state_dict({key: weights[key][: len(held[key])] for key in held})
    return model


IDS = torch.randint(0, V, (2, 10), generator=torch.Generator().manual_seed(1))
PLAIN = torch.arange(10).expand(2, 10)
OMNI_POSITIONS = torch.stack([PLAIN, PLAIN * 2 % 7 + PLAIN // 3, PLAIN // 2 + 1])  # (3, B, S)


def positions(name: str) -> Tensor:
    return OMNI_POSITIONS if name == "uni-moe-2.0" else PLAIN


def expected(
    name: str, dtype: torch.dtype = torch.float64, *, padding: tuple[int, int] = (0, 0), **rules: Any
) -> Tensor:
    weights = {key: weight.to(dtype) for key, weight in draw(REFERENCES[name]).items()}
    return replace(REFERENCES[name], **rules).logits(weights, IDS, positions(name), list(padding))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", REFERENCES)
@torch.no_grad()
def test_logits_are_those_of_the_slow_model(name: str, dtype: torch.dtype) -> None:
    ours = our_model(name, dtype)(IDS, position_ids=positions(name)).logits
    assert distance(ours, expected(name, dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ["uni-moe-8e", "uni-moe-2.0"])
@torch.no_grad()
def test_prefill_and_single_steps_on_a_cache_give_them_too(name: str, dtype: torch.dtype) -> None:
    model, cache, parts = our_model(name, dtype), DynamicCache(), []
    for begin, end in [(0, 6), *((step, step + 1) for step in range(6, 10))]:
        place = positions(name)[..., begin:end]
        parts.append(model(IDS[:, begin:end], position_ids=place, cache=cache, use_cache=True).logits)
    assert distance(torch.cat(parts, dim=1), expected(name, dtype)) <= BOUNDS[dtype]


@pytest.mark.parametrize("name", ["uni-moe-4e-speech", "uni-moe-2.0"])
@torch.no_grad()
def test_padding_in_front_changes_no_real_token(name: str) -> None:
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    ours = our_model(name)(IDS, position_ids=positions(name), attention_mask=mask).logits * mask[..., None]
    assert distance(ours, expected(name, padding=(0, 3))) <= BOUNDS[torch.float64]


@torch.no_grad()
def test_the_released_width_of_a_tie_gives_them_too() -> None:
    ours = our_model("uni-moe-2.0", sparsemixer_epsilon=0.01)(IDS, position_ids=OMNI_POSITIONS).logits
    assert distance(ours, expected("uni-moe-2.0", tie=0.01)) <= BOUNDS[torch.float64]


OTHERS = {
    "uni-moe-4e-speech": [
        {"norm_topk_prob": False},
        {"num_experts_per_tok": 1},
        {"rms_norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ],
    "uni-moe-8e": [{"norm_topk_prob": False}, {"num_experts_per_tok": 3}],
    "uni-moe-2.0": [
        {"combine_weights": "scores"},
        {"sparsemixer_epsilon": 0.01},
        {"router_top_p": 0.5},
        {"router_top_p": 0.9},
        {"num_experts_per_tok": 2},
        {"min_experts_per_tok": 3},
        {"shared_expert_weighting": "one"},
        {"rms_norm_eps": 1e-5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
        {"qkv_bias": False},
    ],
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, changes in OTHERS.items() for change in changes], ids=str
)
@torch.no_grad()
def test_no_rule_can_be_left_out(name: str, change: dict[str, Any]) -> None:
    ours = our_model(name, **change)(IDS, position_ids=positions(name)).logits
    assert distance(ours, expected(name)) > 10 * BOUNDS[torch.float64]


@torch.no_grad()
def test_a_null_keeps_its_share_of_the_weights() -> None:
    theirs = expected("uni-moe-2.0", near_ties=False, floor=0.0)
    kept, lost = (
        our_model("uni-moe-2.0", combine_weights="scores", null_experts_keep_mass=keeps)(
            IDS, position_ids=OMNI_POSITIONS
        ).logits
        for keeps in (True, False)
    )
    assert distance(kept, theirs) <= BOUNDS[torch.float64] and distance(lost, theirs) > 1e-3


@pytest.mark.parametrize("rule", [{"floor": 0.0}, {"tie": 0.0}, {"sections": None}, {"top_p": 1.0}], ids=str)
@torch.no_grad()
def test_the_slow_model_without_a_rule_of_2_0_is_another_one(rule: dict[str, Any]) -> None:
    ours = our_model("uni-moe-2.0")(IDS, position_ids=OMNI_POSITIONS).logits
    assert distance(ours, expected("uni-moe-2.0", **rule)) > BOUNDS[torch.float64]
