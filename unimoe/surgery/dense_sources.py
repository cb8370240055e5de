"""What assembling and upcycling share: dense models in, their feed-forwards as the experts of a sparse one."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..configuration_unimoe import UniMoEConfig
from ..loading import load_model
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, GatedMLP, SparseMoeBlock
from ..moe.router_types import TABLE_NUMBERS, HashRouter

Source = str | Path | UniMoEForConditionalGeneration

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""What counts as equal, relative to the largest absolute value compared."""


def load_dense(source: Source, *, role: str) -> UniMoEForConditionalGeneration:
    """Load a model, or take one, and check that it is dense.

    Args:
        source: A model or its folder.
        role: What it is for, for the error.

    Raises:
        ValueError: If it has experts already, or cannot be loaded.
    """
    if not isinstance(source, UniMoEForConditionalGeneration):
        source = load_model(source)
    if num_experts := source.config.text_config.num_experts:
        raise ValueError(f"The {role} model already has {num_experts} experts; pass a dense one.")
    return source


def source_name(source: Source) -> str:
    """Folder or Hub id of a source, for a certificate."""
    return str(source.name_or_path) if isinstance(source, UniMoEForConditionalGeneration) else str(source)


def sparse_like(dense: UniMoEForConditionalGeneration, config: UniMoEConfig) -> UniMoEForConditionalGeneration:
    """Build a model of a configuration, in evaluation mode, with the weights of a dense one that it has places for."""
    model = UniMoEForConditionalGeneration._from_config(config, dtype=dense.dtype).eval()
    if dense.dtype == torch.float64:  # for which the default, grouped_mm, has no kernel
        model.set_experts_implementation("eager")
    model.generation_config = copy.deepcopy(dense.generation_config)
    places = model.state_dict()
    with torch.no_grad():
        for name, value in dense.state_dict().items():
            if name in places:
                places[name].copy_(value)
    return model


def mlp_experts(block: SparseMoeBlock) -> Experts:
    """The experts of a block, which must be full feed-forwards of one width.

    Raises:
        ValueError: If they are of another family.
    """
    if not isinstance(block.experts, Experts):
        raise ValueError(f"Experts of the type {type(block.experts).__name__} hold no copies of feed-forwards.")
    return block.experts


@torch.no_grad()
def fill_experts(experts: Experts, feed_forwards: Sequence[GatedMLP]) -> None:
    """Copy one dense feed-forward into each expert."""
    for index, mlp in enumerate(feed_forwards):
        experts.gate_up_proj[index].copy_(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        experts.down_proj[index].copy_(mlp.down_proj.weight)


@torch.no_grad()
def draw_router(block: SparseMoeBlock, std: float, generator: torch.Generator) -> None:
    """Draw what a router begins with: weights from N(0, std), a hash table evenly."""
    for name, weight in block.router.named_parameters():
        if name in ("weight", "group_weight"):
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    if isinstance(block.router, HashRouter):
        table = block.router.table
        table.copy_(torch.randint(TABLE_NUMBERS, tuple(table.shape), generator=generator))


def probe_states(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random hidden states (T, D) of unit scale, in the dtype of `like`, on which operations are checked."""
    return torch.randn(64, size, generator=generator).to(like)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest absolute value expected."""
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
