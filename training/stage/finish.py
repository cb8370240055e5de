"""What a stage leaves: ordinary `save_pretrained` folders with processor and metadata."""

import shutil
from pathlib import Path

from unimoe import UniMoEForConditionalGeneration
from unimoe.errors import ConfigError

from ..checkpoint.folder import remove_checkpoints
from ..checkpoint.model_card import Metadata, write_history
from ..checkpoint.state import put_weights
from ..config.stage import StageConfig
from ..distributed.processes import first_alone
from ..distributed.sharding import bring_together
from ..monitor.curves import CURVES_FILE, plot_curves
from ..monitor.metrics_file import METRICS_FILE
from ..trainable.lora import ADAPTER_FOLDER, save_adapter
from ..trainable.parts import Trainable
from ..trainer.specialists import export_specialists
from ..trainer.start import load_weights
from ..trainer.trainer import StageTrainer


def save_stage(trainer: StageTrainer, trainable: Trainable, metadata: Metadata) -> Path:
    """Write model, processor and metadata to the stage's output; only the first process writes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    bring_together(model)
    if metadata.config.parallel.expert_parallel_size > 1:
        from ..distributed.expert_parallel import unshard_experts

        unshard_experts(model)
    first_alone(lambda: _write(trainer, trainable, metadata), errors=(OSError, ConfigError))
    return Path(metadata.config.output)


def _write(trainer: StageTrainer, trainable: Trainable, metadata: Metadata) -> None:
    """Write what a stage leaves; the best weights instead of the last ones where it asks for them."""
    config, model = metadata.config, trainer.accelerator.unwrap_model(trainer.model)
    folder = Path(config.output)
    if trainer.args.load_best_model_at_end and (best := trainer.state.best_model_checkpoint):
        put_weights(Path(best), model)
    plot_curves({folder.name: folder}, folder / CURVES_FILE)
    write_model(model, trainable, metadata)
    remove_checkpoints(config)


def write_model(model: UniMoEForConditionalGeneration, trainable: Trainable, metadata: Metadata) -> None:
    """Write a trained model, LoRA merged or apart, to the stage's output.

    Several specialists are written each to a folder in it, named by its modality.
    """
    config = metadata.config
    _finish_lora(trainable, config)
    model.requires_grad_(True).eval()
    if config.start.specialists is not None:
        _save_specialists(model, metadata)
    else:
        metadata.save(Path(config.output), model)


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


def _save_specialists(model: UniMoEForConditionalGeneration, metadata: Metadata) -> None:
    """Write a dense model for each specialist; the stage's own folder has its losses and history."""
    specialists, output = metadata.config.start.specialists, Path(metadata.config.output)
    assert specialists is not None
    for key, dense in export_specialists(model, load_weights(specialists.base), list(specialists.modalities)):
        metadata.save(output / key, dense)
        shutil.copy(output / METRICS_FILE, output / key / METRICS_FILE)
    write_history(output, metadata.history())


__all__ = ["save_stage", "write_model"]
