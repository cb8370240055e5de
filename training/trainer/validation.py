"""The loss on validation rows while a stage trains: of each data file, and of all of them.

A loss is a mean over the labels of all rows, however they fall into batches and processes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe import UniMoEProcessor
from unimoe.errors import ConfigError

from ..config.data import DataConfig
from ..data import Collator, MixtureBatches, MixtureDataset, schedule_batches
from ..data.batching.collator import IGNORED
from ..data.batching.packing import chunk
from ..data.batching.streams import row_modality
from ..data.mixture.order import SampleIndex
from ..distributed.processes import from_all

Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""(items, how many, what is done with them) -> the same items, and how far they are is shown meanwhile."""


class ValidationRows:
    """Rows that a stage does not train on, in the order of their files.

    Of several processes each takes every so many rows. One that has fewer batches than another repeats one, which does
    not count: where processes share experts, or the shards of ZeRO-3, all run the model as often.

    Args:
        config: The stage's `data`, with `validation`. A row longer than `max_length` is treated as `too_long` says.
        dataset: Its validation rows.
        processor: Of the model.
        batch_size: Rows of a batch.
        process, processes: Which process this is, of how many.
        specialists: Keys of the specialists of one run: a batch is of one of them. None: of no importance.
        track: Wraps items, of which there are so many, to show how far their work is.

    Raises:
        DataError: If a row does not fit.
        ConfigError: If a file is named twice.
    """

    def __init__(
        self,
        config: DataConfig,
        dataset: MixtureDataset,
        processor: UniMoEProcessor,
        *,
        batch_size: int,
        process: int = 0,
        processes: int = 1,
        specialists: Sequence[str] | None = None,
        track: Track = lambda items, total, what: items,
    ) -> None:
        validation = config.validation_data
        self.names = source_names([source.path for source in validation.mixture])
        self.dataset, self.track = dataset, track
        self._ends = list(accumulate(self.dataset.sizes))
        self.schedule = schedule_batches(validation, self.dataset, processor, sized=True)
        own = range(process, self.dataset.num_rows, processes)
        indices = self._fitting(track(own, len(own), "measuring validation rows"))
        self.specialists = specialists
        self.batches = list(chunk(indices, batch_size, key=self.specialist))
        self.own_batches = len(self.batches)
        self.loader = DataLoader(
            self.dataset,
            batch_sampler=self.batches,
            collate_fn=Collator(processor, max_length=config.max_length),
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            generator=torch.Generator(),  # its workers' seeds shall not be drawn from the training's
        )

    def _fitting(self, rows: Iterable[int]) -> Iterator[SampleIndex]:
        """Sample indices of rows, without those that are too long and dropped."""
        indices = (SampleIndex(0, row, row) for row in rows)
        if not self.schedule.measures:
            return indices
        return (index for index, _ in MixtureBatches(self.dataset, self.schedule, batch_size=1).fit(indices))

    def specialist(self, index: SampleIndex) -> str | None:
        """Return the specialist of a row, where there are several in one run."""
        return None if self.specialists is None else row_modality(self.dataset.row(index)[0], self.specialists)

    @torch.no_grad()
    def sums(
        self,
        model: nn.Module,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        choose: Callable[[str | None], None] = lambda specialist: None,
    ) -> Tensor:
        """Add up the losses of this process's rows.

        Args:
            model: In evaluation mode.
            prepare: Puts a batch on the model's device.
            choose: Called with the specialist of each batch before it.

        Returns:
            For each data file the sum of its labels' losses, how many labels and how many rows, (files, 3), float64.

        Raises:
            ArithmeticError: If a loss is not finite; the rows are named.
        """
        totals = torch.zeros(len(self.names), 3, dtype=torch.float64)
        self._repeat_one(max(from_all(len(self.batches))))
        tracked = self.track(self.loader, len(self.batches), "validation, batches")
        for number, (indices, batch) in enumerate(zip(self.batches, tracked, strict=True)):
            row_ids = batch.pop("row_ids")
            choose(self.specialist(indices[0]))
            losses, labels = (part.double().cpu() for part in row_losses(model, prepare(batch)))
            if number >= self.own_batches:
                continue
            if bad := [row for row, loss in zip(row_ids, losses, strict=True) if not loss.isfinite()]:
                raise ArithmeticError(f"The loss of validation rows is not finite: {', '.join(bad)}.")
            files = torch.tensor([bisect_right(self._ends, index.row) for index in indices])
            totals.index_add_(0, files, torch.stack([losses, labels, torch.ones_like(losses)], dim=-1))
        return totals

    def _repeat_one(self, batches: int) -> None:
        """Have so many batches, by repeating one of this process, or a row of others if it has none."""
        if len(self.batches) < batches:
            repeated = self.batches[0] if self.batches else [next(self._fitting(range(self.dataset.num_rows)))]
            self.batches += [repeated] * (batches - len(self.batches))

    def describe(self, sums: Tensor) -> dict[str, float]:
        """Name the sums of all processes.

        Args:
            sums: As `sums` returns them, added up, (files, 3).

        Returns:
            `eval_loss` over all labels, `eval_loss/FILE` of each file if there are several, and `eval_rows`; a file
            of which no row fits has no loss.
        """
        losses, labels, rows = sums.sum(dim=0).tolist()
        named = {"eval_loss": losses / max(labels, 1), "eval_rows": int(rows)}
        if len(self.names) > 1:
            for name, (loss, count, _) in zip(self.names, sums.tolist(), strict=True):
                named |= {f"eval_loss/{name}": loss / count} if count else {}
        return named


def row_losses(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of each row's labels, and how many they are: (B,), (B,).

    Logits are computed only where a row of the batch has a label.

    Args:
        model: A `UniMoEForConditionalGeneration`.
        batch: Its inputs, padded, with `labels`, (B, S), -100 where nothing is learned.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = batch["labels"][:, 1:]
    positions = (labels != IGNORED).any(dim=0).nonzero().flatten()  # (P,)
    labels = labels[:, positions]
    logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits  # (B, P, V)
    losses = F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")  # (B, P)
    return losses.sum(dim=-1), (labels != IGNORED).sum(dim=-1)


def source_names(paths: Sequence[str]) -> list[str]:
    """Short names of data files: the file's name without its ending, or the whole path where two have the same.

    Raises:
        ConfigError: If a path is given twice.
    """
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise ConfigError(f"data.validation: {twice[0]} is named twice. Name it once.")
    stems = [Path(path).stem for path in paths]
    return [stem if stems.count(stem) == 1 else path for stem, path in zip(stems, paths, strict=True)]


class ValidateAtEnd(TrainerCallback):
    """Look at the validation rows after the last step, whatever the interval."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for it; at the end of an epoch transformers does."""
        if args.eval_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_evaluate = True
        return control


__all__ = ["ValidateAtEnd", "ValidationRows", "row_losses", "source_names"]
