"""Builds the trainer of a stage, with what it reports to and what watches it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from transformers import PrinterCallback, TrainingArguments

from unimoe import UniMoEProcessor

from ..checkpoint.folder import WatchCheckpoints
from ..config.stage import StageConfig
from ..data import BatchSchedule, Collator, MixtureDataset
from ..data.label_prior import Answers
from ..distributed.deepspeed import check_engaged, make_models_whole
from ..monitor.experts import DeadExperts, WatchExperts
from ..monitor.gradients import WatchGradients
from ..monitor.learning import WatchLearning
from ..monitor.metrics_file import METRICS_FILE
from ..monitor.progress import MetricsFile, StageProgress
from ..monitor.trackers import place_logs
from ..monitor.values import WatchLoss
from ..trainable.optimizer import ParameterGroups
from ..trainable.parts import Trainable
from .specialists import SpecialistTrainer
from .start import StageModel
from .trainer import StageTrainer
from .validation import Track, ValidationRows


def build_trainer(
    config: StageConfig,
    args: TrainingArguments,
    start: StageModel,
    dataset: MixtureDataset,
    collator: Collator,
    progress: StageProgress,
    *,
    schedule: BatchSchedule,
    validation: MixtureDataset | None = None,
    answers: Sequence[Answers] = (),
) -> StageTrainer:
    """Build the trainer of a stage, under DeepSpeed if the stage asks for it.

    Args:
        config: The stage.
        args: Of the trainer.
        start: The model, and what trains in it.
        dataset: Rows that train.
        collator: Makes batches of them.
        progress: Shows it.
        schedule: Which rows form which batch.
        validation: Validation rows.
        answers: Of each data file that trains.

    Raises:
        ConfigError: If DeepSpeed is asked for and left out.
        DataError: If a validation row is too long.
    """
    specialists = config.start.specialists
    arguments: dict[str, Any] = {
        "model": start.model,
        "args": args,
        "train_dataset": dataset,
        "data_collator": collator,
        "losses": config.train.losses,
        "groups": ParameterGroups.of(start.trainable, config.train),
        "schedule": schedule,
        "validation": validation_rows(config, validation, start.processor, args, answers, track=progress.track),
        "expert_parallel_size": config.parallel.expert_parallel_size,
        "callbacks": [WatchCheckpoints(), progress],
    }
    trainer = (
        StageTrainer(**arguments)
        if specialists is None
        else SpecialistTrainer(**arguments, modalities=specialists.modalities)
    )
    trainer.remove_callback(PrinterCallback)
    place_logs(trainer, config.output)
    watch(trainer, start.trainable, config, progress)
    check_engaged(trainer, config)
    make_models_whole()
    return trainer


def validation_rows(
    config: StageConfig,
    dataset: MixtureDataset | None,
    processor: UniMoEProcessor,
    args: TrainingArguments,
    answers: Sequence[Answers],
    *,
    track: Track,
) -> ValidationRows | None:
    """Lay out the validation rows of a stage, if it has any; `track` shows how far they are."""
    if dataset is None:
        return None
    return ValidationRows(
        config.data,
        dataset,
        processor,
        batch_size=args.per_device_eval_batch_size,
        process=args.process_index,
        processes=args.world_size,
        specialists=list(config.start.specialists.modalities) if config.start.specialists else None,
        training=answers,
        track=track if args.process_index == 0 else lambda items, total, what: items,
    )


def watch(trainer: StageTrainer, trainable: Trainable, config: StageConfig, progress: StageProgress) -> None:
    """Let a trainer write its metrics, and let it warn of experts and parts that do not train."""
    health, text = config.train.health, trainer.text_config
    metrics = Path(config.output) / METRICS_FILE
    if health.dead_expert_steps and text.num_experts:
        experts = DeadExperts(text, steps=health.dead_expert_steps)
        trainer.add_callback(
            WatchExperts(experts, details=lambda: trainer.details, metrics=metrics, warn=progress.warn)
        )
    if health.no_gradient_steps:
        steps, gather, first = health.no_gradient_steps, trainer.accelerator.gather, 1
        if isinstance(trainer, SpecialistTrainer):
            first = 1 + max(map(trainer.step_schedule.index, trainer.keys))
        trainer.add_callback(WatchGradients(trainable, steps=steps, gather=gather, warn=progress.warn, first=first))
    names = trainer.validation.names if trainer.validation else []
    trainer.add_callback(WatchLearning(names, warn=progress.warn, say=progress.say))
    trainer.add_callback(WatchLoss(progress.warn))
    trainer.add_callback(MetricsFile(metrics, details=lambda: trainer.details))


def stop_workers(trainer: StageTrainer) -> None:
    """Let the worker processes of a trainer's loaders end.

    A loader that the collector of cycles ends has closed the queue by which its workers would hear of it, and waits
    five seconds for each.
    """
    loaders = [trainer.callback_handler.train_dataloader, trainer.validation and trainer.validation.loader]
    for loader in loaders:
        if isinstance(loader, DataLoader):
            inner: Any = getattr(loader, "base_dataloader", loader)  # accelerate's hold another one
            iterator, inner._iterator = inner._iterator, None
            if isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()  # the traceback of an error holds it as well


__all__ = ["build_trainer", "stop_workers"]
