"""What experts and routers of a model are at one moment, so that two moments can be compared: how far they moved, and
how differently the experts of a layer answer.

Experts are compared by their answers to the same random hidden states of unit scale: that means the same for every
family of experts, and copies differ by exactly 0. Chance is of a generator of its own, so looking changes nothing.
E experts, P probe states, D hidden size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unimoe.moe import SoftMoeBlock, SparseMoeBlock
from unimoe.moe.experts.latent import LatentExperts
from unimoe.moe.experts.lora import LoRAExperts

PROBES = 8
"""Hidden states that every expert answers."""
_TINY = 1e-30


@dataclass(frozen=True)
class MixtureSnapshot:
    """Experts and routers at one moment, by the number of their decoder layer.

    Args:
        answers: Of each expert to each probe state, (E, P, D).
        routers: All weights of the router, in a row; nothing where it learns nothing (`hash`).
    """

    answers: dict[int, Tensor]
    routers: dict[int, Tensor]


def sparse_blocks(model: nn.Module) -> Iterator[tuple[int, SparseMoeBlock | SoftMoeBlock]]:
    """Yield the sparse layers of a model with their numbers in the decoder."""
    for number, layer in enumerate(model.get_decoder().layers):  # type: ignore[operator]
        if isinstance(layer.mlp, SparseMoeBlock | SoftMoeBlock):
            yield number, layer.mlp


def router_parameters(block: SparseMoeBlock | SoftMoeBlock) -> list[nn.Parameter]:
    """Return what learns of a layer's router; of soft mixtures, the slots."""
    return [block.slots, block.scale] if isinstance(block, SoftMoeBlock) else list(block.router.parameters())


@torch.no_grad()
def take_snapshot(model: nn.Module) -> MixtureSnapshot:
    """Ask all experts of a whole model, and copy its routers. Its weights and its generators stay as they are."""
    answers, routers = {}, {}
    for number, block in sparse_blocks(model):
        stacks = [_ask(stack, torch.Generator().manual_seed(number)) for stack in block.expert_stacks]
        answers[number] = torch.cat(stacks)
        if own := router_parameters(block):
            routers[number] = torch.cat([parameter.detach().flatten() for parameter in own]).float().cpu().clone()
    return MixtureSnapshot(answers, routers)


def _ask(experts: Any, generator: torch.Generator) -> Tensor:
    """Give the answers of all experts of a stack to random states, (E, P, D).

    Experts that share weights are made whole first: no module runs, of which DeepSpeed might wait for other processes.
    """
    whole = experts.materialize() if isinstance(experts, LoRAExperts | LatentExperts) else experts
    probe = torch.randn(PROBES, experts.hidden_dim, generator=generator).to(next(experts.parameters()))
    answers = [whole.expert_output(expert, probe) for expert in range(experts.num_experts)]
    return torch.stack(answers).float().cpu()


def expert_distances(answers: Tensor) -> Tensor:
    """Compare the experts of a layer: norm of the difference of two experts' answers, relative to their mean norm.

    Args:
        answers: (E, P, D).

    Returns:
        (E, E), float64: 0 for copies, about 1.4 for experts that have nothing in common.
    """
    rows = answers.double().flatten(1)  # (E, P*D)
    differences = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    norms = rows.norm(dim=-1)
    return differences / ((norms[:, None] + norms) / 2).clamp(min=_TINY)


def experts_moved(before: Tensor, after: Tensor) -> Tensor:
    """Say how far each expert moved: norm of the change of its answers (E, P, D), relative to theirs before, (E,)."""
    change = (after.double() - before.double()).flatten(1).norm(dim=-1)
    return change / before.double().flatten(1).norm(dim=-1).clamp(min=_TINY)


def router_moved(before: Tensor, after: Tensor) -> float:
    """Say how far a router moved: norm of the change of its weights, relative to that of `before`."""
    return float((after - before).norm() / before.norm().clamp(min=_TINY))


__all__ = [
    "MixtureSnapshot",
    "expert_distances",
    "experts_moved",
    "router_moved",
    "router_parameters",
    "sparse_blocks",
    "take_snapshot",
]
