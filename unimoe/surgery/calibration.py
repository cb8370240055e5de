"""Calibration: rows on which an operation looks at a model, with the modality of each token.

A set that lacks a modality ruins it without a word (the experts of what is absent look unused), so one that the model
takes and no row has is refused, unless the modalities are named.
"""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..configuration_unimoe import UniMoEConfig
from ..errors import DataError
from ..files.json_rows import JsonRows
from ..files.strict_json import parse_json
from ..modality import Modality
from ..processing.rows import find_item, read_row

IGNORED = -100
_PLURAL = {Modality.IMAGE: "pictures", Modality.VIDEO: "clips", Modality.AUDIO: "sounds", Modality.SPEECH: "speech"}


class Batch(NamedTuple):
    """Rows as a model takes them.

    Args:
        inputs: Arguments of the model's forward.
        labels: Tokens that are to be predicted, (B, S); -100 elsewhere.
        modality_ids: `Modality` of each token, (B, S).
        attention_mask: False for padding, (B, S), bool.
    """

    inputs: dict[str, Any]
    labels: Tensor
    modality_ids: Tensor
    attention_mask: Tensor

    def modalities(self, row: int) -> set[Modality]:
        """Modalities of the media of a row; of a row without any, text."""
        found = set(map(Modality, self.modality_ids[row][self.attention_mask[row]].unique().tolist()))
        return found - {Modality.TEXT} or {Modality.TEXT}


def as_batch(inputs: Mapping[str, Any]) -> Batch:
    """Read a batch of a processor or tokenizer.

    Args:
        inputs: With `input_ids` (B, S); optional: `attention_mask`, `mm_token_type_ids`, `labels` and
            `assistant_masks` (B, S), and features. Without labels, what the assistant says is to be predicted; of a
            row without any, each token of text.
    """
    values = dict(inputs)
    ids: Tensor = values["input_ids"]
    mask = values.get("attention_mask")
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    kinds = values.get("mm_token_type_ids")
    kinds = torch.zeros_like(ids) if kinds is None else kinds
    learned = values.pop("assistant_masks", None)
    labels = values.pop("labels", None)
    if labels is None:
        learned = torch.zeros_like(mask) if learned is None else learned.bool()
        is_said = torch.where(learned.any(dim=-1, keepdim=True), learned, kinds == Modality.TEXT)
        labels = ids.masked_fill(~(is_said & mask), IGNORED)
    return Batch(values, labels, kinds, mask)


def on_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Return the inputs of a batch on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.inputs.items()}


class RowIndex(NamedTuple):
    """A row of a file.

    Args:
        file: Which file, from 0.
        row: Which row of it, from 0.
    """

    file: int
    row: int


@dataclass(frozen=True)
class Calibration:
    """Rows of files, processed batch by batch each time they are gone through.

    Args:
        files: Where the rows stand.
        processor: Of the model; a tokenizer for a model of text.
        rows: Those that are used.
        batch_size: Rows of a batch.
        modalities: That the rows have.
    """

    files: Sequence[JsonRows]
    processor: Any
    rows: Sequence[RowIndex]
    batch_size: int
    modalities: Collection[Modality]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches, always the same."""
        for start in range(0, len(self.rows), self.batch_size):
            rows = self.rows[start : start + self.batch_size]
            places = [self.files[file].where(row) for file, row in rows]
            inputs = self._process([_messages(self.files[file], row) for file, row in rows], places)
            if not inputs["input_ids"].shape[-1]:
                raise DataError(places[0], "the row has no token.", "Leave it out.")
            yield as_batch(inputs)

    @property
    def names(self) -> str:
        """Names of the files."""
        return ", ".join(Path(file.path).name for file in self.files)

    def _process(self, conversations: list[Any], places: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {"return_tensors": "pt"}
        is_text = isinstance(self.processor, PreTrainedTokenizerBase)
        try:
            if is_text and self.processor.pad_token is None:
                self.processor.pad_token = self.processor.eos_token  # the attention mask tells them apart
            if is_text:
                conversations = [
                    _as_text(conversation, place) for conversation, place in zip(conversations, places, strict=True)
                ]
            if is_text and not self.processor.chat_template:
                texts = ["\n".join(message["content"] for message in messages) for messages in conversations]
                return dict(self.processor(texts, padding=True, **options))
            options |= {"padding": True} if is_text else {"processor_kwargs": {"padding": True}}
            options |= {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
            return dict(self.processor.apply_chat_template(conversations, **options))
        except (ImportError, OSError, ValueError) as error:
            problem = f"the processor refuses a row from here on ({' '.join(str(error).split())})."
            raise DataError(places[0], problem, "Correct the row, or leave it out.") from error


def _as_text(messages: list[dict[str, Any]], where: str) -> list[dict[str, str]]:
    """Turn items of text into text, as the templates of language models take it."""
    if _media(messages) != {Modality.TEXT}:
        raise DataError(where, "the row has media, and the model takes text alone.", "Leave the row out.")
    return [
        {"role": message["role"], "content": "\n".join(item["text"] for item in message["content"])}
        for message in messages
    ]


def read_calibration(
    paths: str | Path | Sequence[str | Path],
    model: Any,
    processor: Any,
    *,
    limit: int | None = 256,
    batch_size: int = 8,
    modalities: Collection[str] | None = None,
    seed: int = 0,
) -> Calibration:
    """Choose the rows on which an operation looks at a model.

    Args:
        paths: JSON Lines of `messages`, as for training and evaluation; one file or several.
        model: The model, for the modalities that it takes.
        processor: Of the model; a tokenizer for a model of text.
        limit: Rows that are used, chosen evenly among the kinds of media that the rows have; None: all.
        batch_size: Rows of a batch.
        modalities: Keys of the modalities that are meant. None: all that the model takes.
        seed: Of the choice.

    Raises:
        DataError: If a file or a row cannot be read, or a modality has no row.
    """
    files = [JsonRows(str(path)) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for file in files:
        if file.broken is not None:
            raise file.broken
    kinds = {
        RowIndex(number, row): _media(_messages(file, row))
        for number, file in enumerate(files)
        for row in range(len(file))
    }
    meant = _taken(model) if modalities is None else {Modality.from_key(key) for key in modalities}
    rows = [row for row, kind in kinds.items() if modalities is None or kind <= meant]
    found = {modality for row in rows for modality in kinds[row]}
    if missing := [modality for modality in Modality if modality in meant - found]:
        what = " and ".join(_PLURAL.get(modality, modality.key) for modality in missing)
        named = ",".join(modality.key for modality in Modality if modality in meant & found)
        cure = f"Add such rows; or, if what becomes of {what} does not matter, pass modalities {named or 'text'!r}."
        places = ", ".join(file.path for file in files)
        raise DataError(places, f"the model takes {what}, and no calibration row has any.", cure)
    return Calibration(files, processor, _choose(kinds, rows, limit, seed), batch_size, found)


def _taken(model: Any) -> set[Modality]:
    """Media that a model takes, as far as its configuration tells; text alone, if none."""
    config = model.config
    if isinstance(config, UniMoEConfig):
        return {Modality.from_key(key) for key in config.encoder_keys} or {Modality.TEXT}
    return {Modality.IMAGE} if getattr(config, "vision_config", None) is not None else {Modality.TEXT}


def _choose(
    kinds: Mapping[RowIndex, frozenset[Modality]], rows: list[RowIndex], limit: int | None, seed: int
) -> list[RowIndex]:
    """Draw rows in turn from those of each kind, in the order of the files."""
    if limit is None or limit >= len(rows):
        return rows
    by_kind: dict[frozenset[Modality], list[RowIndex]] = {}
    for row in random.Random(seed).sample(rows, len(rows)):
        by_kind.setdefault(kinds[row], []).append(row)
    chosen: list[RowIndex] = []
    while len(chosen) < limit:
        for own in by_kind.values():
            chosen += [own.pop()] if own and len(chosen) < limit else []
    return sorted(chosen)


def _messages(file: JsonRows, number: int) -> list[dict[str, Any]]:
    where = file.where(number)
    read = read_row(parse_json(file.raw(number), where=where), where=where, own=("answers", "choices", "cluster"))
    folder = Path(file.path).parent.resolve()
    return [
        {"role": message.role, "content": [find_item(item, where=where, folder=folder) for item in message.items]}
        for message in read
    ]


def _media(messages: list[dict[str, Any]]) -> frozenset[Modality]:
    kinds = (item["type"] for message in messages for item in message["content"])
    return frozenset(Modality.from_key(kind) for kind in kinds if kind != "text") or frozenset({Modality.TEXT})


__all__ = ["IGNORED", "Batch", "Calibration", "RowIndex", "as_batch", "on_device", "read_calibration"]
