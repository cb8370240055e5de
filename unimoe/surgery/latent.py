"""Latent: experts get a shared space and small maps of each inside it (MoLAE, arXiv 2503.23100).

The mathematics is in `factors`. No class of transformers has such experts; there, the weights that the factors
multiply out to can take the place of the old ones, which saves nothing and shows what it would do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..errors import UniMoEError
from .averages import weight_features
from .calibration import Batch
from .certificate import Certificate
from .expert_axis import kept_pieces
from .factors import LatentFactors, latent_factors, similar_neighbours, space_similarity
from .folders import Draft, Losses, Rows, change_folder
from .mixture import SparseLayer, gated_stacks, rebuild, sparse_layers
from .statistics import Moments, Statistics, gather, losses_by_use


@dataclass(frozen=True)
class LatentWish:
    """How experts become latent. One of `rank`, `ratio` and `max_error` is given.

    Args:
        groups: Groups of experts with a space of their own.
        rank: Size of the space.
        ratio: Share of the experts' parameters that is left, at most.
        max_error: Largest relative error of a group's projections.
        multiple_of: What the size is a multiple of.
        whiten: Weigh errors by what the activations on calibration rows make of them.
        materialize: Keep the class, and put the weights that the factors multiply out to in place of the old ones.
    """

    groups: int = 1
    rank: int | None = None
    ratio: float | None = None
    max_error: float | None = None
    multiple_of: int = 8
    whiten: bool = True
    materialize: bool = False


def to_latent(
    model: Any, wish: LatentWish, *, moments: Mapping[int, Moments] | None = None
) -> tuple[Any, dict[int, LatentFactors]]:
    """Make the model whose experts are latent, in memory.

    Args:
        model: Of this package, with plain gated experts; with `materialize` also of transformers.
        wish: How.
        moments: Layer -> second moments of activations, to whiten by. None: not.

    Returns:
        A new model in evaluation mode, and the factors of each layer. Where it has several groups, similar experts
        are made neighbours first, if nothing else decides their order.

    Raises:
        UniMoEError: If it saves nothing, or a class cannot express it.
    """
    new, factors, _ = _make_latent(model, wish, moments)
    return new, factors


def _make_latent(
    model: Any, wish: LatentWish, moments: Mapping[int, Moments] | None
) -> tuple[Any, dict[int, LatentFactors], dict[int, list[int]]]:
    """Make the model; see `to_latent`. Return also the order of the experts of each layer."""
    _check(model, wish)
    layers, text = sparse_layers(model), model.config.get_text_config()
    orders = {layer.index: _order(layer, text, wish.groups) for layer in layers}
    factors = _factors(layers, orders, wish, moments)
    state = model.state_dict()
    pieces = kept_pieces(state, model.config, orders)
    new = {name: piece.take(state) for name, piece in pieces.items()}
    config = model.config
    if not wish.materialize:
        config = type(config).from_dict(config.to_dict())
        own = config.get_text_config()
        own.expert_type, own.expert_latent_groups = "latent", wish.groups
        own.expert_latent_size = len(factors[layers[0].index].weights["latent_gate"][0])
    for layer in layers:
        prefix, weights = f"{layer.name}.experts.", factors[layer.index].weights
        if wish.materialize:
            gate, up, down = multiplied_out(weights)
            new |= {f"{prefix}gate_up_proj": torch.cat([gate, up], dim=1), f"{prefix}down_proj": down}
        else:
            del new[f"{prefix}gate_up_proj"]
            new |= {f"{prefix}{name}": weight for name, weight in weights.items()}
    return rebuild(model, config, new), factors, orders


def multiplied_out(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return gate (E, I, D), up (E, I, D) and down projections (E, D, I) that latent experts stand for.

    Args:
        weights: Of `LatentExperts` by name.
    """
    size = len(weights["gate_proj"]) // len(weights["latent_gate"])
    gate, up, out = (weights[f"latent_{name}"].repeat_interleave(size, dim=0) for name in ("gate", "up", "out"))
    return weights["gate_proj"] @ gate, weights["up_proj"] @ up, out @ weights["down_proj"]


def _check(model: Any, wish: LatentWish) -> None:
    config = model.config
    text = config.get_text_config()
    if not isinstance(config, UniMoEConfig | UniMoETextConfig) and not wish.materialize:
        problem = f"no class of transformers has latent experts, and this is a {type(model).__name__}."
        cure = (
            "Make it a model of this package first (unimoe build), or pass materialize=True to see what it would do."
        )
        raise UniMoEError("latent", problem, cure)
    if getattr(text, "expert_aliases", None):
        raise UniMoEError("expert_aliases", "merged experts cannot be latent.", "Choose one of the two.")


def _order(layer: SparseLayer, text: Any, groups: int) -> list[int]:
    """Order of the experts in which groups are neighbours: similar ones, unless modalities or groups own places."""
    if groups == 1 or getattr(text, "is_isolated", False) or (getattr(text, "n_group", 1) or 1) > 1:
        return list(range(layer.experts.num_experts))
    return similar_neighbours(space_similarity(*gated_stacks(layer)), groups)


def _factors(
    layers: Sequence[SparseLayer],
    orders: Mapping[int, Sequence[int]],
    wish: LatentWish,
    moments: Mapping[int, Moments] | None,
) -> dict[int, LatentFactors]:
    """Factor each layer; under an error budget, with the largest size that one of them needs."""

    def factor(layer: SparseLayer, rank: int | None, ratio: float | None, max_error: float | None) -> LatentFactors:
        order = list(orders[layer.index])
        gate, up, down = (stack[order] for stack in gated_stacks(layer))
        inputs, inner = (None, None) if moments is None else moments[layer.index].means
        return latent_factors(
            gate,
            up,
            down,
            num_groups=wish.groups,
            rank=rank,
            ratio=ratio,
            max_error=max_error,
            multiple_of=wish.multiple_of,
            input_moment=inputs,
            inner_moments=None if inner is None else inner[order],
        )

    found = {layer.index: factor(layer, wish.rank, wish.ratio, wish.max_error) for layer in layers}
    sizes = {own.weights["latent_gate"].shape[1] for own in found.values()}
    return found if len(sizes) == 1 else {layer.index: factor(layer, max(sizes), None, None) for layer in layers}


def latent_folder(
    folder: str | Path, out: str | Path, *, rows: Rows, wish: LatentWish, dry_run: bool = False
) -> tuple[Draft, Certificate | None]:
    """Make the experts of the model of a folder latent.

    Args:
        folder: Of the model.
        out: Of the new one.
        rows: Calibration rows.
        wish: How.
        dry_run: Stop at what would be lost.

    Returns:
        As `change_folder`. What is lost of a modality is the relative error of the weights of its experts, by its use
        of them.
    """

    def decide(model: Any, batches: Iterable[Batch]) -> Draft:
        _check(model, wish)
        found = gather(model, batches, moments=wish.whiten)
        new, factors, orders = _make_latent(model, wish, found.moments if wish.whiten else None)
        sizes = [own.parameters for own in factors.values()]
        details = {
            "groups": wish.groups,
            "size": factors[min(factors)].weights["latent_gate"].shape[1],
            "whitened": wish.whiten,
            "materialized": wish.materialize,
            "expert_parameters": [sum(before for before, _ in sizes), sum(after for _, after in sizes)],
            "relative_error": {str(index): own.relative_error.tolist() for index, own in factors.items()},
        }
        losses = _losses(model, orders, factors, found)
        return Draft("latent", losses, new.save_pretrained, details=details)

    return change_folder(folder, out, decide, rows, dry_run=dry_run)


def _losses(
    model: Any, orders: Mapping[int, list[int]], factors: Mapping[int, LatentFactors], found: Statistics
) -> Losses:
    errors = {}
    for layer in sparse_layers(model):
        before = weight_features(*gated_stacks(layer)).double()
        after = torch.empty_like(before)
        after[orders[layer.index]] = weight_features(*multiplied_out(factors[layer.index].weights)).double()
        errors[layer.index] = (after - before).norm(dim=-1) / before.norm(dim=-1)
    return losses_by_use(found.saliency, errors, "weight error")


__all__ = ["LatentWish", "latent_folder", "multiplied_out", "to_latent"]
