"""What reaches the experts of a model on calibration rows, beyond how much each matters.

T tokens, D hidden size, E experts, I expert width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modality import Modality
from .calibration import Batch
from .folders import Losses
from .mixture import SparseLayer, gated_stacks, sparse_layers
from .saliency import LayerUse, Saliency, observe

STATES = 256
"""Hidden states of a layer that are kept, as evenly from its modalities as they come."""


@dataclass
class Moments:
    """Second moments of what a layer's experts see, sums over tokens, float64.

    Args:
        inputs: Sum of x x^T, (D, D).
        inner: Sum of h h^T for each expert, h what comes to its down projection, (E, I, I).
        tokens: How many.
        counts: How many came to each expert, (E,).
    """

    inputs: Tensor
    inner: Tensor
    tokens: int
    counts: Tensor

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        """Mean of x x^T, and of h h^T for each expert; 0 for one that saw nothing."""
        return self.inputs / max(self.tokens, 1), self.inner / self.counts.clamp(min=1)[:, None, None]


@dataclass
class Statistics:
    """What reached the experts.

    Args:
        saliency: How much each matters.
        states: Layer -> some hidden states, (n, D).
        moments: Layer -> second moments, if they were asked for.
    """

    saliency: Saliency
    states: dict[int, Tensor] = field(default_factory=dict)
    moments: dict[int, Moments] = field(default_factory=dict)


@torch.no_grad()
def gather(model: Any, batches: Iterable[Batch], *, moments: bool = False) -> Statistics:
    """Run a model over calibration rows and keep what reaches its experts; padding has no part in it.

    Args:
        model: In evaluation mode.
        batches: Rows.
        moments: Whether to sum up second moments, for plain gated experts.

    Raises:
        UniMoEError: If there are no rows, or the experts are of another kind than moments are known for.
    """
    found = Statistics(Saliency({}))
    stacks = {layer.index: gated_stacks(layer) for layer in sparse_layers(model)} if moments else {}
    room = STATES // len(Modality)
    seen: dict[tuple[int, int], int] = {}

    def see(layer: SparseLayer, batch: Batch, hidden_states: Tensor, top_k_index: Tensor) -> None:
        is_real = batch.attention_mask.flatten().to(hidden_states.device)
        kinds = batch.modality_ids.flatten().to(hidden_states.device)
        kept = []
        for modality in Modality:
            own = hidden_states[is_real & (kinds == modality)][: room - seen.get((layer.index, modality), 0)]
            seen[layer.index, modality] = seen.get((layer.index, modality), 0) + len(own)
            kept.append(own)
        before = found.states.get(layer.index)
        found.states[layer.index] = torch.cat(kept if before is None else [before, *kept])
        if moments:
            _add(
                found.moments,
                layer.index,
                stacks[layer.index],
                layer.experts.act_fn,
                hidden_states[is_real],
                top_k_index[is_real],
            )

    found.saliency = observe(model, batches, see)
    return found


def _add(
    moments: dict[int, Moments],
    index: int,
    stacks: tuple[Tensor, Tensor, Tensor],
    act_fn: Any,
    hidden_states: Tensor,
    top_k_index: Tensor,
) -> None:
    gate, up, _ = stacks
    experts, width, hidden = gate.shape
    if index not in moments:
        zeros = (
            gate.new_zeros(hidden, hidden, dtype=torch.float64),
            gate.new_zeros(experts, width, width, dtype=torch.float64),
        )
        moments[index] = Moments(*zeros, 0, gate.new_zeros(experts, dtype=torch.float64))
    own = moments[index]
    states = hidden_states.double()
    own.inputs += states.T @ states
    own.tokens += len(states)
    for expert in top_k_index.unique().tolist():
        if expert < experts:
            tokens = hidden_states[(top_k_index == expert).any(dim=-1)]
            inner = (act_fn(F.linear(tokens, gate[expert])) * F.linear(tokens, up[expert])).double()
            own.inner[expert] += inner.T @ inner
            own.counts[expert] += len(tokens)


def losses_by_use(found: Saliency, errors: Mapping[int, Tensor], what: str) -> Losses:
    """Weigh errors of experts by what each modality gets from them.

    Args:
        found: How much they matter.
        errors: Layer -> error of each expert, (E,).
        what: Name of the error.
    """

    def of(use: LayerUse, modality: Modality, error: Tensor) -> dict[str, float]:
        return {what: float((use.share[modality] * error.cpu()).sum())}

    return {
        layer: {m.key: of(use, m, errors[layer]) for m in Modality if use.count[m].any()}
        for layer, use in found.layers.items()
    }


__all__ = ["Moments", "Statistics", "gather", "losses_by_use"]
