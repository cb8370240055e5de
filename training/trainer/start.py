"""Where a stage begins: a model is loaded, composed of parts, assembled, extended, or made ready for specialists."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainingArguments

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.build import build_model
from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.errors import ConfigError
from unimoe.surgery import Certificate, assemble, extend
from unimoe.surgery.extension import extended_processor

from ..checkpoint.state import put_weights
from ..config.stage import ExtendConfig, StageConfig
from ..monitor.gradients import check_learning_rate
from ..monitor.mixture import MixtureSnapshot, take_snapshot
from ..trainable.lora import merge_adapter, unmerged_adapter
from ..trainable.parts import Trainable, choose_trainable
from .data import check_packing
from .losses import balance_over_all, set_coefficients
from .specialists import split_feed_forwards

Start = tuple[UniMoEForConditionalGeneration, UniMoEProcessor, Certificate | None]


@dataclass
class StageModel:
    """The model of a stage, its processor, its certificate if it was assembled, and what trains in it.

    Args:
        model, processor: Of the stage.
        certificate: Of the assembly, if there was one.
        trainable: What trains.
        mixture: Experts and routers that the stage begins with, in the first process; None if there are none.
    """

    model: UniMoEForConditionalGeneration
    processor: UniMoEProcessor
    certificate: Certificate | None
    trainable: Trainable
    mixture: MixtureSnapshot | None = None


def load_stage_model(config: StageConfig, args: TrainingArguments, *, checkpoint: Path | None = None) -> StageModel:
    """Make the model of a stage, with the weights of a checkpoint, and choose what trains in it.

    Raises:
        ConfigError: If the start, a part or a loss does not fit, or nothing would train.
    """
    model, processor, certificate = load_start(config)
    mixture = snapshot_of_start(model, config) if args.process_index == 0 else None
    _set_losses(model, config)
    if args.world_size > 1:
        balance_over_all(model.config.text_config)
    trainable = choose_trainable(model, config.train)
    check_learning_rate(trainable, args.learning_rate)
    check_packing(model.config.text_config, config.data)
    if checkpoint is not None:
        put_weights(checkpoint, model)
    return StageModel(model, processor, certificate, trainable, mixture)


def snapshot_of_start(model: UniMoEForConditionalGeneration, config: StageConfig) -> MixtureSnapshot | None:
    """Look at the experts and routers that a stage begins with; None if there are none, or an adapter that it goes on
    with would belong to them.
    """
    goes_on = config.train.lora is not None and config.train.lora.adapter is not None
    return take_snapshot(model) if model.config.text_config.num_experts and not goes_on else None


def _set_losses(model: UniMoEForConditionalGeneration, config: StageConfig) -> None:
    """Put a stage's first coefficients of the router losses into the model's configuration.

    Raises:
        ConfigError: If the model's routers cannot have such a loss.
    """
    try:
        set_coefficients(model.config.text_config, config.train.losses, step=0)
    except ValueError as error:
        raise ConfigError(f"train.losses: {error}") from error


def load_start(config: StageConfig) -> Start:
    """Make the model that a stage begins with, its processor and, if it was assembled, its certificate.

    Raises:
        ConfigError: If a model cannot be found or made.
    """
    try:
        return _make_start(config)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The start of the stage cannot be made: {error}") from error


def _make_start(config: StageConfig) -> Start:
    start = config.start
    if start.build is not None:
        return *build_model(**start.build.model_dump(), seed=config.seed), None
    if start.assemble is not None:
        experts = {key: [load_weights(path) for path in paths] for key, paths in start.assemble.expert_folders.items()}
        model, certificate = assemble(load_weights(start.assemble.base), experts, **start.assemble.arguments())
        return model, load_processor(start.assemble.base, model.config), certificate
    if start.extend is not None:
        return _extend(start.extend)
    path = start.specialists.base if start.specialists else start.path or ""
    goes_on = config.train.lora is not None and config.train.lora.adapter is not None
    model = load_weights(path, merge=not goes_on)
    if start.specialists is not None:
        split_feed_forwards(model, list(start.specialists.modalities))
    return model, load_processor(path, model.config), None


def _extend(start: ExtendConfig) -> Start:
    loaded = {key: load_weights(path) for key, path in start.folders.items()}
    processors = {key: load_processor(path, loaded[key].config) for key, path in start.folders.items()}
    model, certificate = extend(
        loaded["base"],
        encoder_of=loaded.get("encoder_of"),
        tokenizer=processors["base"].tokenizer,
        **start.arguments(),
    )
    return model, extended_processor(processors["base"], model.config, processors.get("encoder_of")), certificate


def load_weights(path: str, *, merge: bool = True) -> UniMoEForConditionalGeneration:
    """Load a model in float32, whatever was saved: in bf16 weights, small steps round away.

    `trainer.bf16` still computes in bf16.

    Args:
        path: Folder or Hub id.
        merge: Whether an adapter that was saved beside the model is added to it.
    """
    model = load_model(path, dtype=torch.float32)
    if merge and (adapter := unmerged_adapter(path)):
        merge_adapter(model, adapter)
    return model


__all__ = ["StageModel", "load_stage_model", "load_start", "load_weights", "snapshot_of_start"]
