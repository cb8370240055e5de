"""Random routings to compute losses of: several layers, modalities, null experts, closed experts, padding."""

from typing import Any

import torch
from tiny import TEXT
from torch import Tensor

from unimoe import UniMoETextConfig
from unimoe.moe import RoutingRecord, stack_layers

B, S, E, K = 3, 8, 5, 2
T = B * S


def config(**changes: Any) -> UniMoETextConfig:
    return UniMoETextConfig(**{**TEXT, "num_experts": E, **changes})


def make_record(
    *,
    layers: int = 2,
    scores: str = "softmax",
    top_k: int = K,
    closed: dict[int, list[int]] | None = None,
    modality_ids: Tensor | None = None,
    seed: int = 0,
    tokens: int = T,
) -> RoutingRecord:
    """Route random logits; `closed` names for a modality the targets that it may not choose."""
    generator = torch.Generator().manual_seed(seed)
    layers_of: list[RoutingRecord] = []
    for _ in range(layers):
        logits = 2 * torch.randn(tokens, E, generator=generator)
        logits[: tokens // 3, 0] += 2  # parts of the batch differ
        for modality, targets in (closed or {}).items():
            for target in targets:
                logits[:, target] = logits[:, target].masked_fill(modality_ids.reshape(-1) == modality, -torch.inf)
        values = logits.softmax(-1) if scores == "softmax" else logits.sigmoid()
        probs = values / values.sum(-1, keepdim=True)
        chosen = logits.topk(top_k).indices
        weights = probs.gather(-1, chosen)
        noise = torch.rand(tokens, E, generator=generator) * torch.isfinite(logits)
        layers_of.append(RoutingRecord(logits, probs, chosen, weights / weights.sum(-1, keepdim=True), noise))
    return stack_layers(layers_of)


def random_modalities(number: int = 3, *, seed: int = 1) -> Tensor:
    return torch.randint(0, number, (B, S), generator=torch.Generator().manual_seed(seed))


def part(record: RoutingRecord, start: int, stop: int) -> RoutingRecord:
    """The record of some of the tokens."""
    return RoutingRecord(*(field[:, start:stop] for field in record if field is not None))


def group_list(modality_ids: Tensor, attention_mask: Tensor | None, *, per_modality: bool) -> list[int | None]:
    """The group of each token, as the reference wants it."""
    mask = torch.ones_like(modality_ids) if attention_mask is None else attention_mask
    pairs = zip(modality_ids.flatten().tolist(), mask.flatten().tolist(), strict=True)
    return [(modality if per_modality else 0) if real else None for modality, real in pairs]
