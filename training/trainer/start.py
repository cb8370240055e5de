"""Where a stage begins: a model is loaded, composed of pretrained parts, assembled, or made ready for specialists."""

import torch

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.build import build_model
from unimoe.checkpoint.loading import load_model, load_processor
from unimoe.errors import ConfigError
from unimoe.surgery import Certificate, assemble

from ..config.stage import StageConfig
from ..trainable.lora import merge_adapter, unmerged_adapter
from .specialists import split_feed_forwards

Start = tuple[UniMoEForConditionalGeneration, UniMoEProcessor, Certificate | None]


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
    path = start.specialists.base if start.specialists else start.path or ""
    goes_on = config.train.lora is not None and config.train.lora.adapter is not None
    model = load_weights(path, merge=not goes_on)
    if start.specialists is not None:
        split_feed_forwards(model, list(start.specialists.modalities))
    return model, load_processor(path, model.config), None


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


__all__ = ["load_start", "load_weights"]
