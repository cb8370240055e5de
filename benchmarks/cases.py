"""What is measured: kernels and families of experts, null experts, routers, operations, the import, packing, encoders
run once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from unimoe import UniMoETextConfig
from unimoe.moe import RoutingContext, SparseMoeBlock
from unimoe.moe.experts.build import build_experts
from unimoe.moe.routers.build import build_router, init_router

from .encoder_cache import encoder_cache
from .imports import imports
from .operations import operations
from .packing import packing
from .timing import Case

SIZES = {"hidden_size": 576, "num_attention_heads": 9, "intermediate_size": 1536}  # SmolLM2-135M's
EXPERTS, CHOSEN = 8, 2


def text_config(implementation: str = "grouped_mm", **fields: Any) -> UniMoETextConfig:
    """Configure sparse layers of SmolLM2-135M's width."""
    config = UniMoETextConfig(**{**SIZES, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN, **fields})
    config._experts_implementation = implementation
    return config


def ready(module: nn.Module) -> Any:
    """Give a module random weights, and make it one for inference."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    return module.eval().requires_grad_(False)


def timed(module: nn.Module, *inputs: Any) -> Callable[[], Any]:
    """Run a module without gradients."""

    def run() -> Any:
        with torch.inference_mode():
            return module(*inputs)

    return run


def text_tokens(number: int) -> tuple[Tensor, RoutingContext]:
    """Draw hidden states of so many text tokens."""
    return torch.randn(number, SIZES["hidden_size"]), RoutingContext(torch.zeros(number, dtype=torch.long))


def blocks() -> Iterator[Case]:
    """Return the whole sparse feed-forward against transformers' of the same weights, for one token and many."""
    theirs_config = Qwen3MoeConfig(
        hidden_size=SIZES["hidden_size"],
        moe_intermediate_size=SIZES["intermediate_size"],
        num_experts=EXPERTS,
        num_experts_per_tok=CHOSEN,
        norm_topk_prob=True,
    )
    theirs_config._experts_implementation = "grouped_mm"
    theirs, ours = ready(Qwen3MoeSparseMoeBlock(theirs_config)), ready(SparseMoeBlock(text_config()))
    ours.router.weight.copy_(theirs.gate.weight)
    ours.experts.load_state_dict(theirs.experts.state_dict())
    for number in (1, 16, 512):
        hidden, context = text_tokens(number)
        peers = {
            "transformers Qwen3-MoE": timed(theirs, hidden[None]),
            "unimoe": timed(ours, hidden[None], context),
        }
        yield Case(f"block, {number} tokens, grouped_mm", peers, {})


def kernels() -> Iterator[Case]:
    """Return the implementations of MLP experts."""
    shared = ready(build_experts(text_config()))
    for number in (1, 16, 512):
        hidden, _ = text_tokens(number)
        index = torch.rand(number, EXPERTS).topk(CHOSEN).indices
        weights = torch.full((number, CHOSEN), 1 / CHOSEN)
        peers = {}
        for name in ("grouped_mm", "eager", "batched_mm"):
            if name == "batched_mm" and number > 16:
                continue  # it copies an expert's weights for every assignment
            experts = ready(build_experts(text_config(name)))
            experts.load_state_dict(shared.state_dict())
            peers[name] = timed(experts, hidden, index, weights)
        yield Case(f"experts, {number} tokens", peers, {})


FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "lora, rank 16": {"expert_type": "lora", "expert_rank": 16},
    "latent, size 192 in 2 groups": {"expert_type": "latent", "expert_latent_size": 192, "expert_latent_groups": 2},
}


def families() -> Iterator[Case]:
    """MLP, LoRA and latent experts with the same tokens, and what each token multiplies."""
    for number in (16, 512):
        hidden, _ = text_tokens(number)
        index = torch.rand(number, EXPERTS).topk(CHOSEN).indices
        weights = torch.full((number, CHOSEN), 1 / CHOSEN)
        peers, facts = {}, {}
        for name, own in FAMILIES.items():
            experts = ready(build_experts(text_config(**own)))
            sizes = experts.expert_sizes()
            parameters = sum(p.numel() for p in experts.parameters())
            flops = 2 * (parameters - sum(sizes) + CHOSEN * sizes[0])
            peers[name] = timed(experts, hidden, index, weights)
            facts[name] = {"parameters": parameters, "MFLOPs per token": flops / 1e6}
        yield Case(f"families of experts, {number} tokens, grouped_mm", peers, facts)


def null_experts() -> Iterator[Case]:
    """Say what assignments that ask no expert save: the share of them against the time of grouped_mm."""
    number, choices = 512, 4
    for name, fields in FAMILIES.items():
        experts = ready(build_experts(text_config(**fields)))
        hidden, _ = text_tokens(number)
        index = torch.rand(number, EXPERTS).topk(choices).indices
        weights = torch.full((number, choices), 1 / choices)
        own, every = experts.expert_sizes()[0], sum(p.numel() for p in experts.parameters())
        shared = every - EXPERTS * own
        peers, facts = {}, {}
        for none in range(choices + 1):
            fewer = index.masked_fill(torch.arange(choices) < none, EXPERTS)
            label = f"{none / choices:.0%} null"
            peers[label] = timed(experts, hidden, fewer, weights)
            facts[label] = {"MFLOPs per token": 2 * (shared + (choices - none) * own) / 1e6}
        yield Case(f"null experts, {name}, {number} tokens, grouped_mm", peers, facts)


def routers() -> Iterator[Case]:
    """Say what choosing costs, against top-k."""
    groups = {"text": [0, 1, 2, 3], "image": [4, 5, 6, 7]}
    fields: dict[str, dict[str, Any]] = {
        "top_k": {},
        "top_k, isolated": {"modality_routing": "isolated", "expert_groups": groups},
        "top_k, separate": {"modality_routing": "separate"},
        "sigmoid, groups, balance bias": {"scoring_func": "sigmoid", "n_group": 4, "balance_bias": True},
        "top_p": {"router_type": "top_p", "num_experts_per_tok": EXPERTS},
        "hierarchical": {"router_type": "hierarchical", "n_group": 4},
        "expert_choice": {"router_type": "expert_choice"},
    }
    hidden, context = text_tokens(512)
    peers = {}
    for name, own in fields.items():
        router = build_router(text_config(**own))
        init_router(router, 0.02)
        peers[name] = timed(router.eval(), hidden, context)
    yield Case("routers, 512 tokens", peers, {})


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "blocks": blocks,
    "kernels": kernels,
    "families": families,
    "null_experts": null_experts,
    "routers": routers,
    "operations": operations,
    "imports": imports,
    "packing": packing,
    "encoder_cache": encoder_cache,
}
