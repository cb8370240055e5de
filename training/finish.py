"""What a stage leaves: ordinary `save_pretrained` folders with processor and papers."""

import shutil
from pathlib import Path
from typing import Any

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.surgery import Certificate

from .checkpoint import remove_checkpoints
from .config import StageConfig
from .curves import CURVES_FILE, plot_curves
from .lora import ADAPTER_FOLDER, save_adapter
from .model_card import write_history, write_papers
from .parts import Trainable
from .progress import METRICS_FILE
from .saved_state import put_weights
from .sharding import bring_together
from .specialists import harvest
from .start import load_weights
from .trainer import StageTrainer


def save_stage(
    trainer: StageTrainer,
    trainable: Trainable,
    processor: UniMoEProcessor,
    config: StageConfig,
    *,
    history: list[dict[str, Any]],
    certificate: Certificate | None,
) -> Path:
    """Write model, processor and papers to the stage's output, LoRA merged or apart; only the first process writes.

    Several specialists are written each to a folder in it, named by its modality.
    """
    folder, model = Path(config.output), trainer.accelerator.unwrap_model(trainer.model)
    bring_together(model)
    if config.parallel.expert_parallel_size > 1:
        from .expert_parallel import settle_experts

        settle_experts(model)
    if trainer.is_world_process_zero():
        if trainer.args.load_best_model_at_end and (best := trainer.state.best_model_checkpoint):
            put_weights(Path(best), model)
        _finish_lora(trainable, config)
        model.requires_grad_(True).eval()
        plot_curves({folder.name: folder}, folder / CURVES_FILE)
        if config.start.specialists is not None:
            _save_specialists(model, processor, config, history)
        else:
            save_model(folder, model, processor, config, history, certificate=certificate)
        remove_checkpoints(config)
    trainer.accelerator.wait_for_everyone()
    return folder


def _finish_lora(trainable: Trainable, config: StageConfig) -> None:
    """Merge the deltas of a stage, or save them apart, as it says."""
    lora, folder = config.train.lora, Path(config.output) / ADAPTER_FOLDER
    if lora is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if lora.merge:
        trainable.merge()
        return
    save_adapter(trainable.adapter, folder, base=config.output)
    trainable.unload()


def save_model(
    folder: Path,
    model: UniMoEForConditionalGeneration,
    processor: UniMoEProcessor,
    config: StageConfig,
    history: list[dict[str, Any]],
    *,
    certificate: Certificate | None = None,
) -> None:
    """Write one model with its processor and papers."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_papers(folder, config, history, certificate=certificate)


def _save_specialists(
    model: UniMoEForConditionalGeneration,
    processor: UniMoEProcessor,
    config: StageConfig,
    history: list[dict[str, Any]],
) -> None:
    """Write a dense model for each specialist; the stage's own folder has its losses and history."""
    assert config.start.specialists is not None
    base = load_weights(config.start.specialists.base)
    output = Path(config.output)
    for key, dense in harvest(model, base, list(config.start.specialists.modalities)):
        save_model(output / key, dense, processor, config, history)
        shutil.copy(output / METRICS_FILE, output / key / METRICS_FILE)
    write_history(output, history)


__all__ = ["save_model", "save_stage"]
