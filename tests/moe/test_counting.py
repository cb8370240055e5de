"""Counts equal the sizes of tensors, and the operations that torch counts."""

import re

import pytest
import torch
from tiny import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from unimoe import Modality
from unimoe.moe import SparseMoeBlock
from unimoe.moe.counting import count_parameters, count_per_token


def test_a_dense_model_is_all_active() -> None:
    model = tiny_model()
    counts = count_parameters(model)
    assert counts["active"] == counts["total"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("experts", "top_k", "nulls"), [(4, 1, 0), (4, 2, 1), (3, 3, 0), (2, 3, 2)])
def test_only_the_experts_that_a_token_is_not_sent_to_are_left_out(experts: int, top_k: int, nulls: int) -> None:
    model = tiny_model(num_experts=experts, num_experts_per_tok=top_k, num_null_experts=nulls)
    text = model.config.text_config
    expert = 3 * text.hidden_size * text.moe_intermediate_size
    counts = count_parameters(model)
    assert counts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["total"] - counts["active"] == text.num_hidden_layers * expert * max(experts - top_k, 0)


@pytest.mark.parametrize(
    ("moe", "one"),
    [
        ({"expert_type": "lora", "expert_rank": 4}, 3 * 4 * (32 + 48)),
        ({"expert_type": "latent", "expert_latent_size": 6, "expert_latent_groups": 2}, 3 * 6 * 48),
        ({"num_shared_experts": 2, "shared_expert_intermediate_size": 8}, 3 * 32 * 48),
        ({"router_type": "top_p", "router_top_p": 0.1}, 3 * 32 * 48),
    ],
    ids=str,
)
def test_of_every_family_all_but_k_experts_are_left_out(moe, one) -> None:
    model = tiny_model(num_experts=6, num_experts_per_tok=2, **moe)
    counts = count_parameters(model)
    assert counts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["total"] - counts["active"] == model.config.text_config.num_hidden_layers * one * (6 - 2)


def test_of_two_widths_the_small_experts_are_left_out_first() -> None:
    groups = {"modality_routing": "isolated", "expert_groups": {"text": [0, 1], "image": [2, 3, 4]}}
    model = tiny_model(num_experts=5, num_experts_per_tok=2, **groups, expert_group_intermediate_sizes={"image": 12})
    counts, costs = count_parameters(model), count_per_token(model)
    layers = model.config.text_config.num_hidden_layers
    assert counts["total"] - counts["active"] == layers * 3 * (3 * 32 * 12)
    own = sum(p.numel() for name, p in model.named_parameters() if ".image." in name)
    assert costs["text"].parameters - (costs["image"].parameters - own) == layers * 2 * 3 * 32 * (48 - 12)
    assert costs["text"].flops - costs["image"].flops == layers * 2 * 2 * 3 * 32 * (48 - 12)


def test_one_expert_of_the_dense_width_differs_from_dense_by_the_router_alone() -> None:
    dense, sparse = tiny_model(), tiny_model(num_experts=4, num_experts_per_tok=1)
    routers = sum(parameter.numel() for name, parameter in sparse.named_parameters() if "router" in name)
    assert count_parameters(sparse)["active"] - count_parameters(dense)["active"] == routers


def test_tied_parameters_count_once() -> None:
    model = tiny_model()
    model.lm_head.weight = model.get_input_embeddings().weight
    text = model.config.text_config
    saved = text.vocab_size * text.hidden_size
    assert count_parameters(model)["total"] == count_parameters(tiny_model())["total"] - saved


def flops_counted_by_torch(model, ids, kinds) -> int:
    """All matrix products of the decoder layers and the head, for one row of tokens."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, mm_token_type_ids=kinds, use_cache=False)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    return sum(value for name, value in counts.items() if re.search(r"layers\.\d+$|lm_head$", name))


SIGMOID = {"shared_expert_weighting": "sigmoid"}
JOINT = {"shared_expert_weighting": "router"}


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"num_experts": 4, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 24},
        {"num_experts": 4, "num_experts_per_tok": 1, "moe_layers": [1]},
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "num_null_experts": 1,
            "modality_routing": "isolated",
            "expert_groups": {"image": [3], "text": [0, 1, 2]},
        },
        {"num_experts": 4, "expert_type": "lora", "expert_rank": 3, "router_modality_projection": True},
        {"num_experts": 4, "expert_type": "latent", "expert_latent_size": 6, "expert_latent_groups": 2},
        {"num_experts": 4, "n_group": 2, "router_type": "hierarchical", "modality_routing": "separate"},
        {"num_experts": 4, "num_experts_per_tok": 3, "expert_aliases": [[0, 1, 1, 0], [0, 0, 0, 0]]},
        {"num_experts": 4, "router_type": "top_p", "router_top_p": 1.0, "num_experts_per_tok": 3},
        {"num_experts": 4, "num_shared_experts": 2, "shared_expert_intermediate_size": 8, **SIGMOID},
        {"num_experts": 4, "num_shared_experts": 2, "shared_expert_intermediate_size": 8, **JOINT},
        {
            "num_experts": 4,
            "modality_routing": "isolated",
            "expert_groups": {"image": [1, 2], "text": [0, 3]},
            "expert_group_intermediate_sizes": {"image": 12},
        },
    ],
    ids=str,
)
@pytest.mark.parametrize("modality", [Modality.TEXT, Modality.IMAGE])
def test_flops_equal_those_that_torch_counts(text, modality) -> None:
    model = tiny_model(**text)
    for module in model.modules():
        if isinstance(module, SparseMoeBlock) and module.router.permitted is not None:
            module.router.permitted[:, model.config.text_config.num_experts :] = False  # no token goes to a null
            module.router.top_k = min(module.router.top_k, int(module.router.permitted[modality].sum()))
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    tokens = 11
    ids, kinds = torch.full((1, tokens), 5), torch.full((1, tokens), int(modality))
    counted = count_per_token(model, context=tokens)[modality.key].flops * tokens
    assert counted == flops_counted_by_torch(model, ids, kinds)


def test_a_modality_adds_its_encoder_and_connector_and_meets_its_own_experts() -> None:
    model = tiny_model(
        num_experts=4, num_experts_per_tok=2, modality_routing="semi_isolated", expert_groups={"image": [1, 2]}
    )
    costs = count_per_token(model)
    assert set(costs) == {"text", "image", "video", "audio", "speech"}
    own = sum(p.numel() for name, p in model.named_parameters() if ".image." in name)
    assert costs["image"].parameters - costs["text"].parameters == own
    assert costs["image"].flops == costs["text"].flops
    every = sum(p.numel() for name, p in model.named_parameters() if "encoders" in name or "connectors" in name)
    assert count_parameters(model)["active"] == costs["text"].parameters + every


@pytest.mark.parametrize("tied", [False, True])
def test_weight_bytes_are_those_of_the_tensors_that_a_token_reads(tied) -> None:
    model = tiny_model(num_experts=4, num_experts_per_tok=1).bfloat16()
    text = model.config.text_config
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight
    expert = 3 * text.hidden_size * text.moe_intermediate_size
    language = sum(p.numel() for p in model.model.language_model.parameters())
    by_hand = language - text.vocab_size * text.hidden_size - 3 * expert * text.num_hidden_layers
    by_hand += text.vocab_size * text.hidden_size + (0 if tied else text.hidden_size)
    routers = text.num_experts * text.hidden_size * text.num_hidden_layers  # stay in float32
    assert count_per_token(model)["text"].weight_bytes == 2 * by_hand + 2 * routers
