"""Where experts stand in the tensors of a mixture, in memory and on disk, so that some can be taken and put in order.

Experts are stacked (`experts.gate_up_proj`), or one by one (`experts.3.up_proj.weight`); routers have a row for each.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UniMoEError
from .mixture import LAYER

_EXPERTS = re.compile(r"(.*\.experts\.)(?:banks\.(\d+)\.)?(?:(\d+)\.)?(.*)")
_LAST = re.compile(r"(down_proj|w2)(_bias|\.weight|\.bias|$)")  # what an expert's answer is last made by
_ROUTER = re.compile(r".*\.(?:router|gate)\.(.*)")
_ROWS = {"weight": -2, "noise_weight": -2, "modality_bias": -1, "balance_bias": -1, "bias": -1}
_ROWS["e_score_correction_bias"] = -1
"""Tensors of routers that have an entry for each expert, and its dimension."""

Kept = Mapping[int, Sequence[int]]
"""Index of a sparse layer -> numbers of the experts that it keeps, in their new order."""


class Piece(NamedTuple):
    """What a tensor of the new model is taken from.

    Args:
        source: Name of a tensor.
        dim: Along which its entries are taken.
        entries: Which, in order. None: all of it as it is.
        zeros: Entries of dimension 0 that become 0. None: none of them.
    """

    source: str
    dim: int = 0
    entries: list[int] | None = None
    zeros: list[int] | None = None

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Take it from the tensors of the old model; on the meta device as anywhere."""
        tensor = tensors[self.source]
        if self.zeros is not None:
            return tensor.index_fill(0, torch.tensor(self.zeros, device=tensor.device), 0)
        if self.entries is None:
            return tensor
        return tensor.index_select(self.dim, torch.tensor(self.entries, device=tensor.device))


def kept_config(config: Any, kept: Kept) -> Any:
    """Describe the model that keeps some of its experts.

    Args:
        config: Of the model.
        kept: Of each sparse layer as many.

    Raises:
        ValueError: If the configuration's class refuses so few.
    """
    new = copy.deepcopy(config)
    text = new.get_text_config()
    if getattr(text, "num_experts", None) is None:
        problem = "its experts are counted under a name that is not known here."
        raise UniMoEError(type(config).__name__, problem, "Pass a model of this package, or unimoe build one of it.")
    if groups := getattr(text, "expert_groups", None):
        found = [_kept_groups(groups, order) for order in kept.values()]
        if any(own != found[0] for own in found):
            problem = "its layers would keep the experts of modalities in different places, which it has one list of."
            raise UniMoEError("expert_groups", problem, "Keep as many of each group in each layer, in one order.")
        text.expert_groups = found[0]
    text.num_experts = len(next(iter(kept.values())))
    return type(config).from_dict(new.to_dict())


def _kept_groups(groups: Mapping[str, Sequence[int]], order: Sequence[int]) -> dict[str, list[int]]:
    places = {expert: place for place, expert in enumerate(order)}
    return {key: sorted(places[expert] for expert in group if expert in places) for key, group in groups.items()}


def kept_pieces(tensors: Mapping[str, Tensor], config: Any, kept: Kept) -> dict[str, Piece]:
    """Tell what each tensor of the model with fewer experts is taken from.

    Args:
        tensors: Of the old model by name; only shapes are read.
        config: Of the old model.
        kept: As for `kept_config`.

    Raises:
        UniMoEError: If a tensor of a router has no entry for each expert.
    """
    text = config.get_text_config()
    banks = _Banks.of(text, next(iter(kept.values())))
    pieces: dict[str, Piece] = {}
    for name, tensor in tensors.items():
        place = LAYER.search(name)
        order = list(kept[int(place[1])]) if place and int(place[1]) in kept else []
        if order and (found := _EXPERTS.fullmatch(name)):
            head, bank, expert, tail = found.groups()
            pieces |= banks.pieces(name, head, bank, expert, tail, order)
        elif order and (found := _ROUTER.fullmatch(name)) and found[1] in _ROWS:
            pieces[name] = Piece(name, _ROWS[found[1]], _rows(name, tensor.shape[_ROWS[found[1]]], text, order))
        else:
            pieces[name] = Piece(name)
    return pieces


def zeroed(tensors: Mapping[str, Tensor], config: Any, kept: Kept) -> dict[str, Piece]:
    """Tell what each tensor is taken from if the experts that do not stay answer 0.

    Args:
        tensors: Of the model by name; only shapes are read.
        config: Of the model.
        kept: As for `kept_config`.

    Raises:
        UniMoEError: If experts are changes of one feed-forward, which answers for all.
    """
    text = config.get_text_config()
    if getattr(text, "expert_type", "mlp") == "lora":
        problem = "LoRA experts share a feed-forward, which answers for each of them."
        raise UniMoEError("zero", problem, "Use reroute.")
    banks = _Banks.of(text, range(text.num_experts)).before
    pieces = {name: Piece(name) for name in tensors}
    for name, tensor in tensors.items():
        place, found = LAYER.search(name), _EXPERTS.fullmatch(name)
        if not place or not found or not _LAST.match(found[4]) or int(place[1]) not in kept:
            continue
        members, stays = banks[int(found[2] or 0)], set(kept[int(place[1])])
        local = [int(found[3])] if found[3] else range(len(members))
        gone = [number for number in local if members[number] not in stays]
        if gone:
            pieces[name] = Piece(name, zeros=gone if found[3] is None else list(range(len(tensor))))
    return pieces


def _rows(name: str, count: int, text: Any, order: list[int]) -> list[int]:
    """Entries of a router's tensor: of the experts that are kept, then of null and shared experts."""
    if count < text.num_experts:
        problem = f"it has {count} entries for {text.num_experts} experts."
        raise UniMoEError(name, problem, "Pass a model whose router chooses among its experts one by one.")
    return [*order, *range(text.num_experts, count)]


class _Banks(NamedTuple):
    """Experts by width, before and after: the groups that have stacks of their own; one group, if all are equal."""

    before: list[list[int]]
    after: list[list[int]]

    @classmethod
    def of(cls, text: Any, order: Sequence[int]) -> "_Banks":
        widths = text.expert_widths() if hasattr(text, "expert_widths") else [0] * text.num_experts
        return cls(_by_width(widths), _by_width([widths[expert] for expert in order]))

    def pieces(
        self, name: str, head: str, bank: str | None, expert: str | None, tail: str, order: list[int]
    ) -> dict[str, Piece]:
        """Pieces of the new model that come from a tensor of the experts."""
        members = self.before[int(bank or 0)]
        if expert is None and (tail.startswith(("base.", "latent_"))):
            return {name: Piece(name)}
        found: dict[str, Piece] = {}
        for number, new in enumerate(self.after):
            own = [members.index(order[place]) for place in new if order[place] in members]
            if not own:
                continue
            start = f"{head}banks.{number}." if len(self.after) > 1 else head
            if expert is None:
                found[start + tail] = Piece(name, 0, own)
            elif int(expert) in own:
                found[f"{start}{own.index(int(expert))}.{tail}"] = Piece(name)
        return found


def _by_width(widths: Sequence[int]) -> list[list[int]]:
    return [[e for e, own in enumerate(widths) if own == width] for width in sorted(set(widths))]


__all__ = ["Kept", "Piece", "kept_config", "kept_pieces", "zeroed"]
