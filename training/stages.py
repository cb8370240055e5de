"""Runs a stage: start -> what trains -> data -> training -> an ordinary `save_pretrained` folder with its papers."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.panel import Panel
from rich.progress import Progress
from rich.text import Text
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.trainer_utils import TrainOutput

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor, UniMoETextConfig
from unimoe.settings import ConfigError

from .checkpoint import KeepLengths, WatchCheckpoints, begin, find_checkpoint, is_complete, mean_loss
from .config import StageConfig
from .config_data import DataConfig
from .data import BatchPlan, Collator, MixtureDataset, MixtureSampler, plan_batches
from .data.collator import IGNORED
from .data.dataset import read_mixture
from .encoding import RestingEncoders
from .finish import save_stage
from .health import DeadExperts, WatchExperts, WatchGradients
from .losses import set_coefficients
from .model_card import describe_stage, read_history
from .optimizer import ParameterGroups
from .parallel import check_engaged, deepspeed_arguments, stand_alone
from .parts import Trainable, choose_trainable, trainable_table
from .progress import METRICS_FILE, MetricsFile, StageProgress
from .specialists import SpecialistTrainer
from .start import load_start
from .trainer import StageTrainer
from .validation import HeldBack, validation_arguments

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
    if resume and is_complete(config):
        return Path(config.output)
    checkpoint = find_checkpoint(config, resume=resume)
    set_seed(config.seed)
    model, processor, certificate = load_start(config)
    set_losses(model, config)
    trainable = choose_trainable(model, config.train)
    check_packing(model.config.text_config, config.data)
    dataset, plan, collator = read_data(config, processor)
    resting = RestingEncoders(config, model, processor)
    progress = StageProgress(console, title=title or name)
    trainer = make_trainer(config, model, dataset, collator, progress, plan=plan, trainable=trainable)
    measure_rows(plan, trainer, console, checkpoint=checkpoint)
    resting.encode([dataset, *([trainer.held_back.dataset] if trainer.held_back else [])], trainer.args, console)
    history = read_history(config)
    if trainer.is_world_process_zero():
        begin(config)
        console.print(trainable_table(trainable), show_sample(dataset, collator))
        if checkpoint:
            console.print(f"going on from {checkpoint}")
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        resting.wake()
    for line in plan.report.lines(config.data.max_length):
        console.print(line, highlight=False)
    history.append(describe_run(name, config, dataset, trainer, result) | plan.report.as_history())
    return save_stage(trainer, trainable, processor, config, history=history, certificate=certificate)


def describe_run(
    name: str, config: StageConfig, dataset: MixtureDataset, trainer: StageTrainer, result: TrainOutput
) -> dict[str, Any]:
    """The history's entry of a stage that has been trained."""
    return describe_stage(
        name,
        config,
        rows={source.path: size or None for source, size in zip(dataset.sources, dataset.sizes, strict=True)},
        steps=result.global_step,
        samples=trainer.rows_shown,
        loss=mean_loss(trainer.state.log_history),
        seconds=result.metrics["train_runtime"],
    )


def check_packing(text: UniMoETextConfig, data: DataConfig) -> None:
    """Refuse to pack rows for a model that would not take them apart again.

    Raises:
        ConfigError: If its routers look at whole rows, of which a pack would be one.
    """
    whole_rows = {
        "router_type: soft (its slots mix the tokens of a row)": text.router_type == "soft",
        "router_aux_loss_scope: sequence (it balances each row apart)": text.router_aux_loss_scope == "sequence",
    }
    for reason, holds in whole_rows.items():
        if data.packing and text.num_experts and holds:
            raise ConfigError(
                f"data.packing: the model has {reason}, and a pack of rows would be one row to it. Set packing to "
                "false; group_by_length saves padding too."
            )


def read_data(config: StageConfig, processor: UniMoEProcessor) -> tuple[MixtureDataset, BatchPlan, Collator]:
    """Open the data of a stage, and plan how its rows become batches.

    Raises:
        DataError: If a row does not fit.
    """
    data = config.data
    dataset = MixtureDataset(
        read_mixture(data), seed=config.seed, cache_media=data.cache_media, shuffle_buffer=data.shuffle_buffer
    )
    plan = plan_batches(data, dataset, processor, sized=config.trainer.get("max_steps", -1) <= 0)
    return dataset, plan, Collator(processor, max_length=data.max_length, packing=data.packing)


def measure_rows(plan: BatchPlan, trainer: StageTrainer, console: Console, *, checkpoint: Path | None = None) -> None:
    """Measure all rows before the first step, if the number of steps depends on it; a checkpoint may know lengths.

    Raises:
        DataError: If a row cannot be measured.
    """
    if plan.lengths is None:
        return
    if checkpoint is not None:
        plan.lengths.load(checkpoint)
    if not plan.sized:
        return
    args = trainer.args
    with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
        plan.lengths.measure_all(
            process=args.process_index,
            processes=args.world_size,
            track=lambda rows: bar.track(rows, description="measuring rows"),
        )


def make_trainer(
    config: StageConfig,
    model: UniMoEForConditionalGeneration,
    dataset: MixtureDataset,
    collator: Collator,
    progress: StageProgress,
    *,
    plan: BatchPlan | None = None,
    trainable: Trainable | None = None,
) -> StageTrainer:
    """Make the trainer of a stage, under DeepSpeed if the stage asks for it."""
    if config.parallel.zero is not None:
        stand_alone()
    args, specialists = training_arguments(config), config.start.specialists
    plan = plan or plan_batches(config.data, dataset, collator.processor, sized=True)
    keepers = [KeepLengths(plan.lengths)] if plan.lengths and not specialists else []
    arguments: dict[str, Any] = {
        "model": model,
        "args": args,
        "train_dataset": dataset,
        "data_collator": collator,
        "losses": config.train.losses,
        "groups": ParameterGroups.of(trainable, config.train) if trainable else None,
        "plan": plan,
        "held_back": hold_back(config, collator.processor, args),
        "callbacks": [*keepers, WatchCheckpoints(), progress],
    }
    trainer = (
        StageTrainer(**arguments)
        if specialists is None
        else SpecialistTrainer(**arguments, modalities=specialists.modalities)
    )
    trainer.remove_callback(PrinterCallback)
    watch(trainer, trainable, config, progress, text=model.config.text_config)
    check_engaged(trainer, config)
    return trainer


def watch(
    trainer: StageTrainer,
    trainable: Trainable | None,
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
    if health.no_gradient_steps and trainable is not None:
        gather = trainer.accelerator.gather
        trainer.add_callback(
            WatchGradients(trainable, steps=health.no_gradient_steps, gather=gather, warn=progress.warn)
        )
    trainer.add_callback(MetricsFile(metrics, details=lambda: trainer.details))


def hold_back(config: StageConfig, processor: UniMoEProcessor, args: TrainingArguments) -> HeldBack | None:
    """Read the held-back rows of a stage, if it has any.

    Raises:
        DataError: If a row does not fit.
    """
    if not config.data.validation:
        return None
    return HeldBack(
        config.data,
        processor,
        seed=config.seed,
        batch_size=args.per_device_eval_batch_size,
        process=args.process_index,
        processes=args.world_size,
        specialists=list(config.start.specialists.modalities) if config.start.specialists else None,
    )


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
    has_tensorboard = importlib.util.find_spec("tensorboard") or importlib.util.find_spec("tensorboardX")
    values: dict[str, Any] = {
        "report_to": ["tensorboard"] if has_tensorboard else [],
        "dataloader_persistent_workers": config.data.num_workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **DEFAULT_ARGUMENTS,
        **validation_arguments(config.data, config.trainer),
        **config.trainer,
        **deepspeed_arguments(config),
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


def show_sample(dataset: MixtureDataset, collator: Collator) -> Panel:
    """Decode the first sample of the training, runs of a placeholder shortened, with what is learned in bold."""
    sample = dataset[next(iter(MixtureSampler(dataset)))]
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
        piece = tokenizer.decode(ids[position : position + 1] if kinds[position] else ids[position:end])
        text.append(f"{piece} x {end - position}" if kinds[position] else piece, style=_style(kinds, labels, position))
        position = end
    return Panel(text, title=f"One sample: {sample.id} ({len(ids)} tokens; what is learned in bold)", expand=False)


def _style(kinds: list[int], labels: list[int], position: int) -> str:
    return "dim" if kinds[position] else "" if labels[position] == IGNORED else "bold"
