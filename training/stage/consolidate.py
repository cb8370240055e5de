"""`python -m training consolidate CHECKPOINT OUT`: a checkpoint of an unfinished stage becomes one ordinary model.

Whatever stage of ZeRO and however many processes wrote it: it needs neither them nor what the stage started from.
"""

import shutil
from pathlib import Path

import torch

from unimoe import UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.checkpoint.loading import load_processor
from unimoe.errors import ConfigError
from unimoe.files.settings import validate
from unimoe.surgery.certificate import FILE_NAME, Certificate

from ..checkpoint.model_card import HISTORY_FILE, STAGE_FILE, Metadata, read_entries, read_stage
from ..checkpoint.state import DESCRIPTION, put_weights, verify
from ..config.stage import StageConfig
from ..monitor.metrics_file import METRICS_FILE
from ..trainable.parts import choose_trainable
from ..trainer.specialists import split_feed_forwards
from .finish import write_model


def consolidate(checkpoint: Path, out: Path) -> None:
    """Write the model of a checkpoint, as its stage would have written it had it ended there.

    Args:
        checkpoint: A folder `checkpoint-STEP`.
        out: New folder.

    Raises:
        ConfigError: If a file of the checkpoint is missing or damaged, before anything is written; or if `out` is not
            empty.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty. Name a new folder.")
    verify(checkpoint)
    described = checkpoint / DESCRIPTION
    stage = read_stage(described / STAGE_FILE)
    if isinstance(parallel := stage.get("parallel"), dict):
        parallel["deepspeed"] = None  # a file that need not be here
    config = validate(StageConfig, {**stage, "output": str(out)}, source=str(described / STAGE_FILE))
    model: UniMoEForConditionalGeneration = UniMoEForConditionalGeneration._from_config(
        UniMoEConfig.from_pretrained(described), dtype=torch.float32
    )
    if config.start.specialists is not None:
        split_feed_forwards(model, list(config.start.specialists.modalities))
    trainable = choose_trainable(model, config.train)
    put_weights(checkpoint, model)
    history = read_entries(described / HISTORY_FILE)
    certificate = Certificate.load(described) if (described / FILE_NAME).is_file() else None
    out.mkdir(parents=True, exist_ok=True)
    if (losses := checkpoint.parent / METRICS_FILE).is_file():
        shutil.copy(losses, out)
    write_model(
        model, trainable, Metadata(config, load_processor(described, model.config), certificate, lambda: history)
    )


__all__ = ["consolidate"]
