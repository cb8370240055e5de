"""Weights of a release become weights of ours: renamed, merged, left out; each tensor that was read gets a row."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..files.folder import AGAIN, CheckpointError
from .parts import Folders, read_source
from .releases import Form, Release, Rule, Source

_LORA = re.compile(r"(.+)[._]lora_([AB])\.weight")
_OF_EXPERT = re.compile(r"\w+\.\w+\.(\d+)\..*?(\w+)\.weight")
_AXES: dict[Form, int] = {"rows": 0, "columns": 1}


@dataclass
class Row:
    """What became of one tensor that was read: `to` is our name of it, `why` says for what reason it was left out."""

    file: str
    name: str
    fate: Literal["taken", "merged", "left out"]
    to: str = ""
    why: str = ""


@dataclass
class Weight:
    """A weight of ours, made when it is asked for.

    Args:
        parts: Number -> tensor as it was read; one, unless the form puts several of one shape side by side.
        form: See `Rule`.
        changes: Scale, B (out, r) and A (r, in) of each pair that is merged.
        rows: Of it and its changes.
    """

    parts: dict[int, Tensor]
    form: Form = "same"
    changes: list[tuple[float, Tensor, Tensor]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def tensor(self) -> Tensor:
        """The first part."""
        return next(iter(self.parts.values()))

    def shape(self, vocabulary: tuple[int, int]) -> tuple[int, ...]:
        """Shape with a vocabulary of so many tokens in the release, and in ours."""
        size = list(self.tensor.shape)
        if self.form in _AXES and len(size) == 2:
            size[_AXES[self.form]] *= len(self.parts)
        if self.form == "queries" and size[:1] == [1]:
            size = size[1:]
        if self.form == "vocabulary" and size[0] == vocabulary[0]:
            size[0] = vocabulary[1]
        return tuple(size)

    def absent(self, shape: tuple[int, ...]) -> str:
        """Numbers of the parts that the whole of a shape lacks; "" if none, or if the shape is of another kind."""
        size, axis = self.tensor.shape, _AXES.get(self.form)
        if axis is None or len(size) != len(shape) or shape[axis] % size[axis] or size[1 - axis] != shape[1 - axis]:
            return ""
        return " and ".join(str(number) for number in range(shape[axis] // size[axis]) if number not in self.parts)

    def value(self, vocabulary: tuple[int, int]) -> Tensor:
        """Values with a vocabulary as for `shape`; float32 if something is merged, else as they were read."""
        value = self.tensor
        if self.form in _AXES:
            value = torch.cat([self.parts[number] for number in sorted(self.parts)], dim=_AXES[self.form])
        for scale, b, a in self.changes:
            value = value.float() + scale * (b.float() @ a.float())
        shape = self.shape(vocabulary)
        if self.form == "vocabulary":
            value = pad(value, (0, 0, 0, shape[0] - len(value)))
        return value.reshape(shape)


class Collector:
    """Reads the files of a release in order; `weights` are ours by name, `rows` what became of each tensor.

    Args:
        release: Its rules.
        folders: Where its files lie.
        config: Its configuration, of which the LoRA of the experts of 8e is read.
    """

    def __init__(self, release: Release, folders: Folders, config: dict[str, Any]) -> None:
        self.release = release
        self.folders = folders
        self.config = config
        self.weights: dict[str, Weight] = {}
        self.rows: list[Row] = []

    def read(self, source: Source) -> None:
        """Read a file.

        Raises:
            CheckpointError: If a tensor of it has no place, or a pair does not fit the weight it changes.
        """
        pairs: dict[str, dict[str, tuple[Tensor, Row]]] = {}
        for (path, key), tensor in read_source(source, self.folders, self.release).items():
            name = key if source.expert is None else self._name_of_expert(path, key, source.expert)
            pair = _LORA.fullmatch(name) if source.is_lora else None
            if pair:
                row = self._row(path, key, "merged")
                pairs.setdefault(f"{pair[1]}.weight", {})[pair[2]] = (tensor, row)
            elif source.is_lora and source.expert is not None:
                self._row(path, key, "left out").why = "the released loader takes it from the files of the experts"
            else:
                self._take(path, key, name, tensor)
        scale = self._scale(source) if pairs else 0.0
        for name, pair_of in pairs.items():
            self._merge(name, pair_of, scale)

    def _row(self, path: Path, name: str, fate: Literal["taken", "merged", "left out"]) -> Row:
        self.rows.append(Row(f"{path.parent.name}/{path.name}", name, fate))
        return self.rows[-1]

    def _name_of_expert(self, path: Path, name: str, expert: int) -> str:
        """Name in 8e of a tensor of an expert's file, whose layer and projection alone count."""
        if not (found := _OF_EXPERT.fullmatch(name)):
            raise CheckpointError(path.parent, f"{path.name} holds {name}, which is no weight of a layer. {AGAIN}")
        return f"model.layers.{found[1]}.mlp.deepspeed_moe.experts.deepspeed_experts.{expert}.{found[2]}.weight"

    def _rule(self, path: Path, name: str) -> tuple[Rule, str, int]:
        """First rule for a name, our name, and the number of the part."""
        plain = name.removeprefix("base_model.")
        plain = plain.removeprefix("model.") if plain.startswith(("model.model.", "model.lm_head.")) else plain
        for rule in self.release.rules:
            if found := re.fullmatch(rule.pattern, plain):
                return rule, found.expand(rule.to), int(found.groupdict().get("part", 0))
        raise CheckpointError(
            path.parent,
            f"{path.name} holds {name}, for which {self.release.title} has no place. Give the release's own files.",
        )

    def _take(self, path: Path, key: str, name: str, tensor: Tensor) -> None:
        rule, ours, number = self._rule(path, name)
        row = self._row(path, key, "taken" if ours else "left out")
        row.to, row.why = ours, rule.why
        if not ours:
            return
        before = self.weights.get(ours)
        if before is not None and rule.form in _AXES and number not in before.parts:
            self._put_beside(before, number, tensor, row)
            return
        for old in before.rows if before is not None else ():
            old.fate, old.why = "left out", f"replaced by {path.name}, which is read later"
        self.weights[ours] = Weight({number: tensor}, rule.form, rows=[row])

    def _put_beside(self, weight: Weight, number: int, tensor: Tensor, row: Row) -> None:
        if tensor.shape != weight.tensor.shape:
            shapes = f"{tuple(tensor.shape)}, but {weight.rows[0].name} is {tuple(weight.tensor.shape)}"
            raise CheckpointError(self.folders.tuned, f"{row.name} in {row.file} is {shapes}. {AGAIN}")
        weight.parts[number] = tensor
        weight.rows.append(row)

    def _merge(self, name: str, pair: dict[str, tuple[Tensor, Row]], scale: float) -> None:
        _, row = next(iter(pair.values()))
        path = Path(row.file)
        _, ours, _ = self._rule(path, name)
        weight = self.weights.get(ours)
        if len(pair) != 2 or weight is None:
            lacks = "the other factor" if weight else f"the weight {ours} that it changes"
            raise CheckpointError(path, f"of {row.name}, {lacks} is missing. {AGAIN}")
        (a, row_a), (b, row_b) = pair["A"], pair["B"]
        shapes = [tuple(tensor.shape) for tensor in (weight.tensor, b, a)]
        if weight.tensor.dim() != 2 or shapes[0] != (len(b), a.shape[-1]) or b.shape[-1] != len(a):
            raise CheckpointError(
                path, f"the pair of {row.name} is {shapes[1]} and {shapes[2]}, but {ours} is {shapes[0]}. {AGAIN}"
            )
        row_a.to = row_b.to = ours
        weight.changes.append((scale, b, a))
        weight.rows += [row_a, row_b]

    def _scale(self, source: Source) -> float:
        """Return alpha / r of the pairs in a file: an adapter has a configuration of its own, experts the model's."""
        if source.expert is not None:
            names, where, values = ("lora_alpha", "lora_r"), "config.json", self.config
        else:
            where = "adapter_config.json"
            names, values = ("lora_alpha", "r"), self.folders.object(self.folders.tuned, where)
        alpha, rank = (values.get(name) for name in names)
        if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
            raise CheckpointError(
                self.folders.tuned, f"{where} has {names[0]} {alpha!r} and {names[1]} {rank!r}; both are numbers."
            )
        return alpha / rank


def check_weights(
    weights: dict[str, Weight], expected: dict[str, tuple[int, ...]], vocabulary: tuple[int, int], source: Path
) -> None:
    """Refuse weights that are not those of a model.

    Args:
        weights: By name.
        expected: Shape of each weight of the model.
        vocabulary: As for `Weight.shape`.
        source: Of the weights.

    Raises:
        CheckpointError: Naming the first tensor that is missing, that has no place, or that has another shape.
    """
    for name, weight in weights.items():
        row = weight.rows[0]
        if name not in expected:
            raise CheckpointError(source, f"{row.name} in {row.file} has no place in the model of config.json.")
        if (shape := weight.shape(vocabulary)) != expected[name]:
            if absent := weight.absent(expected[name]):
                raise CheckpointError(source, f"its files lack part {absent} of {name}; {row.name} is there. {AGAIN}")
            raise CheckpointError(
                source, f"{row.name} in {row.file} is {shape}, but {name} is {expected[name]} by config.json."
            )
    if missing := sorted(expected.keys() - weights.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(source, f"its files lack {missing[0]}{more}. {AGAIN}")


__all__ = ["Collector", "Row", "Weight", "check_weights"]
