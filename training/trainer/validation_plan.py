"""How often validation rows are looked at while a stage trains, and how many: so that it takes little of its time.

What is compared is counted work, tokens that a model reads, and not the clock: so the same stage looks at the same
rows at the same steps each time. A row that is looked at counts as one that trains: what its missing backward pass
saves pays for smaller batches and for waiting for the first of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import TrainingArguments

from ..checkpoint.folder import rows_of_step
from ..config.stage import StageConfig
from ..config.train import ValidationConfig
from ..data import BatchSchedule, Collator, MixtureDataset
from .answers import why_not_generated
from .data import count_steps, mean_length
from .trainer import StageTrainer

TIMES = 10
"""How often validation rows are looked at behind the first step, at most, where nothing else is said."""
ENOUGH = 64
"""Rows of each file below which they are looked at less often instead of being fewer."""
FEWEST = 20
"""Rows of each file that are looked at in the shortest stage."""
ANSWER_STEPS = 8
"""Steps in which a batch is answered, each of which costs as much as one row that is looked at."""


@dataclass(frozen=True)
class ValidationPlan:
    """How often and how many validation rows a stage looks at.

    Args:
        times: How often behind the first step. None: as the stage says.
        rows: Of each file, at most. None: all.
        share: Of the training's work that this takes. None: as the stage says.
        allowed: Most that it shall take.
        no_answers: Why no answers are generated. Empty: they are, or are not asked for.
    """

    times: int | None = None
    rows: int | None = None
    share: float | None = None
    allowed: float = 1.0
    no_answers: str = ""


def is_chosen(config: StageConfig) -> bool:
    """Whether how often validation rows are looked at follows from their share of the work."""
    said = config.trainer
    return not (
        said.get("eval_steps") is not None
        or said.get("eval_strategy") not in (None, "steps")
        or said.get("load_best_model_at_end")
    )


def work_of_look(sizes: Sequence[int], rows: int, config: ValidationConfig, *, batch_size: int) -> float:
    """Work of looking once at so many rows of each file, in rows that are looked at.

    Args:
        sizes: Rows of each file.
        rows: Of each file, at most.
        config: What is measured beside the loss.
        batch_size: Of rows that are looked at.
    """
    chosen = [min(size, rows) for size in sizes]
    answered = sum(min(size, config.answers) for size in chosen)
    answer = 1 + max(1.0, ANSWER_STEPS / batch_size)  # its prompt, and its tokens one after the other
    return sum(chosen) * (1 + config.shuffled_media) + answered * answer


def choose_times_and_rows(
    sizes: Sequence[int], work: float, config: ValidationConfig, *, steps: int, at_start: bool, batch_size: int
) -> ValidationPlan:
    """Choose how often and how many rows are looked at.

    All rows, ten times, if that fits; else fewer rows of each file, then less often, and at the end at least.

    Args:
        sizes: Rows of each file.
        work: Of the training, in rows that are looked at.
        config: Their share of it, and what is measured.
        steps: Of the stage.
        at_start: Whether they are looked at before the first step too.
        batch_size: Of rows that are looked at.
    """
    largest = max(sizes)
    rows = 0
    for times in range(min(TIMES, steps), 0, -1):
        most = config.share * work / (times + at_start)
        rows = _most_rows(sizes, most, config, batch_size)
        if rows >= min(ENOUGH, largest):
            break
    rows = max(rows, min(FEWEST, largest))
    taken = (times + at_start) * work_of_look(sizes, rows, config, batch_size=batch_size) / work
    return ValidationPlan(times, None if rows >= largest else rows, taken, config.share)


def _most_rows(sizes: Sequence[int], most: float, config: ValidationConfig, batch_size: int) -> int:
    """Most rows of each file whose work is at most so much."""
    fits, fails = 0, max(sizes) + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if work_of_look(sizes, middle, config, batch_size=batch_size) <= most:
            fits = middle
        else:
            fails = middle
    return fits


def trained_work(
    dataset: MixtureDataset,
    validation: MixtureDataset,
    schedule: BatchSchedule,
    collator: Collator,
    args: TrainingArguments,
    *,
    steps: int,
) -> float:
    """Work of the training, in validation rows that are looked at.

    Where the rows that train are not known, being a stream, they are taken to be as long as validation rows.
    """
    looked = mean_length(validation, collator) or 1.0
    row = mean_length(dataset, collator) or looked
    of_pack = schedule.config.max_length if schedule.config.packing else None
    return steps * rows_of_step(args, args.world_size)["step"] * (of_pack or row) / looked


def plan_validation(
    config: StageConfig,
    trainer: StageTrainer,
    dataset: MixtureDataset,
    schedule: BatchSchedule,
    collator: Collator,
) -> ValidationPlan:
    """Choose how a stage looks at its validation rows, and let its trainer do so.

    Args:
        config: The stage, with validation rows.
        trainer: Its trainer; changed in place, and so are its arguments.
        dataset: Rows that train.
        schedule: Their batches; they are measured.
        collator: Of the stage.

    Raises:
        DataError: If a row that is measured cannot be.
    """
    rows, args, wanted = trainer.validation, trainer.args, config.train.validation
    assert rows is not None
    partitions = trainer.is_deepspeed_enabled and config.parallel.zero == 3
    model = trainer.accelerator.unwrap_model(trainer.model)
    size = config.parallel.expert_parallel_size
    obstacle = why_not_generated(model, partitions=partitions, expert_parallel_size=size)
    if obstacle:
        wanted = wanted.model_copy(update={"answers": 0})
    plan = ValidationPlan()
    if is_chosen(config):
        steps = count_steps(dataset, schedule, args, processes=args.world_size)
        work = trained_work(dataset, rows.dataset, schedule, collator, args, steps=steps)
        sizes, at_start = rows.dataset.sizes, args.eval_on_start
        plan = choose_times_and_rows(sizes, work, wanted, steps=steps, at_start=at_start, batch_size=rows.batch_size)
        args.eval_steps = math.ceil(steps / (plan.times or 1))
    rows.choose_rows(plan.rows, answers=wanted.answers, shuffled=wanted.shuffled_media)
    return replace(plan, no_answers=obstacle if config.train.validation.answers else "")


__all__ = ["ValidationPlan", "choose_times_and_rows", "plan_validation", "work_of_look"]
