"""One stage while it runs: its settings, data, model, trainer and metadata."""

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from transformers import TrainingArguments, set_seed

from unimoe.errors.terminal import plain

from ..checkpoint.folder import begin, find_checkpoint
from ..checkpoint.model_card import Metadata, describe_stage, read_history
from ..checkpoint.same_data import check_same_data, describe_data, write_data
from ..config.stage import StageConfig
from ..config.training_arguments import training_arguments
from ..data import BatchSchedule, Collator, MixtureDataset
from ..data.label_prior import PriorLoss, answers_of_source, mixture_prior, prior_losses
from ..data.media_digest import Facts
from ..distributed.deepspeed import check_experts, make_models_whole, stand_alone
from ..distributed.processes import launched
from ..doctor.line import mixture_line
from ..encoder_cache.run import CachedEncoders
from ..monitor.gradients import check_trained_modalities
from ..monitor.memory import MemoryWatch, in_use
from ..monitor.progress import StageProgress, duration
from ..planning.batches import look_at_batches
from ..planning.models import DescribedRecipe
from ..trainable.parts import trainable_table
from ..trainer.build import build_trainer, stop_workers
from ..trainer.data import measure_rows, read_data, schedule_data
from ..trainer.start import StageModel, load_stage_model
from ..trainer.trainer import StageTrainer
from ..trainer.validation_plan import ValidationPlan, plan_validation
from .finish import save_stage
from .memory import compare_memory, say_memory
from .output import refuse_finished
from .report import (
    Contents,
    count_epochs,
    data_table,
    describe_length,
    look_at_rows,
    show_samples,
    validation_table,
    window_warnings,
)
from .same_start import StartFacts, check_same_start, describe_start, write_start


@dataclass
class Stage:
    """A stage that was opened; `build` makes what trains, `train` trains it, `finish` leaves a folder.

    Args:
        config: What it is.
        name: Its name, for the model card.
        args: Of the trainer.
        checkpoint: That it goes on from. None: it begins.
        memory: Watches what the process has in use while it is entered.
        start, facts: What its start and its data are, to be compared when it goes on.
        dataset, validation: Rows that train, and validation rows.
        progress: Shows how far it is.

    The other fields are there once `build` was called: `loaded` is what the model added to the memory of the process,
    `told` the memory that `report` told, if it did.
    """

    config: StageConfig
    name: str
    args: TrainingArguments
    checkpoint: Path | None
    start: StartFacts
    facts: list[Facts]
    dataset: MixtureDataset
    validation: MixtureDataset | None
    progress: StageProgress
    memory: MemoryWatch
    told: int | None = field(init=False, default=None)
    loaded: int = field(init=False)
    model: StageModel = field(init=False)
    schedule: BatchSchedule = field(init=False)
    collator: Collator = field(init=False)
    contents: Contents = field(init=False)
    priors: list[PriorLoss] = field(init=False)
    validation_plan: ValidationPlan | None = field(init=False, default=None)
    encoders: CachedEncoders = field(init=False)
    trainer: StageTrainer = field(init=False)
    metadata: Metadata = field(init=False)

    @classmethod
    def open(cls, config: StageConfig, *, name: str, title: str, resume: bool, console: Console) -> Self:
        """Make the arguments and open the data of a stage, and see that they are those of its checkpoint.

        Raises:
            ConfigError: If an argument does not fit, or something is not as it was when the stage was begun.
            DataError: If a row of the data does not fit.
        """
        if config.parallel.zero is not None:
            stand_alone()
        args = training_arguments(config)
        make_models_whole()
        checkpoint = find_checkpoint(config, args, resume=resume)
        if not resume:
            refuse_finished(config)
        check_experts_fit(config)
        start = describe_start(config)
        if checkpoint is not None:
            check_same_start(config)
        dataset, validation = read_data(config)
        facts = describe_data(config, dataset, validation, console)
        if checkpoint is not None:
            check_same_data(config, facts)
        progress = StageProgress(console, title=title)
        return cls(
            config, name, args, checkpoint, start, facts, dataset, validation, progress, MemoryWatch(args.device)
        )

    def build(self) -> None:
        """Load the model, make its trainer, and run the encoders whose tokens are cached.

        Raises:
            ConfigError: If the start or a part does not fit, or nothing would train.
            DataError: If a row cannot be measured, or a medium cannot be read.
        """
        config, console = self.config, self.progress.console
        set_seed(config.seed)
        gc.collect()  # of the stage before, whose trainer refers to itself
        before = in_use()
        self.model = load_stage_model(config, self.args, checkpoint=self.checkpoint)
        self.loaded = in_use() - before
        parameters = sum(parameter.numel() for parameter in self.model.model.parameters())
        if self.args.process_index == 0:
            console.print(f"the model is there: {parameters:,} parameters", highlight=False)
        self.schedule, self.collator = schedule_data(config.data, self.dataset, self.model.processor, self.args)
        self.encoders = CachedEncoders(config, self.model.model, self.model.processor)
        answers = [answers_of_source(source.rows) for source in self.dataset.sources]
        self.priors = prior_losses(answers, self.model.processor)
        self.trainer = build_trainer(
            config,
            self.args,
            self.model,
            self.dataset,
            self.collator,
            self.progress,
            schedule=self.schedule,
            validation=self.validation,
            answers=answers,
        )
        measure_rows(self.schedule, self.args, console, checkpoint=self.checkpoint)
        self._plan_validation()
        self.contents = look_at_rows(self.dataset)
        if self.contents.is_complete:
            check_trained_modalities(self.model.trainable, self.contents.modalities, warn=self.progress.warn)
        self.encoders.encode(
            [rows for rows in (self.dataset, self.validation) if rows is not None], self.args, console
        )
        history = read_history(config)
        self.metadata = Metadata(
            config, self.model.processor, self.model.certificate, lambda: [*history, self.summary()]
        )
        self.trainer.metadata = self.metadata
        self.trainer.meter.memory = self.memory
        self.trainer.cached_encoders = self.encoders.outside

    def _plan_validation(self) -> None:
        """Choose how validation rows are looked at, and let the training log what the label prior would lose."""
        if self.validation is not None:
            self.validation_plan = plan_validation(
                self.config, self.trainer, self.dataset, self.schedule, self.collator
            )
        prior = mixture_prior(self.dataset, self.priors).loss
        is_mean = self.config.start.specialists is None and self.config.train.losses.language == "labels"
        if prior is not None and is_mean:
            self.trainer.prior = {"loss_prior": prior}

    def report(self) -> None:
        """Say what is about to be trained."""
        if not self.trainer.is_world_process_zero():
            return
        console, args = self.progress.console, self.args
        is_split = self.config.start.specialists is not None
        epochs = count_epochs(self.dataset, self.schedule, args, is_split=is_split)
        console.print(
            trainable_table(self.model.trainable),
            data_table(self.dataset, self.contents, epochs=epochs, priors=self.priors),
        )
        rows = self.validation.num_rows if self.validation else None
        length = describe_length(self.dataset, self.schedule, self.collator, args, epochs=epochs, validated=rows)
        console.print(length, highlight=False)
        if self.validation_plan is not None and self.trainer.validation is not None:
            console.print(validation_table(self.trainer.validation, self.validation_plan, args))
        for text in window_warnings(self.dataset, self.model.processor):
            console.print(f"[yellow]Warning:[/yellow] {plain(text)}", highlight=False, soft_wrap=True)
        console.print(*show_samples(self.dataset, self.collator, self.contents.modalities))
        if self.config.report.memory:
            console.print("trying a step out for its memory, without values", highlight=False)
            batches = look_at_batches(
                self.config,
                args,
                self.dataset,
                self.validation,
                self.schedule,
                self.collator,
                processes=args.world_size,
            )
            self.told = say_memory(
                self.config, args, self.model.model.config, batches, self.progress, loaded=self.loaded
            )
        console.print(plain(f"going on from {self.checkpoint}") if self.checkpoint else "")

    def train(self) -> None:
        """Mark the output as that of an unfinished stage, and train from the first step or from the checkpoint.

        Raises:
            NonFiniteLoss: If the loss becomes NaN or infinite.
        """
        if self.trainer.is_world_process_zero():
            begin(self.config)
            write_data(self.config, self.facts)
            write_start(self.config, self.start)
        try:
            self.trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        finally:
            stop_workers(self.trainer)
            self.progress.close()
            self.encoders.put_back()

    def finish(self) -> Path:
        """Write the model with its metadata, and return the folder."""
        for line in self.schedule.report.lines(self.config.data.max_length):
            self.progress.console.print(plain(line), highlight=False)
        if (rows := self.trainer.validation) is not None:
            taken = f"{duration(rows.seconds)} of {duration(self.trainer.seconds)}"
            self.progress.say(f"validation took {taken} ({rows.seconds / self.trainer.seconds:.1%})")
        folder = save_stage(self.trainer, self.model.trainable, self.metadata)
        self._say_mixture()
        if self.config.report.memory:
            compare_memory(folder, self.told, self.memory, self.progress, self.trainer.state)
        self.trainer.accelerator.free_memory()  # or the hooks of DeepSpeed's engine keep the model through the next
        return folder

    def _say_mixture(self) -> None:
        """Say how the mixture is that was written, if there is one."""
        if not self.trainer.is_world_process_zero():
            return
        line = mixture_line(
            self.trainer.accelerator.unwrap_model(self.trainer.model),
            self.config,
            before=self.model.mixture,
            certificate=self.model.certificate,
            modalities=self.contents.modalities,
        )
        if line is not None:
            self.progress.console.print(plain(line), highlight=False, soft_wrap=True)

    def summary(self) -> dict[str, Any]:
        """Say what the history keeps of this stage."""
        trainer, sizes = self.trainer, zip(self.dataset.sources, self.dataset.sizes, strict=True)
        return describe_stage(
            self.name,
            self.config,
            rows={source.path: size or None for source, size in sizes},
            steps=trainer.state.global_step,
            samples=trainer.rows_shown,
            log=trainer.state.log_history,
            seconds=trainer.seconds,
            fitted=self.schedule.report.as_history(),
            warnings=self.progress.warnings,
        )


def check_experts_fit(config: StageConfig) -> None:
    """Refuse experts that its processes cannot share, before data and model are there.

    Raises:
        ConfigError: If so.
    """
    if config.parallel.expert_parallel_size > 1:
        text = DescribedRecipe().begin(config).config.text_config
        check_experts(config.parallel, text, processes=launched()[1])


__all__ = ["Stage"]
