"""What is said before the first step: rows and their media, steps and tokens, a decoded sample of each modality."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers import TrainingArguments

from unimoe import Modality, UniMoEProcessor
from unimoe.errors.terminal import plain
from unimoe.errors.visible import visible
from unimoe.processing.lengths import TokenCounter

from ..checkpoint.folder import rows_of_step
from ..data import BatchSchedule, Collator, MixtureDataset
from ..data.batching.collator import IGNORED
from ..data.batching.windows import WindowFill
from ..data.label_prior import PriorLoss
from ..data.mixture.dataset import SAMPLING_RATE
from ..data.mixture.order import SampleIndex
from ..data.readers.sources import Rows, RowStream
from ..planning.tokens import estimate_tokens, rows_shown
from ..trainer.data import count_steps
from ..trainer.validation import ValidationRows
from ..trainer.validation_plan import ValidationPlan

STREAMED = 100
"""Rows of a stream that are looked at for their media."""
SOUGHT = 10_000
"""Rows among which a sample of each modality is sought."""
PRIOR = "loss of the label prior"


@dataclass(frozen=True)
class Contents:
    """What is in a mixture.

    Args:
        kinds: For each data file, how many of its rows have which modality, of a stream how many of the first; rows
            without media count as `text`.
        is_complete: Whether every row was looked at: there is no stream.
    """

    kinds: list[Counter[str]]
    is_complete: bool

    @property
    def modalities(self) -> list[str]:
        """Modalities that were found, in the order of `Modality`."""
        found = sum(self.kinds, Counter[str]())
        return [modality.key for modality in Modality if found[modality.key]]


def look_at_rows(dataset: MixtureDataset) -> Contents:
    """Find out which media a mixture has, without decoding any."""
    kinds = [
        source.rows.kinds
        if isinstance(source.rows, Rows)
        else Counter(kind for row in islice(source.rows, STREAMED) for kind in row.kinds)
        for source in dataset.sources
    ]
    return Contents(kinds, is_complete=not dataset.has_streams)


def window_warnings(dataset: MixtureDataset, processor: UniMoEProcessor) -> list[str]:
    """Say of some sounds of each file, spread evenly, where they fill the windows of their encoders badly."""
    fill = WindowFill(TokenCounter(processor, sampling_rate=SAMPLING_RATE))
    for source, size in zip(dataset.sources, dataset.sizes, strict=True):
        if isinstance(source.rows, RowStream):
            fill.add_all(islice(source.rows, STREAMED))
        else:
            fill.add_all(source.rows[number] for number in range(0, size, max(size // STREAMED, 1)))
    return fill.warnings()


def count_epochs(
    dataset: MixtureDataset, schedule: BatchSchedule, args: TrainingArguments, *, is_split: bool
) -> float | None:
    """Count how often a stage goes through its mixture; None where that depends on what is packed or comes of streams.

    Args:
        dataset: Rows that train.
        schedule: Their batches.
        args: Of the trainer.
        is_split: Whether the steps are shared out among modalities.
    """
    if dataset.has_streams or is_split:
        return None
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    return None if schedule.config.packing else rows_shown(dataset, schedule, args, args.max_steps) / len(dataset)


def data_table(
    dataset: MixtureDataset, contents: Contents, *, epochs: float | None = None, priors: Sequence[PriorLoss] = ()
) -> Table:
    """Show for each data file how many rows it has, how often they are shown, and which media they have.

    Args:
        dataset: Rows that train.
        contents: Of them.
        epochs: How often the stage goes through the mixture. None: what is shown is for one epoch.
        priors: What the label prior of each file loses on it; none if they are not shown.
    """
    table = Table(title="Data")
    table.add_column("file", overflow="fold")
    table.add_column("rows", justify="right")
    shown = "passes an epoch" if epochs is None else "passes"
    table.add_column("share" if dataset.has_streams else shown, justify="right")
    table.add_column("rows with")
    if priors:
        table.add_column(PRIOR, overflow="fold")
    total = sum(source.weight for source in dataset.sources)
    for number, (source, size, kinds) in enumerate(zip(dataset.sources, dataset.sizes, contents.kinds, strict=True)):
        is_stream = isinstance(source.rows, RowStream)
        weight = f"{source.weight / total:.0%}" if dataset.has_streams else f"{source.weight * (epochs or 1):.3g}"
        counts = ", ".join(f"{key} {kinds[key]:,}" for key in (m.key for m in Modality) if kinds[key])
        if is_stream:
            counts += f" (of the first {STREAMED})"
        prior = [describe_prior(priors[number])] if priors else []
        table.add_row(plain(source.path), "a stream" if is_stream else f"{size:,}", weight, counts, *prior)
    return table


def describe_prior(prior: PriorLoss) -> str:
    """Write what a label prior loses, or why there is none."""
    return f"none: {prior.problem}" if prior.loss is None else f"{prior.loss:.3f}"


def validation_table(rows: ValidationRows, plan: ValidationPlan, args: TrainingArguments) -> Table:
    """Show for each validation file how many rows are looked at, how many are answered, and its label prior.

    Args:
        rows: They, chosen as planned.
        plan: How often and how many.
        args: Of the trainer.
    """
    table = Table(title="Validation", caption=describe_validation(plan, args), caption_justify="left")
    table.add_column("file", overflow="fold")
    for heading in ("rows", "looked at", "answered"):
        table.add_column(heading, justify="right")
    table.add_column(PRIOR, overflow="fold")
    chosen = [rows.rows_of_files(view) for view in ("own", "asked")]
    for name, size, looked, answered, prior in zip(rows.names, rows.dataset.sizes, *chosen, rows.priors, strict=True):
        table.add_row(plain(name), f"{size:,}", f"{looked:,}", f"{answered:,}", describe_prior(prior))
    return table


def describe_validation(plan: ValidationPlan, args: TrainingArguments) -> str:
    """Say how often validation rows are looked at, which share of the work it is, and what is not done."""
    start = "before the first step, " if args.eval_on_start else ""
    if plan.times is None:
        said = f"{start}then as trainer.eval_steps or trainer.eval_strategy says: all rows each time"
    else:
        said = f"{start}every {args.eval_steps:.0f} steps, and after the last: {plan.share:.1%} of the training's work"
    if (plan.share or 0) > plan.allowed:
        said += f", above train.validation.share ({plan.allowed:.0%}): the stage is short, and looks at least at this"
    return f"{said}. No answers are generated: {plan.no_answers}." if plan.no_answers else f"{said}."


def describe_length(
    dataset: MixtureDataset,
    schedule: BatchSchedule,
    collator: Collator,
    args: TrainingArguments,
    *,
    epochs: float | None,
    validated: int | None,
) -> str:
    """Say how long the stage is: steps, rows or packs of a step, epochs, and about how many tokens.

    Args:
        dataset: Rows that train.
        schedule: Their batches.
        collator: Of the stage.
        args: Of the trainer.
        epochs: How often it goes through the mixture, where that is known.
        validated: Validation rows; None if there are none.

    Raises:
        DataError: If a row that is measured cannot be.
    """
    steps = count_steps(dataset, schedule, args, processes=args.world_size)
    size = rows_of_step(args, args.world_size)["step"]
    what = "packs" if schedule.config.packing else "rows"
    parts = [f"{steps:,} steps of {size:,} {what}"]
    if epochs is not None:
        parts.append(f"{epochs:.3g} epochs")
    if found := estimate_tokens(dataset, schedule, collator.processor, args, steps):
        parts.append(f"about {found.total:,.0f} tokens ({found.basis})")
    elif schedule.config.packing:
        parts.append(f"at most {steps * size * (schedule.config.max_length or 0):,} tokens")
    if validated is not None:
        parts.append(f"{validated:,} validation rows")
    return ", ".join(parts)


def show_samples(dataset: MixtureDataset, collator: Collator, modalities: Sequence[str]) -> list[Panel]:
    """Decode one sample of each modality, as the training shows them first: whole and unpacked.

    Args:
        dataset: The mixture.
        collator: Of the training.
        modalities: What to look for; a sample with two of them stands for both.
    """
    waiting = set(modalities)
    whole = replace(collator, max_length=None, packing=False)
    panels = []
    for index in islice(dataset.indices(0), SOUGHT):
        if not waiting:
            break
        kinds = dataset.row(index)[0].kinds
        if kinds & waiting:
            waiting -= kinds
            panels.append(show_sample(dataset, whole, index))
    return panels


def show_sample(dataset: MixtureDataset, collator: Collator, index: SampleIndex) -> Panel:
    """Decode one sample, runs of a placeholder shortened, with what is learned in bold."""
    sample = dataset[index]
    batch = collator([sample])
    tokenizer = collator.processor.tokenizer
    text = Text()
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    kinds = batch["mm_token_type_ids"][0].tolist()
    position = 0
    while position < len(ids):
        end = position + 1
        while end < len(ids) and (kinds[end], labels[end] == IGNORED) == (
            kinds[position],
            labels[position] == IGNORED,
        ):
            end += 1
        piece = visible(tokenizer.decode(ids[position : position + 1] if kinds[position] else ids[position:end]))
        text.append(f"{piece} x {end - position}" if kinds[position] else piece, style=_style(kinds, labels, position))
        position = end
    learned = sum(label != IGNORED for label in labels)
    title = f"One sample: {plain(sample.id)} ({len(ids)} tokens; what is learned in bold, {learned} tokens)"
    return Panel(text, title=title, expand=False)


def _style(kinds: list[int], labels: list[int], position: int) -> str:
    return "dim" if kinds[position] else "" if labels[position] == IGNORED else "bold"


__all__ = [
    "Contents",
    "data_table",
    "describe_length",
    "look_at_rows",
    "show_samples",
    "validation_table",
    "window_warnings",
]
