"""How the experts of a sparse layer begin: as copies, slices or low-rank changes of dense feed-forwards.

One implementation for all operations that make experts. E experts, I width of a feed-forward, D hidden size, r rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..moe import Experts, GatedMLP, SparseMoeBlock
from ..moe.experts.lora import LoRAExperts
from ..moe.routers import HashRouter
from ..moe.routers.build import TABLE_NUMBERS


@torch.no_grad()
def fill_experts(
    block: SparseMoeBlock,
    sources: Sequence[GatedMLP],
    *,
    base: GatedMLP,
    noise: float,
    generator: torch.Generator,
    skip: int = 0,
) -> None:
    """Make the experts of a block compute dense feed-forwards.

    Experts may be as many as sources, each then a copy of one; or `n` times as many, each then one of n equal slices
    of its source's width, which add up to it (fine-grained experts, DeepSeekMoE, arXiv 2401.06066, section 3.1).
    LoRA experts share the base's feed-forward; the change of each is the best one of its rank to that of its source
    (truncated singular value decomposition, Eckart and Young 1936). Where there is none, it begins as peft's does.

    Args:
        block: Its experts are of equal width, or LoRA experts.
        sources: One for each expert, or for each run of slices.
        base: What LoRA experts change.
        noise: Standard deviation of what is added to each weight matrix of an expert, relative to its own.
        generator: Source of chance.
        skip: First channels of each source that its copies leave out. Not for LoRA experts.

    Raises:
        ValueError: If the experts are of a family that holds no feed-forwards.
    """
    experts = block.experts
    if isinstance(experts, LoRAExperts):
        _fill_lora(experts, sources, base, generator)
    elif isinstance(experts, Experts):
        _fill_stack(experts, sources, skip)
        for weights in (experts.gate_up_proj, experts.down_proj) if noise else ():
            for expert in weights:
                expert += torch.randn(expert.shape, generator=generator).to(expert) * noise * expert.std()
    else:
        raise ValueError(f"Experts of the type {type(experts).__name__} hold no copies of feed-forwards.")


def _fill_stack(experts: Experts, sources: Sequence[GatedMLP], skip: int) -> None:
    pieces = experts.num_experts // len(sources)
    for index in range(experts.num_experts):
        mlp, first = sources[index // pieces], skip + index % pieces * experts.intermediate_dim
        rows = slice(first, first + experts.intermediate_dim)
        experts.gate_up_proj[index].copy_(torch.cat([mlp.gate_proj.weight[rows], mlp.up_proj.weight[rows]]))
        experts.down_proj[index].copy_(mlp.down_proj.weight[:, rows])


def _fill_lora(experts: LoRAExperts, sources: Sequence[GatedMLP], base: GatedMLP, generator: torch.Generator) -> None:
    experts.base.load_state_dict(base.state_dict())
    gate_a, up_a = experts.gate_up_a.chunk(2, dim=1)
    for a, b, name in (
        (gate_a, experts.gate_b, "gate_proj"),
        (up_a, experts.up_b, "up_proj"),
        (experts.down_a, experts.down_b, "down_proj"),
    ):
        before = base.get_parameter(f"{name}.weight")
        for index, source in enumerate(sources):
            change = source.get_parameter(f"{name}.weight") - before
            if change.any():
                left, right = low_rank(change / experts.scale, experts.rank)
                a[index].copy_(right)
                b[index].copy_(left)
            else:  # as peft draws them; the other factor is 0
                drawn = torch.rand(a[index].shape, generator=generator) * 2 - 1
                a[index].copy_(drawn / a.shape[-1] ** 0.5)
                b[index].zero_()


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Find the best factors of a rank, each with the root of the singular values.

    Args:
        matrix: (out, in).
        rank: r.

    Returns:
        (out, r) and (r, in), whose product is nearest to the matrix.
    """
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank_there = min(rank, len(values))
    root = values[:rank_there].sqrt()
    b, a = left[:, :rank_there] * root, root[:, None] * right[:rank_there]
    missing = rank - rank_there
    return nn.functional.pad(b, (0, missing)).to(matrix), nn.functional.pad(a, (0, 0, 0, missing)).to(matrix)


@torch.no_grad()
def fill_shared_expert(block: SparseMoeBlock, base: GatedMLP) -> None:
    """Let the shared experts of a block, if it has any, begin as the first channels of a feed-forward (DCMoE's way).

    Args:
        block: Changed in place.
        base: A feed-forward at least as wide as all shared experts.

    Raises:
        ValueError: If they are wider than it.
    """
    shared = block.shared_expert
    if shared is None:
        return
    width, there = shared.down_proj.in_features, base.down_proj.in_features
    if width > there:
        raise ValueError(
            f"The shared experts are {width} wide in all, the feed-forward that they begin from {there}. Choose "
            "num_shared_experts times shared_expert_intermediate_size at most as large."
        )
    shared.gate_proj.weight.copy_(base.gate_proj.weight[:width])
    shared.up_proj.weight.copy_(base.up_proj.weight[:width])
    shared.down_proj.weight.copy_(base.down_proj.weight[:, :width])


@torch.no_grad()
def redraw_channels(experts: Experts, ratio: float, generator: torch.Generator) -> None:
    """Draw a share of each expert's channels anew, from the mean and deviation of their own weights (Drop-Upcycling).

    Args:
        experts: Changed in place.
        ratio: Share of the channels, which are chosen for each expert apart.
        generator: Source of chance.
    """
    width = experts.intermediate_dim
    number = round(ratio * width)
    for gate_up, down in zip(experts.gate_up_proj, experts.down_proj, strict=True) if number else ():
        channels = torch.randperm(width, generator=generator)[:number].to(down.device)
        for matrix in (gate_up[:width], gate_up[width:], down.T):  # (I, D) each
            chosen = matrix[channels].double()
            drawn = torch.randn(chosen.shape, generator=generator).to(chosen)
            matrix[channels] = (drawn * chosen.std() + chosen.mean()).to(matrix)


@torch.no_grad()
def draw_router(block: SparseMoeBlock, std: float, generator: torch.Generator, *, repeats: int = 1) -> None:
    """Draw what a router begins with: weights from N(0, std), a hash table evenly.

    Args:
        block: Changed in place.
        std: Standard deviation of the weights.
        generator: Source of chance.
        repeats: Neighbouring experts that get the same row; divides E.
    """
    for name, weight in block.router.named_parameters():
        if name in ("weight", "group_weight"):
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
    if repeats > 1:
        rows = block.router.weight[..., : block.router.num_experts, :]  # (E, D), or (M, E, D) of separate routers
        rows.copy_(rows[..., ::repeats, :].repeat_interleave(repeats, dim=-2))
    if isinstance(block.router, HashRouter):
        table = block.router.table
        table.copy_(torch.randint(TABLE_NUMBERS, tuple(table.shape), generator=generator))


__all__ = ["draw_router", "fill_experts", "fill_shared_expert", "low_rank", "redraw_channels"]
