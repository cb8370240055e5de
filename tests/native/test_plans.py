"""Tensor, expert and pipeline parallelism: plans name what there is, and two processes answer as one does."""

import re

import pytest
import torch
from tiny import TEXT, tiny_model

from unimoe import UniMoEForCausalLM, UniMoETextConfig

TWO_WIDTHS = {
    "num_experts": 4,
    "modality_routing": "isolated",
    "expert_groups": {"text": [0, 1], "image": [2, 3]},
    "expert_group_intermediate_sizes": {"image": 8},
}
SPARSE = {"num_experts": 4, "shared_expert_intermediate_size": 8}
KINDS = {
    "dense": {},
    "all sparse": SPARSE,
    "a dense layer": {**SPARSE, "moe_layers": [1]},
    "norm by head": {**SPARSE, "qk_norm": "head"},
    "norm by projection": {**SPARSE, "qk_norm": "projection"},
    "router weighs shared": {**SPARSE, "num_shared_experts": 2, "shared_expert_weighting": "router"},
    "lora": {"num_experts": 4, "expert_type": "lora", "expert_rank": 2},
    "latent": {"num_experts": 4, "expert_type": "latent", "expert_latent_size": 8},
    "dense gradient": {**SPARSE, "router_gradient": "dense"},
    "two widths": TWO_WIDTHS,
}


def matches(pattern: str, names: set[str]) -> list[str]:
    regex = re.compile(re.escape(pattern).replace(r"\*", r"\d+") + "$")
    return [name for name in names if regex.match(name)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_of_a_plan_names_a_module_or_parameter(kind) -> None:
    with torch.device("meta"):
        model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, **KINDS[kind]))
    names = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    for plan in (model.tp_plan, model.ep_plan, model.pp_plan):
        for pattern in plan:
            assert matches(pattern, names), pattern
    assert "lm_head" in model.tp_plan and "model.layers.*.self_attn.q_proj" in model.tp_plan
    has_stacks = kind not in ("dense", "lora", "latent", "dense gradient")
    assert bool(model.ep_plan) == has_stacks
    assert any(style == "moe_tp_experts" for style in model.tp_plan.values()) == has_stacks


def test_the_multimodal_model_has_the_plan_of_its_language_model() -> None:
    model = tiny_model(**SPARSE)
    names = {name for name, _ in model.named_modules()} | {name for name, _ in model.named_parameters()}
    assert model.tp_plan["model.language_model.layers.*.mlp.experts"] == "moe_tp_experts"
    assert model.ep_plan["model.language_model.layers.*.mlp.experts"] == "ep_dispatch_experts"
    assert all(matches(pattern, names) for plan in (model.tp_plan, model.ep_plan) for pattern in plan)


def test_plans_are_not_saved(tmp_path) -> None:
    UniMoETextConfig(**TEXT, **SPARSE).save_pretrained(tmp_path)
    assert "plan" not in (tmp_path / "config.json").read_text()
