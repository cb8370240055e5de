"""Merge: groups of similar experts become one expert each, the average of their weights, aligned and by use.

Models of this package keep a router row for every expert and let the merged one answer for its group
(`expert_aliases`), which is exact for copies. transformers' classes have one expert for each row: there, each member
gets the merged weights, which saves nothing and shows what merging does; or the rows of all but the most used member
go, which changes what is chosen. E experts, E' after merging.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..analysis.diversity import cosine_similarity
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..errors import UniMoEError
from .averages import group_experts, merge_experts, weight_features
from .calibration import Batch
from .certificate import Certificate
from .expert_axis import kept_config, kept_pieces
from .folders import Draft, Losses, Rows, change_folder
from .mixture import SparseLayer, gated_stacks, rebuild, sparse_layers
from .saliency import Saliency
from .statistics import Statistics, gather, losses_by_use

Similarity = Literal["outputs", "weights", "router"]
RowsOf = Literal["keep", "drop"]
Stacks = tuple[Tensor, Tensor, Tensor]
"""Gate, up and down projections of experts, as `gated_stacks` gives them."""
Aliases = Mapping[int, Sequence[int]]
"""Sparse layer -> group of each expert, in the order of their first members."""


def merge(
    model: Any,
    aliases: Aliases,
    *,
    counts: Mapping[int, Tensor] | None = None,
    align: bool = True,
    rows: RowsOf = "keep",
) -> Any:
    """Make the model whose groups of experts are one expert each, in memory.

    Args:
        model: Of this package, or of transformers with stacked gated experts.
        aliases: Of each sparse layer; see `similar_experts`.
        counts: Layer -> how often each expert is used, its weight in the average. None: equal.
        align: Put the channels of each expert in the order in which they fit the most used one.
        rows: `keep`: the router chooses as before. `drop`: only the row of the most used member of each group stays;
            of each layer as many.

    Returns:
        A new model in evaluation mode.

    Raises:
        UniMoEError: If the layers are others than the model's, or the experts of a kind that has no average.
    """
    layers = _check(model, aliases)
    return _with_merged(model, aliases, _merged(layers, aliases, counts, align), counts, rows)


def _check(model: Any, aliases: Aliases) -> list[SparseLayer]:
    """Return the sparse layers of a model whose experts can be merged so."""
    layers = sparse_layers(model)
    if getattr(model.config.get_text_config(), "expert_aliases", None):
        raise UniMoEError(
            "expert_aliases", "the experts were merged already.", "Merge the model before that, further."
        )
    if [layer.index for layer in layers] != sorted(aliases):
        problem = f"it names the layers {sorted(aliases)}; the sparse layers are {[own.index for own in layers]}."
        raise UniMoEError("aliases", problem, "Name each sparse layer.")
    return layers


def _with_merged(
    model: Any, aliases: Aliases, merged: Mapping[int, Stacks], counts: Mapping[int, Tensor] | None, rows: RowsOf
) -> Any:
    """Make the model of merged experts; see `merge`."""
    layers, state = sparse_layers(model), dict(model.state_dict())
    if rows == "drop":
        kept = {index: _most_used(own, None if counts is None else counts[index]) for index, own in aliases.items()}
        config = kept_config(model.config, kept)
        state = {name: piece.take(state) for name, piece in kept_pieces(state, model.config, kept).items()}
    elif isinstance(model.config, UniMoEConfig | UniMoETextConfig):
        config = type(model.config).from_dict(model.config.to_dict())
        config.get_text_config().expert_aliases = [list(aliases[layer.index]) for layer in layers]
    else:
        config = model.config
        merged = {index: _of_members(stacks, aliases[index]) for index, stacks in merged.items()}
    for layer in layers:
        gate, up, down = merged[layer.index]
        state[f"{layer.name}.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        state[f"{layer.name}.experts.down_proj"] = down
    return rebuild(model, config, state)


def similar_experts(model: Any, found: Statistics, number: int, *, similarity: Similarity = "outputs") -> Aliases:
    """Group the experts of each sparse layer by average linkage.

    Args:
        model: The model.
        found: What reached its experts.
        number: E'.
        similarity: Cosine of `outputs`: mean answers to the same hidden states (HC-SMoE, arXiv 2410.08589).
            `weights`: all weights in a row. `router`: rows of the router.
    """
    return {
        layer.index: group_experts(_similarity(layer, found.states[layer.index], similarity), number)
        for layer in sparse_layers(model)
    }


@torch.no_grad()
def _similarity(layer: SparseLayer, states: Tensor, similarity: Similarity) -> Tensor:
    gate, up, down = gated_stacks(layer)
    if similarity == "weights":
        return cosine_similarity(weight_features(gate, up, down))
    if similarity == "router":
        rows = layer.router.weight[..., : len(gate), :]
        return cosine_similarity(rows.movedim(-2, 0).flatten(1))
    ones = torch.ones_like(states[:, :1])
    answers = [
        layer.experts.forward(states, torch.full((len(states), 1), e, device=states.device), ones).mean(dim=0)
        for e in range(len(gate))
    ]
    return cosine_similarity(torch.stack(answers))


def _merged(
    layers: Sequence[SparseLayer], aliases: Aliases, counts: Mapping[int, Tensor] | None, align: bool
) -> dict[int, Stacks]:
    """Average the groups of each layer."""
    used = {layer.index: None if counts is None else counts[layer.index] for layer in layers}
    return {
        layer.index: merge_experts(*gated_stacks(layer), aliases[layer.index], counts=used[layer.index], align=align)
        for layer in layers
    }


def _of_members(stacks: Stacks, aliases: Sequence[int]) -> Stacks:
    """Give each member of a group what its group has."""
    gate, up, down = (stack[list(aliases)] for stack in stacks)
    return gate, up, down


def _most_used(aliases: Sequence[int], counts: Tensor | None) -> list[int]:
    used = torch.ones(len(aliases)) if counts is None else counts
    groups = [[e for e, own in enumerate(aliases) if own == group] for group in range(max(aliases) + 1)]
    return [max(group, key=lambda expert: float(used[expert])) for group in groups]


@dataclass(frozen=True)
class MergeWish:
    """How experts are merged.

    Args:
        keep: E', experts of each layer after it.
        similarity: See `similar_experts`.
        align: See `merge`.
        rows: See `merge`.
    """

    keep: int
    similarity: Similarity = "outputs"
    align: bool = True
    rows: RowsOf = "keep"


def merge_folder(
    folder: str | Path, out: str | Path, *, rows: Rows, wish: MergeWish, dry_run: bool = False
) -> tuple[Draft, Certificate | None]:
    """Merge the experts of the model of a folder.

    Args:
        folder: Of the model.
        out: Of the new one.
        rows: Calibration rows.
        wish: How experts are merged.
        dry_run: Stop at what would be lost.

    Returns:
        As `change_folder`. What is lost of a modality is the relative change of the weights of its experts, by its use
        of them.
    """

    def decide(model: Any, batches: Iterable[Batch]) -> Draft:
        found = gather(model, batches)
        aliases = similar_experts(model, found, wish.keep, similarity=wish.similarity)
        counts = found.saliency.scores("frequency")
        _check(model, aliases)
        merged = _merged(sparse_layers(model), aliases, counts, wish.align)
        new = _with_merged(model, aliases, merged, counts, wish.rows)
        details = {
            "similarity": wish.similarity,
            "rows": wish.rows,
            "aliases": {str(layer): list(own) for layer, own in aliases.items()},
        }
        losses = _losses(model, aliases, merged, found.saliency)
        return Draft("merge", losses, new.save_pretrained, details=details)

    return change_folder(folder, out, decide, rows, dry_run=dry_run)


def _losses(model: Any, aliases: Aliases, merged: Mapping[int, Stacks], found: Saliency) -> Losses:
    errors = {}
    for layer in sparse_layers(model):
        before = weight_features(*gated_stacks(layer)).double()
        after = weight_features(*_of_members(merged[layer.index], aliases[layer.index])).double()
        errors[layer.index] = (after - before).norm(dim=-1) / before.norm(dim=-1)
    return losses_by_use(found, errors, "weight error")


__all__ = ["Aliases", "MergeWish", "Similarity", "merge", "merge_folder", "similar_experts"]
