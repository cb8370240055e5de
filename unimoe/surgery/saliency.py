"""How much each expert matters on calibration rows, by layer and modality, from the routing that the model used.

M modalities, E experts, K experts per token, T tokens; f_e(x) the output of an expert, g its combine weight.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UniMoEError
from ..modality import Modality
from .calibration import Batch, on_device
from .mixture import SparseLayer, routed, sparse_layers

Score = Literal["reap", "frequency", "activation_norm", "router_weighted", "max_share"]
SUPER_FACTOR = 10.0
"""An expert whose largest output is this many times the median one is a super expert."""


@dataclass(frozen=True)
class LayerUse:
    """What the tokens of each modality asked of the experts of a layer, float64.

    Args:
        count: Assignments, (M, E).
        norm: Sum of ||f_e(x)|| over them, (M, E).
        weight: Sum of g, (M, E).
        weighted_norm: Sum of g ||f_e(x)||, (M, E).
        largest: Largest ||f_e(x)|| of any token, (E,).
    """

    count: Tensor
    norm: Tensor
    weight: Tensor
    weighted_norm: Tensor
    largest: Tensor

    @classmethod
    def of_none(cls, experts: int) -> "LayerUse":
        """Begin with no token."""
        count, norm, weight, weighted_norm = torch.zeros(4, len(Modality), experts, dtype=torch.float64)
        return cls(count, norm, weight, weighted_norm, torch.zeros(experts, dtype=torch.float64))

    @property
    def share(self) -> Tensor:
        """Share of each expert in what a modality gets from all, by `weighted_norm`, (M, E); 0 of absent ones."""
        return self.weighted_norm / self.weighted_norm.sum(dim=-1, keepdim=True).clamp(min=1e-300)

    def score(self, score: Score) -> Tensor:
        """Score the experts, (E,).

        Args:
            score: `reap`: mean of g ||f_e(x)|| over the tokens of the expert (Lasby et al. 2025, arXiv 2510.13999,
                eq. 9). `frequency`: tokens. `activation_norm`: sum of ||f_e(x)||. `router_weighted`: sum of
                g ||f_e(x)||. `max_share`: the largest share in what any modality gets.
        """
        return _SCORES[score](self)


_SCORES: dict[Score, Callable[[LayerUse], Tensor]] = {
    "reap": lambda use: use.weighted_norm.sum(dim=0) / use.count.sum(dim=0).clamp(min=1),
    "frequency": lambda use: use.count.sum(dim=0),
    "activation_norm": lambda use: use.norm.sum(dim=0),
    "router_weighted": lambda use: use.weighted_norm.sum(dim=0),
    "max_share": lambda use: use.share.amax(dim=0),
}


@dataclass(frozen=True)
class Saliency:
    """How much the experts of a model matter.

    Args:
        layers: Index of a sparse layer -> what was asked of its experts.
    """

    layers: dict[int, LayerUse]

    def scores(self, score: Score) -> dict[int, Tensor]:
        """Score the experts of each layer; see `LayerUse.score`."""
        return {index: use.score(score) for index, use in self.layers.items()}

    def super_experts(self) -> dict[int, list[int]]:
        """Experts whose largest output is far beyond all others' (arXiv 2507.23279): without them a model breaks."""
        largest = torch.cat([use.largest for use in self.layers.values()])
        used = largest[largest > 0]
        bound = max(SUPER_FACTOR * float(used.median()), float(used.max()) / 10) if len(used) else 0.0
        return {index: (use.largest > bound).nonzero()[:, 0].tolist() for index, use in self.layers.items()}


OnLayer = Callable[[SparseLayer, Batch, Tensor, Tensor], None]
"""Called with a layer, the rows, hidden states (T, D) and expert indices (T, K)."""


def saliency(model: Any, batches: Iterable[Batch]) -> Saliency:
    """Run a model over calibration rows and see what its tokens ask of its experts; padding has no part in it.

    Args:
        model: Of this package or of transformers, in evaluation mode.
        batches: Rows.

    Raises:
        UniMoEError: If there are no rows, or the model has no sparse layers.
    """
    return observe(model, batches, lambda *_: None)


@torch.no_grad()
def observe(model: Any, batches: Iterable[Batch], on_layer: OnLayer) -> Saliency:
    """Find the saliency, and show a function what reaches the experts of each layer.

    Args:
        model: As for `saliency`.
        batches: Rows.
        on_layer: Called in each sparse layer for each batch.

    Raises:
        UniMoEError: As `saliency`.
    """
    found = {layer.index: LayerUse.of_none(layer.experts.num_experts) for layer in sparse_layers(model)}
    current: list[Batch] = []

    def see(layer: SparseLayer, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> None:
        norms = output_norms(layer.experts, hidden_states, top_k_index)
        _add(found[layer.index], current[0], top_k_index.cpu(), top_k_weights.double().cpu(), norms)
        on_layer(layer, current[0], hidden_states, top_k_index)

    with routed(model, see):
        for batch in batches:
            current[:] = [batch]
            model(**on_device(batch, model.device), use_cache=False)
    if not current:
        raise UniMoEError(type(model).__name__, "there are no calibration rows.", "Pass a file that has some.")
    return Saliency(found)


def output_norms(experts: Any, hidden_states: Tensor, top_k_index: Tensor) -> Tensor:
    """Return ||f_e(x)|| of each chosen expert, float64, (T, K); 0 of "no expert".

    Args:
        experts: A module of experts.
        hidden_states: (T, D).
        top_k_index: (T, K).
    """
    ones = torch.ones_like(hidden_states[:, :1])
    columns = [
        experts.forward(hidden_states, top_k_index[:, k : k + 1], ones).double().norm(dim=-1)
        for k in range(top_k_index.shape[-1])
    ]
    return torch.stack(columns, dim=-1).cpu()


def _add(use: LayerUse, batch: Batch, index: Tensor, weights: Tensor, norms: Tensor) -> None:
    """Add the assignments of the tokens of a batch to what was asked of a layer."""
    experts = len(use.largest)
    is_asked = batch.attention_mask.flatten().cpu()[:, None] & (index < experts)
    kinds = batch.modality_ids.flatten().cpu()[:, None].expand_as(index)
    cell = (kinds * experts + index)[is_asked]
    weights, norms = weights[is_asked], norms[is_asked]
    for sums, values in (
        (use.count, torch.ones_like(norms)),
        (use.norm, norms),
        (use.weight, weights),
        (use.weighted_norm, weights * norms),
    ):
        sums.view(-1).index_add_(0, cell, values)
    use.largest.scatter_reduce_(0, index[is_asked], norms, "amax")


__all__ = ["SUPER_FACTOR", "LayerUse", "OnLayer", "Saliency", "Score", "observe", "output_norms", "saliency"]
