"""Rows with shuffled media: each has another row's, so that a loss tells whether a model looks at its media."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset

from unimoe import Modality

from ..rows import Row
from .augment import sample_generator
from .dataset import MixtureDataset, Sample
from .order import SampleIndex

_CYCLE = 4
Items = list[dict[str, Any]]


class ShuffledMedia(Dataset):
    """Rows of a mixture with the media of another of them.

    As `python -m evaluation --shuffled-media` does: the distinct media of rows that have the same kinds of media in
    the same order go round in one random cycle, so that no row keeps its own and rows that shared a picture share
    another.
    The other row's answer may be the same by chance. Rows without media, and those that no other row has media for,
    are left out.

    Args:
        dataset: The mixture, of files alone.
        groups: Numbers of rows that exchange their media among them.
    """

    def __init__(self, dataset: MixtureDataset, groups: Sequence[Sequence[int]]) -> None:
        self.dataset = dataset
        self.donors: dict[int, int] = {}
        for rows in groups:
            self.donors |= dict(self._exchange(rows))

    def _exchange(self, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Pairs of a row and the row whose media it gets."""
        owners: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number in rows:
            media = asked_media(self._row(number))
            if media:
                owners[tuple(item["type"] for item in media)][signature(media)].append(number)
        for alike in owners.values():
            distinct = list(alike.values())
            generator = sample_generator(self.dataset.seed, _CYCLE, rows[0])
            order = torch.randperm(len(distinct), generator=generator).tolist()
            if len(distinct) > 1:
                for own, other in zip(order, order[1:] + order[:1], strict=True):
                    yield from ((number, distinct[other][0]) for number in distinct[own])

    def _row(self, number: int) -> Row:
        return self.dataset.row(SampleIndex(0, number, number))[0]

    def __getitem__(self, index: SampleIndex) -> Sample:
        """Decode one sample with the media of another row."""
        row, augment = self.dataset.row(index)
        media = iter(asked_media(self._row(self.donors[index.row])))
        messages = [
            message
            if message["role"] == "assistant"
            else {**message, "content": [item if is_text(item) else next(media) for item in message["content"]]}
            for message in row.messages
        ]
        return self.dataset.sample(index, replace(row, messages=messages), augment)


def asked_media(row: Row) -> Items:
    """Media of a row that are asked about, in order: not those of answers."""
    turns = (message for message in row.messages if message["role"] != "assistant")
    return [item for message in turns for item in message["content"] if not is_text(item)]


def is_text(item: dict[str, Any]) -> bool:
    """Whether an item is no medium."""
    return bool(item["type"] == Modality.TEXT.key)


def signature(media: Items) -> str:
    """Write media as a text that is equal for equal media."""
    return hashlib.sha256(repr([sorted(item.items()) for item in media]).encode("utf-8", "surrogatepass")).hexdigest()


__all__ = ["ShuffledMedia", "asked_media"]
