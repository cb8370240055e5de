"""Which share of a model's weights something touched, by part and by expert, so that nothing is skipped in silence.

An optimizer, an adapter, a quantiser, a converter or a calibration walks over parameters and may pass some by without
a word, most often stacked experts. Names are those of this package and of transformers' mixtures, in memory and on
disk.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UniMoEError
from ..files.folder import check_folder
from ..files.tensors import open_weights
from ..modeling.parts import part_of

Weights = str | Path | nn.Module | Mapping[str, Tensor]

_LAYER = re.compile(r"layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(?:banks\.(\d+)\.)?(?:(?!banks)[a-z]\w*\.)?(\d+)?")


class Entry(NamedTuple):
    """Weights of one part in one place, and how much of them was touched.

    Args:
        part: Such as `experts` or `attention`.
        layer: Of the language model; None outside of its layers.
        expert: Its number, if they are an expert's; of experts of several widths, behind that of its group: `1.0`.
        parameters: How many they are.
        touched: How many belong to tensors, or experts of a stack, that were touched.
        changed: How many have another value.
    """

    part: str
    layer: int | None
    expert: str | None
    parameters: int
    touched: int
    changed: int


@dataclass(frozen=True)
class Audit:
    """What was touched.

    Args:
        entries: One for each tensor, and of a stack one for each expert.
        gone: Names that the model has no longer.
        new: Names that it had not before.
    """

    entries: list[Entry]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def share(self, part: str | None = None) -> float:
        """Share of the parameters, of a part or of all, that was touched.

        Raises:
            UniMoEError: If the model has no such part.
        """
        found = [entry for entry in self.entries if part in (None, entry.part)]
        if not found:
            parts = ", ".join(dict.fromkeys(entry.part for entry in self.entries))
            raise UniMoEError(f"The model has no part {part!r}. Its parts are {parts}.")
        return sum(entry.touched for entry in found) / max(sum(entry.parameters for entry in found), 1)

    def by_part(self) -> dict[str, tuple[int, int, int]]:
        """Part -> parameters, touched, changed."""
        sums: dict[str, Counter[str]] = {}
        for entry in self.entries:
            own = sums.setdefault(entry.part, Counter())
            own.update(parameters=entry.parameters, touched=entry.touched, changed=entry.changed)
        return {part: (own["parameters"], own["touched"], own["changed"]) for part, own in sums.items()}

    def untouched_experts(self) -> list[tuple[int | None, str]]:
        """Layer and number of each expert of which nothing was touched."""
        touched: dict[tuple[int | None, str], int] = {}
        for entry in self.entries:
            if entry.expert is not None:
                place = (entry.layer, entry.expert)
                touched[place] = touched.get(place, 0) + entry.touched
        return [place for place, count in touched.items() if not count]

    def require(self, share: float, part: str | None = None) -> None:
        """Refuse less than a share.

        Args:
            share: Between 0 and 1.
            part: Of which part. None: of all parameters.

        Raises:
            UniMoEError: Naming the parts of which less was touched.
        """
        if (found := self.share(part)) >= share:
            return
        sums = {name: touched / max(count, 1) for name, (count, touched, _) in self.by_part().items()}
        low = ", ".join(f"{name} {own:.1%}" for name, own in sums.items() if own < share and part in (None, name))
        raise UniMoEError(
            f"{found:.1%} of the parameters{f' of {part}' if part else ''} were touched, and at least {share:.1%} "
            f"were to be. Too little of: {low}."
        )


def audit(model: nn.Module, touched: Iterable[str | nn.Parameter]) -> Audit:
    """Tell which share of a model's parameters is among those that something says it touches.

    Args:
        model: With all its parameters.
        touched: Parameters, or names of parameters or of modules, whose parameters then all count; such as those of an
            optimizer, or the modules that a quantiser found.

    Raises:
        UniMoEError: If the model has nothing of a name, or a parameter is not the model's.
    """
    parameters = dict(model.named_parameters())
    members: dict[str | int, list[str]] = {id(parameter): [name] for name, parameter in parameters.items()}
    for name in parameters:  # under its own name, and that of each module around it
        for owner in accumulate(name.split("."), "{}.{}".format):
            members.setdefault(owner, []).append(name)
    names: set[str] = set()
    for thing in touched:
        key = thing if isinstance(thing, str) else id(thing)
        if key not in members:
            what = repr(thing) if isinstance(thing, str) else f"a parameter of shape {tuple(thing.shape)}"
            raise UniMoEError(type(model).__name__, f"it has no parameter or module {what}.")
        names.update(members[key])
    counts = ((name, tensor, name in names) for name, tensor in parameters.items())
    return Audit([entry for name, tensor, is_in in counts for entry in _entries(name, tensor, all_or_none=is_in)])


def audit_change(before: Weights, after: Weights) -> Audit:
    """Tell which share of a model's weights is not what it was.

    A tensor, and of stacked experts each expert, is touched if any of its values differs, or its shape or kind.

    Args:
        before: Folder of a model, model, or tensors by name; quantised tensors are compared by what they stand for.
        after: The same later.

    Raises:
        UniMoEError: If a folder has no weights, or nothing has the same name in both.
    """
    old, new = _weights(before), _weights(after)
    common = [name for name in old if name in new]
    if not common:
        raise UniMoEError("There is no tensor of the same name in both. Give the same model before and after.")
    entries = [entry for name in common for entry in _entries(name, old[name], after=new[name])]
    gone = tuple(name for name in old if name not in new)
    return Audit(entries, gone, tuple(name for name in new if name not in old))


def _weights(source: Weights) -> Mapping[str, Tensor]:
    if isinstance(source, nn.Module):
        return {name: parameter.detach() for name, parameter in source.named_parameters()}
    if isinstance(source, str | Path):
        folder = Path(source)
        check_folder(folder)
        return open_weights(folder)
    return source


def _entries(name: str, tensor: Tensor, *, all_or_none: bool = False, after: Any = None) -> Iterator[Entry]:
    """Yield an entry for a tensor, or for each expert of a stack."""
    part = part_of(name)
    layer = int(found[1]) if (found := _LAYER.search(name)) else None
    group, expert = found.groups() if part == "experts" and (found := _EXPERT.search(name)) else (None, None)
    if part != "experts" or expert is not None or tensor.dim() != 3:
        pieces: list[tuple[str | None, Tensor, Any]] = [(expert, tensor, after)]
    else:
        others = after if after is not None and len(after) == len(tensor) else [after] * len(tensor)
        pieces = [(str(number), own, other) for number, (own, other) in enumerate(zip(tensor, others, strict=True))]
    for number, own, other in pieces:
        size = own.numel()
        changed = _differ(own, other) if other is not None else size * all_or_none
        place = ".".join(filter(None, (group, number))) or None
        yield Entry(part, layer, place, size, size if changed else 0, changed)


def as_float(tensor: Any) -> Tensor:
    """Return what a tensor stands for; a quantised one that its kernel alone can read, by what it makes of units."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor.detach()
    if type(tensor).dequantize is not Tensor.dequantize:
        found: Tensor = tensor.dequantize()
        return found
    units = torch.eye(tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
    return nn.functional.linear(units, tensor).T


def _differ(before: Any, after: Any) -> int:
    """Count the values that differ; all, if shapes do."""
    before, after = as_float(before), as_float(after)
    if before.shape != after.shape:
        return int(before.numel())
    kind = torch.promote_types(before.dtype, after.dtype)
    return int((before.to(kind) != after.to(kind)).sum())


__all__ = ["Audit", "Entry", "as_float", "audit", "audit_change"]
