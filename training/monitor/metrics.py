"""What is measured between two logs of a training, over all processes: losses, routing, speed, memory.

Nothing is copied from the device until the log. L sparse layers, M modalities, E router targets, T tokens.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unimoe import Modality

from .memory import MemoryWatch
from .sizes import GB

WALL_CLOCK = ("tokens_per_second", "data_wait", "memory_gb", "memory_reserved_gb")
"""Measures that are never twice the same."""


class Meter:
    """Adds up what happens in the steps since the last log.

    `memory` watches the process for all of a stage; without it, memory is what is in use at the log.
    """

    def __init__(self) -> None:
        self.memory: MemoryWatch | None = None
        self._step_began = 0.0
        self._reset()

    def _reset(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.batches: dict[str, int] = defaultdict(int)
        self.routing: Tensor | None = None
        self.entropy: Tensor | None = None
        self.tokens: Tensor | int = 0
        self.seconds = self.waited = 0.0
        self.steps = 0

    def begin_step(self, fetch: Callable[[], Any]) -> Any:
        """Begin a step by fetching its batches, and measure how long that takes."""
        self._step_began = time.perf_counter()
        batches = fetch()
        self.waited += time.perf_counter() - self._step_began
        return batches

    def end_step(self) -> None:
        """End a step; what comes until the next one (logs, checkpoints, validation rows) is not its time."""
        self.seconds += time.perf_counter() - self._step_began
        self.steps += 1

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add a loss of a batch."""
        self.losses[name] = self.losses.get(name, torch.zeros_like(value)) + value
        self.batches[name] += 1

    def add_routing(self, counts: Tensor, entropy: Tensor) -> None:
        """Add a batch's assignments, (L, M, E), and its `router_entropy`, (L, 2)."""
        self.routing = counts if self.routing is None else self.routing + counts
        self.entropy = entropy if self.entropy is None else self.entropy + entropy

    def collect(self, accelerator: Any) -> tuple[dict[str, float], dict[str, Any]]:
        """Take what was measured, over all processes, and begin anew.

        Returns:
            Numbers for the log; and what goes into `metrics.jsonl` alone: `load`, how often the tokens of each
            modality chose each expert in each layer, and `router_entropy_layers`.
        """
        numbers = {
            f"loss_{name}": float(accelerator.reduce(total, "mean")) / self.batches[name]
            for name, total in self.losses.items()
        }
        details: dict[str, Any] = {}
        if self.routing is not None and self.entropy is not None:
            counts = accelerator.reduce(self.routing, "sum")
            sums = accelerator.reduce(self.entropy, "sum").double().cpu()
            layers = sums[:, 0] / sums[:, 1].clamp(min=1)
            numbers |= {"router_entropy": round(float(layers.mean()), 4)} | expert_load(counts)
            details = {"load": layer_load(counts), "router_entropy_layers": [round(float(h), 4) for h in layers]}
        numbers |= self._speed(accelerator)
        self._reset()
        return numbers, details

    def _speed(self, accelerator: Any) -> dict[str, float]:
        memory = self.memory or MemoryWatch(accelerator.device)
        own = torch.tensor([[self.seconds, self.waited, memory.peak, memory.reserved]], dtype=torch.float64)
        seconds, waited, peak, reserved = accelerator.gather(own.to(accelerator.device)).max(dim=0).values.tolist()
        return {
            "tokens": int(self.tokens),
            "tokens_per_second": round(int(self.tokens) / max(seconds, 1e-9), 1),
            "data_wait": round(min(waited / max(seconds, 1e-9), 1.0), 4),
            "memory_gb": round(peak / GB, 3),
            "memory_reserved_gb": round(reserved / GB, 3),
        }


def attended_tokens(inputs: dict[str, Any]) -> Tensor:
    """Tokens of a batch that are no padding, a scalar; packed batches have no mask, for they have no padding."""
    mask = inputs.get("attention_mask")
    return (torch.ones_like(inputs["input_ids"]) if mask is None else mask).sum()


def router_entropy(
    router_probs: Sequence[Tensor], router_logits: Sequence[Tensor], attention_mask: Tensor | None = None
) -> Tensor:
    """Measure how undecided routers are: 0 if a token has one target, 1 if all that are open to it are alike.

    Args:
        router_probs: Of each layer, (T, E); a row sums to 1.
        router_logits: Of each layer, (T, E); -inf for targets closed to a token.
        attention_mask: 1 for real tokens, (B, S) with B*S = T. None: all are real.

    Returns:
        For each layer the sum over real tokens of the entropy divided by its greatest value, and the number of those
        tokens, (L, 2), float64.
    """
    real = torch.ones(len(router_probs[0]), device=router_probs[0].device)
    if attention_mask is not None:
        real = attention_mask.reshape(-1).float()
    sums = []
    for probs, logits in zip(router_probs, router_logits, strict=True):
        greatest = torch.isfinite(logits).sum(dim=-1).clamp(min=2).log()  # (T,); with one target the entropy is 0
        entropy = -torch.xlogy(probs.float(), probs.float()).sum(dim=-1) / greatest
        sums.append(torch.stack([(entropy * real).sum(), real.sum()]).double())
    return torch.stack(sums)


def expert_load(counts: Tensor) -> dict[str, float]:
    """Name each expert's share of each modality's tokens, all layers together.

    Args:
        counts: Assignments (layers, modalities, experts).

    Returns:
        `load_MODALITY/EXPERT` -> share; the shares of a modality sum to 1. Modalities without tokens are left out.
    """
    totals = counts.sum(dim=0).double().cpu()  # (M, E)
    shares = totals / totals.sum(dim=-1, keepdim=True).clamp(min=1)
    return {
        f"load_{modality.key}/{expert}": round(float(share), 4)
        for modality in Modality
        if totals[modality].sum() > 0
        for expert, share in enumerate(shares[modality])
    }


def layer_load(counts: Tensor) -> dict[str, list[list[int]]]:
    """Lay out assignments (layers, modalities, experts) as modality key -> layer -> expert; absent modalities are left
    out.
    """
    return {modality.key: counts[:, modality].tolist() for modality in Modality if counts[:, modality].sum() > 0}


__all__ = ["WALL_CLOCK", "Meter", "attended_tokens", "expert_load", "layer_load", "router_entropy"]
