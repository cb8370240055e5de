"""What an operation did to a model: answers before and after on the same rows, by modality.

What is compared are the distributions of the tokens that rows ask for. Those of the model before are kept in a
temporary folder, so that one model at a time is in memory.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UniMoEError
from ..modality import Modality
from .calibration import IGNORED, Batch, on_device
from .dense_sources import TOLERANCE


class Damage(NamedTuple):
    """What became of the rows with a modality.

    Args:
        rows: How many have media of it; of text, none at all.
        tokens: How many were to be predicted.
        loss_before, loss_after: Mean cross-entropy of these tokens, nats.
        divergence: Mean Kullback-Leibler divergence of the distributions after from those before, nats.
        changed_top: Share of the tokens whose likeliest token is another.
    """

    rows: int
    tokens: int
    loss_before: float
    loss_after: float
    divergence: float
    changed_top: float


@dataclass(frozen=True)
class Difference:
    """How two models differ on the same rows.

    Args:
        largest: Largest absolute difference of a logit, relative to the largest absolute logit before.
        by_modality: Key -> what became of its rows.
        is_exact: Whether the difference is within rounding.
    """

    largest: float
    by_modality: dict[str, Damage]
    is_exact: bool


@dataclass
class Answers:
    """Logits of a model at the tokens that rows ask for, on the disk.

    Args:
        batches: The rows.
        tokens: How many they ask for.
    """

    batches: Iterable[Batch]
    tokens: int = 0
    _folder: Any = field(default_factory=lambda: tempfile.TemporaryDirectory(prefix="unimoe-"), repr=False)

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, batches: Iterable[Batch]) -> "Answers":
        """Ask a model.

        Args:
            model: In evaluation mode.
            batches: Rows, which can be gone through several times.

        Raises:
            UniMoEError: If no row asks for a token.
        """
        answers = cls(batches)
        for number, batch in enumerate(batches):
            logits = ask(model, batch)
            torch.save(logits, answers._path(number))
            answers.tokens += len(logits)
        if not answers.tokens:
            raise UniMoEError(type(model).__name__, "no calibration row asks for a token.", "Add answers to the rows.")
        return answers

    def pairs(self, model: Any) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Ask another model the same, batch by batch.

        Args:
            model: With the same vocabulary, in evaluation mode.

        Yields:
            The rows, and the logits of the first model and of this one, (P, V).
        """
        for number, batch in enumerate(self.batches):
            yield batch, torch.load(self._path(number), mmap=True), ask(model, batch)

    @torch.no_grad()
    def compare(self, model: Any) -> Difference:
        """Compare another model with the one that was asked.

        Args:
            model: With the same vocabulary, in evaluation mode.
        """
        sums: dict[Modality, list[Tensor]] = {}
        largest = scale = 0.0
        for batch, before, after in self.pairs(model):
            if len(before):
                largest = max(largest, float((after.double() - before.double()).abs().max()))
                scale = max(scale, float(before.abs().max()))
            for row, values in enumerate(_by_row(before, after, batch)):
                for modality in batch.modalities(row):
                    sums.setdefault(modality, []).append(values)
        relative = largest / max(scale, 1e-30)
        found = {modality.key: _sum_up(sums[modality]) for modality in Modality if modality in sums}
        return Difference(relative, found, relative <= TOLERANCE[model.dtype])

    def _path(self, number: int) -> Path:
        return Path(self._folder.name, f"{number}.pt")


def ask(model: Any, batch: Batch) -> Tensor:
    """Return the logits at the tokens that a batch asks for, in the order of its rows, (P, V).

    Args:
        model: In evaluation mode.
        batch: Its rows.
    """
    logits = model(**on_device(batch, model.device), use_cache=False).logits[:, :-1]
    answers: Tensor = logits[batch.labels[:, 1:].to(logits.device) != IGNORED].cpu()
    return answers


def _by_row(before: Tensor, after: Tensor, batch: Batch) -> Iterator[Tensor]:
    """Yield tokens, losses before and after, divergence and changed tokens, summed up for each row, (5,)."""
    labels = batch.labels[:, 1:]
    targets = labels[labels != IGNORED][:, None]
    old, new = (logits.double().log_softmax(dim=-1) for logits in (before, after))
    values = torch.stack(
        [
            torch.ones(len(targets), dtype=torch.float64),
            -old.gather(-1, targets)[:, 0],
            -new.gather(-1, targets)[:, 0],
            (old.exp() * (old - new)).sum(dim=-1),
            (old.argmax(dim=-1) != new.argmax(dim=-1)).double(),
        ],
        dim=-1,
    )
    for own in values.split((labels != IGNORED).sum(dim=-1).tolist()):
        yield own.sum(dim=0)


def _sum_up(rows: list[Tensor]) -> Damage:
    tokens, *sums = torch.stack(rows).sum(dim=0).tolist()
    return Damage(len(rows), int(tokens), *(value / max(tokens, 1) for value in sums))


__all__ = ["Answers", "Damage", "Difference", "ask"]
