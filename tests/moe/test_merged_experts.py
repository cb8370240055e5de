"""Merged experts: a smaller stack behind the same router, exact where the experts behind one were copies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TEXT
from torch import Tensor

from unimoe import UniMoEForCausalLM, UniMoETextConfig, experts_as_linears
from unimoe.analysis.describe import describe_sparse
from unimoe.moe import RoutingContext, SparseMoeBlock
from unimoe.moe.counting import count_parameters, count_per_token
from unimoe.surgery import audit

E = 6
ALIASES = [[0, 1, 0, 2, 1, 0], [0, 1, 2, 3, 4, 1]]  # three and five experts are left
IDS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(0))
ROUTERS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "not renormalised": {"norm_topk_prob": False},
    "sigmoid": {"scoring_func": "sigmoid", "balance_bias": True},
    "groups": {"scoring_func": "sigmoid", "n_group": 3},
    "hierarchical": {"router_type": "hierarchical", "n_group": 3},
    "top_p with nulls": {"router_type": "top_p", "router_top_p": 0.7, "num_null_experts": 2},
    "expert_choice": {"router_type": "expert_choice"},
    "capacity": {"capacity_factor": 0.7},
    "semi_isolated": {"modality_routing": "semi_isolated", "expert_groups": {"image": [0, 3], "text": [1, 2]}},
}


def make(dtype: torch.dtype = torch.float64, kernel: str = "eager", **fields: Any) -> UniMoEForCausalLM:
    config = UniMoETextConfig(**TEXT, num_experts=E, **fields)
    return UniMoEForCausalLM._from_config(config, dtype=dtype, experts_implementation=kernel).eval()


@torch.no_grad()
def copies_and_merged(dtype: torch.dtype = torch.float64, kernel: str = "eager", **fields: Any) -> list[Any]:
    """A model with copies among its experts, and the one in which each is there once."""
    torch.manual_seed(0)
    full, merged = make(dtype, kernel, **fields), make(dtype, kernel, expert_aliases=ALIASES, **fields)
    own = full.state_dict()
    for name, weights in merged.state_dict().items():
        if ".experts." in name:
            weights.normal_(std=0.3)
            own[name].copy_(weights[ALIASES[int(name.split(".")[2])]])
        else:
            weights.copy_(own[name].normal_(std=0.5) if weights.is_floating_point() else own[name])
    return [full, merged]


def outputs(model: Any) -> tuple[Tensor, Tensor]:
    """Logits, and which experts were chosen."""
    result = model(input_ids=IDS, output_router_logits=True)
    return result.logits, torch.stack(list(result.expert_mask))


@pytest.mark.parametrize("k", range(1, E + 1))
@pytest.mark.parametrize("router", ROUTERS)
def test_where_copies_are_merged_logits_and_choices_stay_for_any_k(router: str, k: int) -> None:
    fields = ROUTERS[router] | ({"topk_group": (k + 1) // 2} if "n_group" in ROUTERS[router] else {})
    with torch.no_grad():
        (logits, chosen), (found, own) = map(outputs, copies_and_merged(**fields, num_experts_per_tok=k))
    torch.testing.assert_close(found, logits, rtol=1e-12, atol=1e-12)
    assert torch.equal(own, chosen) and own.shape[-1] >= E


def test_a_hash_table_sends_tokens_to_merged_experts_too() -> None:
    with torch.no_grad():
        full, merged = copies_and_merged(router_type="hash", num_experts_per_tok=1)
        torch.testing.assert_close(outputs(merged)[0], outputs(full)[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("router", ["softmax", "top_p with nulls"])
def test_every_kernel_reads_the_merged_stack(kernel: str, router: str) -> None:
    with torch.no_grad():
        full, merged = copies_and_merged(torch.float32, kernel, **ROUTERS[router], num_experts_per_tok=4)
        torch.testing.assert_close(outputs(merged)[0], outputs(full)[0], rtol=1e-4, atol=1e-4)
        expected = outputs(merged)[0]
        experts_as_linears(merged)
        torch.testing.assert_close(outputs(merged)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
def test_a_slot_without_an_expert_asks_none_of_the_merged_ones(kernel: str) -> None:
    model = make(torch.float32, kernel, expert_aliases=ALIASES, num_null_experts=1)
    block, tokens = model.model.layers[0].mlp, torch.randn(5, TEXT["hidden_size"])
    index = torch.tensor([[E, E], [E, 3], [1, E], [4, 5], [E, E]])
    context = RoutingContext(torch.zeros(5, dtype=torch.long))
    routing = block.router(tokens, context)._replace(top_k_index=index, top_k_weights=(index < E).float())
    before = block.routed_output(tokens, routing, context)
    block.experts.down_proj.data[0] = float("nan")  # answers for 0, 2 and 5
    after = block.routed_output(tokens, routing, context)
    assert torch.equal(after[[0, 4]], torch.zeros_like(tokens[:2])) and after[3].isnan().all()
    assert torch.equal(after[:3], before[:3]) and (before[1:3] != 0).any(dim=-1).all()


@pytest.mark.parametrize("gradient", ["plain", "dense"])
def test_a_router_learns_from_merged_experts_what_it_learns_from_copies(gradient: str) -> None:
    learned = []
    for model in copies_and_merged(router_gradient=gradient, router_losses={"expert_overlap": 0.1}):
        model.train()
        model(input_ids=IDS, labels=IDS).loss.backward()
        learned.append([layer.mlp.router.weight.grad for layer in model.model.layers])
    for full, merged in zip(*learned, strict=True):
        assert full.abs().max() > 0
        torch.testing.assert_close(merged, full, rtol=1e-9, atol=1e-12)


def test_merged_experts_count_once_and_are_computed_as_often_as_they_are_asked() -> None:
    full, merged = make(num_experts_per_tok=4), make(num_experts_per_tok=4, expert_aliases=ALIASES)
    one = 3 * TEXT["hidden_size"] * TEXT["intermediate_size"]
    counts = count_parameters(merged)
    assert counts["total"] == sum(p.numel() for p in merged.parameters()) == count_parameters(full)["total"] - 4 * one
    assert counts["total"] - counts["active"] == one  # a token meets all of three experts, and four of five
    before, after = count_per_token(full)["text"], count_per_token(merged)["text"]
    assert after.flops == before.flops and after.parameters == before.parameters - one


def test_an_audit_names_the_merged_experts() -> None:
    merged = make(expert_aliases=ALIASES)
    found = audit(merged, [name for name, _ in merged.named_parameters() if ".layers.0.mlp.experts." in name])
    numbers = {entry.expert for entry in found.entries if entry.part == "experts" and entry.touched}
    assert numbers == {"0", "1", "2"}
    assert [place for place in found.untouched_experts() if place[0] == 1] == [(1, str(n)) for n in range(5)]


def test_a_merged_model_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    _, merged = copies_and_merged(torch.float32)
    merged.save_pretrained(tmp_path)
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path, experts_implementation="eager")
    assert loaded.config.expert_aliases == ALIASES
    with torch.no_grad():
        assert torch.equal(outputs(loaded)[0], outputs(merged)[0])


def test_a_description_names_the_merged_and_a_plan_shards_them_by_channel_alone() -> None:
    config = make(expert_aliases=ALIASES).config
    assert dict(describe_sparse(config))["experts"] == "6 of width 48, merged to 3, 5"
    stacks = [name for name in config.base_model_tp_plan if ".experts" in name]
    assert len(stacks) == 3 and not config.base_model_ep_plan


def test_the_map_of_a_layer_is_that_of_its_place_among_the_sparse_ones() -> None:
    model = make(moe_layers=[1], expert_aliases=[ALIASES[0]])
    blocks = [module for module in model.modules() if isinstance(module, SparseMoeBlock)]
    assert [block.experts.num_experts for block in blocks] == [3] and blocks[0] is model.model.layers[1].mlp


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"expert_type": "lora"}, "expert_aliases is for experts of expert_type='mlp'"),
        ({"expert_type": "latent"}, "expert_aliases is for experts of expert_type='mlp'"),
        (
            {**ROUTERS["semi_isolated"], "expert_group_intermediate_sizes": {"image": 8}},
            "expert_type='mlp' and of one width",
        ),
        ({"router_type": "soft"}, "router_type='soft' chooses no experts"),
        ({"expert_aliases": [ALIASES[0]]}, r"expert_aliases has 1 list\(s\) for 2 sparse layer\(s\)"),
        ({"expert_aliases": [[0, 1], ALIASES[1]]}, r"expert_aliases\[0\] has 2 entries for 6 experts"),
        ({"expert_aliases": [ALIASES[0], [0, 0, 0, 2, 2, 2]]}, r"expert_aliases\[1\] names the experts \[0, 2\]"),
        ({"expert_aliases": [ALIASES[0], [-1, 0, 0, 1, 1, 1]]}, r"names the experts \[-1, 0, 1\] of the stack"),
    ],
)
def test_maps_that_cannot_be_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        UniMoETextConfig(**{**TEXT, "num_experts": E, "expert_aliases": ALIASES, **fields})
