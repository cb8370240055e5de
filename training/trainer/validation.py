"""What a stage tells of its validation rows while it trains: of each data file, and of all of them.

Their loss, that of the label prior and that with shuffled media, and greedy answers to a few of them. A loss is a mean
over the labels of all rows, however they fall into batches and processes.
"""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe import UniMoEProcessor
from unimoe.errors import ConfigError

from ..config.data import DataConfig
from ..data import Collator, MixtureBatches, MixtureDataset, Row, Sample, schedule_batches
from ..data.batching.collator import IGNORED
from ..data.batching.packing import chunk
from ..data.batching.streams import row_modality
from ..data.label_prior import Answers, PriorLoss, add_priors, best_prior_loss, count_answers, evenly, label_counter
from ..data.mixture.fitting import keep
from ..data.mixture.order import SampleIndex
from ..data.mixture.shuffled_media import ShuffledMedia
from ..distributed.processes import from_all
from .answers import ANSWER_TOKENS, Answered, Prompts, describe_answers, generate_answers, reference

View = Literal["own", "shuffled", "asked"]
"""How rows are looked at: with their own media, with those of others, or for an answer."""
Viewed = tuple[View, SampleIndex]


class Views(Dataset):
    """Validation rows, and rows with shuffled media; indexed by view and `SampleIndex`."""

    def __init__(self, dataset: MixtureDataset) -> None:
        self.dataset = dataset
        self.shuffled = ShuffledMedia(dataset, [])

    def __getitem__(self, viewed: Viewed) -> tuple[View, Sample]:
        """Decode one sample."""
        view, index = viewed
        return view, (self.shuffled if view == "shuffled" else self.dataset)[index]


class ViewCollator:
    """Makes batches of samples that are viewed alike.

    Args:
        processor: Of the model.
        max_length: Longest row in tokens; with the media of another, a row may be longer.
    """

    def __init__(self, processor: UniMoEProcessor, max_length: int | None) -> None:
        self.collators: dict[View, Callable[[Sequence[Sample]], dict[str, Any]]] = {
            "own": Collator(processor, max_length=max_length),
            "shuffled": Collator(processor),
            "asked": Prompts(processor),
        }

    def __call__(self, viewed: Sequence[tuple[View, Sample]]) -> dict[str, Any]:
        """Process a batch."""
        return self.collators[viewed[0][0]]([sample for _, sample in viewed])


class Looked(NamedTuple):
    """What a process saw of its rows.

    Args:
        sums: For each data file the sum of its labels' losses, how many labels and how many rows, and how much the sum
            grows when media are shuffled, (files, 4), float64.
        answered: Answers to rows.
    """

    sums: Tensor
    answered: list[Answered]


Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""(items, how many, what is done with them) -> the same items, and how far they are is shown meanwhile."""


class ValidationRows:
    """Rows that a stage does not train on, in the order of their files; `choose_rows` says which are looked at.

    Of several processes each takes every so many rows. One that has fewer batches than another repeats one, which does
    not count: where processes share experts, or the shards of ZeRO-3, all run the model as often.

    Args:
        config: The stage's `data`, with `validation`. A row longer than `max_length` is treated as `too_long` says.
        dataset: Its validation rows.
        processor: Of the model.
        batch_size: Rows of a batch.
        process, processes: Which process this is, of how many.
        specialists: Keys of the specialists of one run: a batch is of one of them. None: of no importance.
        training: Each training file's answers, which give the label prior.
        track: Wraps items, of which there are so many, to show how far their work is.

    Raises:
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
        training: Sequence[Answers] = (),
        track: Track = lambda items, total, what: items,
    ) -> None:
        validation = config.validation_data
        self.names = source_names([source.path for source in validation.mixture])
        self.dataset, self.processor, self.training, self.track = dataset, processor, training, track
        self.batch_size, self.process, self.processes = batch_size, process, processes
        self._ends = list(accumulate(self.dataset.sizes))
        self.schedule = schedule_batches(validation, self.dataset, processor, sized=True)
        self.specialists = specialists
        self.views = Views(dataset)
        self.seconds = 0.0
        self.priors: list[PriorLoss] = []
        self.labels: dict[int, str] = {}
        self.batches: list[list[Viewed]] = []
        self.loader = DataLoader(
            self.views,
            batch_sampler=self.batches,
            collate_fn=ViewCollator(processor, config.max_length),
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            generator=torch.Generator(),  # its workers' seeds shall not be drawn from the training's
        )

    def choose_rows(self, most: int | None = None, *, answers: int = 0, shuffled: bool = False) -> None:
        """Choose what is looked at each time: the same rows, spread evenly over each file. Called before any look.

        Args:
            most: Rows of each file, at most. None: all.
            answers: Rows of each file that are answered, at most. Those whose answer is too long are left out.
            shuffled: Whether rows are looked at with shuffled media too.

        Raises:
            DataError: If a row does not fit.
        """
        files = []
        for start, end in pairwise([0, *self._ends]):
            rows = [start + number for number in evenly(end - start, most or end - start)]
            files.append(list(self._fitting(iter(self.track(rows, len(rows), "measuring validation rows")))))
        self.views.shuffled = ShuffledMedia(self.dataset, [[index.row for index in rows] for rows in files] * shuffled)
        count = label_counter(self.processor)
        kept = [count_answers(self._kept(index) for index in rows) for rows in files]
        self.priors = [best_prior_loss(found, self.training, count) for found in kept]
        asked = [rows[number] for rows in files for number in evenly(len(rows), answers)]
        found = {index.row: reference(self._kept(index)) for index in asked}
        self.labels = {row: text for row, text in found.items() if text and count(text) <= ANSWER_TOKENS}
        self.answer_tokens = max(map(count, self.labels.values()), default=0)
        all_rows = [index for rows in files for index in rows]
        self._all: dict[View, list[SampleIndex]] = {
            "own": all_rows,
            "shuffled": [index for index in all_rows if index.row in self.views.shuffled.donors],
            "asked": [index for index in asked if index.row in self.labels],
        }
        self.batches[:] = [
            [(view, index) for index in indices]
            for view, rows in self._all.items()
            for indices in chunk(rows[self.process :: self.processes], self.batch_size, key=self.specialist)
        ]
        self._repeats: list[list[Viewed]] | None = None

    def _fitting(self, rows: Iterator[int]) -> Iterator[SampleIndex]:
        """Sample indices of rows, without those that are too long and dropped."""
        indices = (SampleIndex(0, row, row) for row in rows)
        if not self.schedule.measures:
            return indices
        batches = MixtureBatches(
            self.dataset, self.schedule, batch_size=1, process=self.process, processes=self.processes
        )
        return (index for index, _ in batches.fit(indices))

    def _kept(self, index: SampleIndex) -> Row:
        row = self.dataset.row(index)[0]
        return replace(row, messages=keep(row.messages, index.cut))

    def rows_of_files(self, view: View) -> list[int]:
        """Count the rows of each file that are looked at so, by all processes together."""
        found = Counter(self.file_of(index) for index in self._all[view])
        return [found[file] for file in range(len(self.names))]

    def file_of(self, index: SampleIndex) -> int:
        """Return the number of the data file of a row."""
        return bisect_right(self._ends, index.row)

    def specialist(self, index: SampleIndex) -> str | None:
        """Return the specialist of a row, where there are several in one run."""
        return None if self.specialists is None else row_modality(self.dataset.row(index)[0], self.specialists)

    @torch.no_grad()
    def look(
        self,
        model: nn.Module,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        choose: Callable[[str | None], None] = lambda specialist: None,
    ) -> Looked:
        """Look at this process's rows.

        Args:
            model: In evaluation mode.
            prepare: Puts a batch on the model's device.
            choose: Called with the specialist of each batch before it.

        Raises:
            ArithmeticError: If a loss is not finite; the rows are named.
        """
        looked = Looked(torch.zeros(len(self.names), 4, dtype=torch.float64), [])
        own_batches = self._repeat_some()
        tracked = self.track(self.loader, len(self.batches), "validation, batches")
        for number, (viewed, batch) in enumerate(zip(self.batches, tracked, strict=True)):
            view, indices = viewed[0][0], [index for _, index in viewed]
            row_ids = batch.pop("row_ids", [])
            choose(self.specialist(indices[0]))
            if view == "asked":
                looked.answered.extend(self._answer(model, prepare(batch), indices))
                continue
            losses, labels = (part.double().cpu() for part in row_losses(model, prepare(batch)))
            if number >= own_batches:
                continue
            if bad := [row for row, loss in zip(row_ids, losses, strict=True) if not loss.isfinite()]:
                raise ArithmeticError(f"The loss of validation rows is not finite: {', '.join(bad)}.")
            self._add(looked.sums, view, indices, losses, labels)
        return looked

    def _add(self, sums: Tensor, view: View, indices: list[SampleIndex], losses: Tensor, labels: Tensor) -> None:
        """Add the losses of a batch to the sums of their files."""
        files = torch.tensor([self.file_of(index) for index in indices])
        zero, one = torch.zeros_like(losses), torch.ones_like(losses)
        is_shuffled = torch.tensor([index.row in self.views.shuffled.donors for index in indices])
        added = losses if view == "shuffled" else torch.where(is_shuffled, -losses, zero)
        columns = [zero, zero, zero, added] if view == "shuffled" else [losses, labels, one, added]
        sums.index_add_(0, files, torch.stack(columns, dim=-1))

    def _answer(self, model: nn.Module, inputs: dict[str, Any], indices: list[SampleIndex]) -> Iterator[Answered]:
        """Answer the rows of a batch."""
        bare = getattr(model, "module", model)  # DeepSpeed's engine does not generate
        texts = generate_answers(bare, self.processor, inputs, max_new_tokens=self.answer_tokens)
        for index, text in zip(indices, texts, strict=True):
            yield Answered(self.file_of(index), text, self.labels[index.row])

    def _repeat_some(self) -> int:
        """Have as many batches of each view as any process, by repeating some, at the end; return how many are own.

        Answers are not generated where it matters. A process without a batch takes a row of others.
        """
        if self._repeats is None:
            self._repeats = []
            for view in ("own", "shuffled"):
                own = [batch for batch in self.batches if batch[0][0] == view]
                missing = max(from_all(len(own))) - len(own)
                if missing:
                    self._repeats += [own[0] if own else [(view, self._all[view][0])]] * missing
            self.batches += self._repeats
        return len(self.batches) - len(self._repeats)

    def measure(self, model: nn.Module, *functions: Callable[[Any], Any]) -> dict[str, float]:
        """Look at the rows of all processes, and name what was seen; arguments as for `look`, result of `describe`."""
        began = time.monotonic()
        named = self.describe(self.look(model, *functions))
        self.seconds += time.monotonic() - began
        return named

    def describe(self, looked: Looked) -> dict[str, float]:
        """Name what was seen, of all processes together; all must call this.

        Args:
            looked: By this process.

        Returns:
            `eval_loss` over all labels and `eval_rows`; `eval_loss_prior` where the label prior is defined;
            `eval_loss_shuffled`, the loss with shuffled media, where rows have any; what `describe_answers` returns.
            Losses have `/FILE` of each file too if there are several; a file of which no row fits has none.
        """
        everything = from_all(looked)
        sums = torch.stack([each.sums for each in everything]).sum(dim=0)
        named = self._losses(range(len(self.names)), sums, "") | {"eval_rows": int(sums[:, 2].sum())}
        if len(self.names) > 1:
            for file, name in enumerate(self.names):
                named |= self._losses([file], sums, f"/{name}") if sums[file, 1] else {}
        return named | describe_answers((answer for each in everything for answer in each.answered), self.names)

    def _losses(self, files: Sequence[int], sums: Tensor, suffix: str) -> dict[str, float]:
        """Name the losses of some files together."""
        loss, labels, _, added = sums[list(files)].sum(dim=0).tolist()
        named = {f"eval_loss{suffix}": loss / max(labels, 1)}
        prior = add_priors(self.priors[file] for file in files if sums[file, 1])
        if prior.loss is not None:
            named[f"eval_loss_prior{suffix}"] = prior.loss
        if {self.file_of(index) for index in self._all["shuffled"]} & set(files):
            named[f"eval_loss_shuffled{suffix}"] = (loss + added) / max(labels, 1)
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


__all__ = ["Looked", "ValidateAtEnd", "ValidationRows", "row_losses", "source_names"]
