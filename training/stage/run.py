"""Runs a stage: start -> what trains -> data -> training -> an ordinary `save_pretrained` folder with its papers."""

import gc
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainingArguments, set_seed

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor, UniMoETextConfig
from unimoe.errors import ConfigError
from unimoe.errors.terminal import plain
from unimoe.surgery import Certificate

from ..checkpoint.folder import WatchCheckpoints, begin, find_checkpoint, is_complete, mean_loss
from ..checkpoint.model_card import describe_stage, read_history
from ..checkpoint.papers import Papers
from ..checkpoint.same_data import check_data_of_complete, check_same_data, describe_data, write_data
from ..checkpoint.state import put_weights
from ..config.stage import StageConfig
from ..data import BatchPlan, Collator, MixtureDataset
from ..distributed.deepspeed import check_engaged, check_experts, deepspeed_arguments, make_models_whole, stand_alone
from ..distributed.processes import launched
from ..encoder_cache.run import RestingEncoders
from ..monitor.health import (
    DeadExperts,
    WatchExperts,
    WatchGradients,
    WatchLoss,
    check_learning_rate,
    check_trained_modalities,
)
from ..monitor.metrics_file import METRICS_FILE
from ..monitor.progress import MetricsFile, StageProgress
from ..monitor.trackers import choose_trackers, place_logs
from ..planning.batches import look_at_batches
from ..planning.memory import GB
from ..planning.models import PlannedRecipe
from ..planning.plan import step_memory
from ..trainable.optimizer import ParameterGroups
from ..trainable.parts import Trainable, choose_trainable, trainable_table
from ..trainer.data import check_packing, hold_back, measure_rows, plan_data, read_data
from ..trainer.losses import balance_over_all, set_coefficients
from ..trainer.specialists import SpecialistTrainer
from ..trainer.start import load_start
from ..trainer.trainer import StageTrainer
from ..trainer.validation import validation_arguments
from .finish import save_stage
from .finished import check_finished
from .output import check_output, refuse_finished
from .output_lock import OutputLock
from .report import Contents, data_table, describe_length, look_at_rows, show_samples
from .same_start import check_same_start, describe_start, write_start

# A batch without pictures leaves a trained image encoder without a gradient, so unused parameters are expected.
DEFAULT_ARGUMENTS = {"logging_steps": 10, "save_steps": 500, "save_total_limit": 1, "ddp_find_unused_parameters": True}


def run_stage(
    config: StageConfig,
    *,
    name: str = "stage",
    title: str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Run one stage and return its output folder.

    Args:
        config: The stage.
        name: Its name, for the model card.
        title: What the progress bar says. None: the name.
        resume: Go on from the last checkpoint in the output, if there is one; do nothing if the stage is complete.
        console: Where progress goes. None: standard output.

    Raises:
        ConfigError: If the start, a part or an argument does not fit.
        DataError: If a row of the data does not fit.
        NonFiniteLoss: If the loss becomes NaN or infinite.
    """
    console = console or Console()
    check_output(config, resume=resume)
    if resume and is_complete(config):
        check_finished(config)
        check_same_start(config, finished=True)
        check_data_of_complete(config)
        return Path(config.output)
    with OutputLock(config.output):
        return _run(config, name=name, title=title or name, resume=resume, console=console)


def _run(config: StageConfig, *, name: str, title: str, resume: bool, console: Console) -> Path:
    """Run one stage in an output that is its own."""
    checkpoint = find_checkpoint(config, resume=resume)
    if not resume:
        refuse_finished(config)
    refuse_early(config)
    start = describe_start(config)
    if checkpoint is not None:
        check_same_start(config)
    dataset, held_back = read_data(config)  # before the model: a wrong path is found at once
    data = describe_data(config, dataset, held_back, console)
    if checkpoint is not None:
        check_same_data(config, data)
    set_seed(config.seed)
    gc.collect()  # of the stage before, whose trainer refers to itself
    model, processor, certificate, trainable = make_model(config, checkpoint)
    plan, collator = plan_data(config, dataset, processor)
    resting = RestingEncoders(config, model, processor)
    progress = StageProgress(console, title=title)
    trainer = make_trainer(config, model, dataset, held_back, collator, progress, plan=plan, trainable=trainable)
    measure_rows(plan, trainer.args, console, checkpoint=checkpoint)
    contents = look_at_rows(dataset)
    if contents.is_complete:
        check_trained_modalities(trainable, contents.modalities, warn=progress.warn)
    resting.encode([rows for rows in (dataset, held_back) if rows is not None], trainer.args, console)
    before = read_history(config)
    trainer.papers = papers = Papers(
        config, processor, certificate, lambda: [*before, sum_up(name, config, trainer, dataset, progress)]
    )
    trainer.away = resting.away
    if trainer.is_world_process_zero():
        begin(config)
        write_data(config, data)
        write_start(config, start)
        report_start(config, trainer, trainable, dataset, collator, contents, progress)
        console.print(plain(f"going on from {checkpoint}") if checkpoint else "")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        resting.wake()
    for line in plan.report.lines(config.data.max_length):
        console.print(plain(line), highlight=False)
    folder = save_stage(trainer, trainable, papers)
    trainer.accelerator.free_memory()  # or the hooks of DeepSpeed's engine keep the model alive through the next stage
    return folder


def refuse_early(config: StageConfig) -> None:
    """Refuse what can be told to be wrong before data and model are there."""
    choose_trackers(config.trainer)
    if config.parallel.expert_parallel_size > 1:
        text = PlannedRecipe().begin(config).config.text_config
        check_experts(config.parallel, text, processes=launched()[1])


def make_model(
    config: StageConfig, checkpoint: Path | None
) -> tuple[UniMoEForConditionalGeneration, UniMoEProcessor, Certificate | None, Trainable]:
    """Make the model of a stage, with the weights of a checkpoint, and choose what trains in it."""
    make_models_whole()
    model, processor, certificate = load_start(config)
    set_losses(model, config)
    if launched()[1] > 1:
        balance_over_all(model.config.text_config)
    trainable = choose_trainable(model, config.train)
    check_learning_rate(trainable, config.trainer.get("learning_rate", 5e-5))
    check_packing(model.config.text_config, config.data)
    if checkpoint is not None:
        put_weights(checkpoint, model)
    return model, processor, certificate, trainable


def sum_up(
    name: str,
    config: StageConfig,
    trainer: StageTrainer,
    dataset: MixtureDataset,
    progress: StageProgress,
) -> dict[str, Any]:
    """What the history says of a stage: also the last losses of held-back rows, and what was warned of."""
    assert trainer.plan is not None
    entry = describe_stage(
        name,
        config,
        rows={source.path: size or None for source, size in zip(dataset.sources, dataset.sizes, strict=True)},
        steps=trainer.state.global_step,
        samples=trainer.rows_shown,
        loss=mean_loss(trainer.state.log_history),
        seconds=trainer.seconds,
    )
    last = next((line for line in reversed(trainer.state.log_history) if "eval_loss" in line), {})
    held_back = {key: round(value, 4) for key, value in last.items() if key.startswith("eval_loss")}
    further = {"held_back": held_back, "warnings": progress.warnings}
    return entry | trainer.plan.report.as_history() | {key: value for key, value in further.items() if value}


def report_start(
    config: StageConfig,
    trainer: StageTrainer,
    trainable: Trainable,
    dataset: MixtureDataset,
    collator: Collator,
    contents: Contents,
    progress: StageProgress,
) -> None:
    """Say what is about to be trained: parts, data, length, a sample of each modality, and the memory of a step."""
    assert trainer.plan is not None
    console, held_back = progress.console, trainer.held_back.dataset.num_rows if trainer.held_back else None
    console.print(trainable_table(trainable), data_table(dataset, contents))
    length = describe_length(dataset, trainer.plan, collator, trainer.args, validated=held_back)
    console.print(length, highlight=False)
    console.print(*show_samples(dataset, collator, contents.modalities))
    say_memory(config, trainer, dataset, collator, progress)


def make_trainer(
    config: StageConfig,
    model: UniMoEForConditionalGeneration,
    dataset: MixtureDataset,
    held_back: MixtureDataset | None,
    collator: Collator,
    progress: StageProgress,
    *,
    plan: BatchPlan,
    trainable: Trainable,
) -> StageTrainer:
    """Make the trainer of a stage, under DeepSpeed if the stage asks for it."""
    if config.parallel.zero is not None:
        stand_alone()
    args, specialists = training_arguments(config), config.start.specialists
    arguments: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": dataset,
        "data_collator": collator,
        "losses": config.train.losses,
        "groups": ParameterGroups.of(trainable, config.train),
        "plan": plan,
        "held_back": hold_back(config, held_back, collator.processor, args),
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
    watch(trainer, trainable, config, progress, text=model.config.text_config)
    check_engaged(trainer, config)
    make_models_whole()
    return trainer


def watch(
    trainer: StageTrainer,
    trainable: Trainable,
    config: StageConfig,
    progress: StageProgress,
    *,
    text: UniMoETextConfig,
) -> None:
    """Let a trainer write its metrics, and let it warn of experts and parts that do not train."""
    health = config.train.health
    metrics = Path(config.output) / METRICS_FILE
    if health.dead_expert_steps and text.num_experts:
        experts = DeadExperts(text, steps=health.dead_expert_steps)
        trainer.add_callback(
            WatchExperts(experts, details=lambda: trainer.details, metrics=metrics, warn=progress.warn)
        )
    if health.no_gradient_steps:
        gather = trainer.accelerator.gather
        trainer.add_callback(
            WatchGradients(trainable, steps=health.no_gradient_steps, gather=gather, warn=progress.warn)
        )
    trainer.add_callback(WatchLoss(progress.warn))
    trainer.add_callback(MetricsFile(metrics, details=lambda: trainer.details))


def say_memory(
    config: StageConfig,
    trainer: StageTrainer,
    dataset: MixtureDataset,
    collator: Collator,
    progress: StageProgress,
) -> None:
    """Say how much memory a step of each process will take at most, and warn if its GPU has less."""
    assert trainer.plan is not None
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    args, device, processes = trainer.args, trainer.args.device, trainer.args.world_size
    held_back = trainer.held_back.dataset if trainer.held_back else None
    batches = look_at_batches(config, dataset, held_back, trainer.plan, collator, processes=processes)
    on_cpu = device.type == "cpu"
    try:
        step = step_memory(config, model.config, batches, processes=processes, on_cpu=on_cpu, arguments=args)
    except ConfigError as error:  # of a tower that looks at values; it trains nevertheless
        progress.console.print(plain(str(error)), highlight=False)
        return
    each = f" in each of {processes} processes" if processes > 1 else ""
    progress.console.print(f"memory of a step{each}: about {step}", highlight=False)
    if (there := device_memory(device)) and step.total > there:
        progress.warn(
            f"A step is expected to take {step.total / GB:.1f} GB, and the GPU has {there / GB:.1f} GB. `python -m "
            f"training plan FILE --gpu-memory {there / GB:.0f}` says what would make it fit."
        )


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's memory. None: not a GPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def set_losses(model: UniMoEForConditionalGeneration, config: StageConfig) -> None:
    """Put a stage's first coefficients of the router losses into the model's configuration.

    Raises:
        ConfigError: If the model's routers cannot have such a loss.
    """
    try:
        set_coefficients(model.config.text_config, config.train.losses, step=0)
    except ValueError as error:
        raise ConfigError(f"train.losses: {error}") from error


def training_arguments(config: StageConfig) -> TrainingArguments:
    """Make transformers' arguments from a stage's `trainer`, with our defaults under it.

    Raises:
        ConfigError: If a value does not fit.
    """
    values: dict[str, Any] = {
        "run_name": Path(config.output).name,
        "dataloader_persistent_workers": config.data.num_workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **DEFAULT_ARGUMENTS,
        **validation_arguments(config.data, config.trainer),
        **config.trainer,
        **deepspeed_arguments(config),
        "report_to": choose_trackers(config.trainer),
        "output_dir": config.output,
        "seed": config.seed,
        "dataloader_num_workers": config.data.num_workers,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "activation_checkpointing_kwargs": checkpointing_arguments(config),
    }
    try:
        arguments = TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    if arguments.n_gpu > 1:  # one process would split text and media of a batch at unrelated places
        raise ConfigError(
            f"One process sees {arguments.n_gpu} GPUs. Start one process for each with `torchrun --nproc_per_node "
            f"{arguments.n_gpu} -m training ...`, or show it one with CUDA_VISIBLE_DEVICES=0."
        )
    return arguments


def checkpointing_arguments(config: StageConfig) -> dict[str, Any]:
    """Arguments of activation checkpointing: never re-entrant, or recorded router logits would carry no gradient."""
    given = config.trainer.get("activation_checkpointing_kwargs") or {}
    if given.get("use_reentrant"):
        raise ConfigError(
            "trainer.activation_checkpointing_kwargs.use_reentrant must be false: with re-entrant checkpointing the "
            "router losses have no gradient. Leave it out."
        )
    return {**given, "use_reentrant": False}
