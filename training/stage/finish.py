"""What a stage leaves: ordinary `save_pretrained` folders with processor and papers."""

import shutil
from pathlib import Path

from unimoe import UniMoEForConditionalGeneration

from ..checkpoint.folder import remove_checkpoints
from ..checkpoint.model_card import write_history
from ..checkpoint.papers import Papers
from ..checkpoint.state import put_weights
from ..config.stage import StageConfig
from ..distributed.sharding import bring_together
from ..monitor.curves import CURVES_FILE, plot_curves
from ..monitor.metrics_file import METRICS_FILE
from ..trainable.lora import ADAPTER_FOLDER, save_adapter
from ..trainable.parts import Trainable
from ..trainer.specialists import harvest
from ..trainer.start import load_weights
from ..trainer.trainer import StageTrainer


def save_stage(trainer: StageTrainer, trainable: Trainable, papers: Papers) -> Path:
    """Write model, processor and papers to the stage's output; only the first process writes."""
    config = papers.config
    folder, model = Path(config.output), trainer.accelerator.unwrap_model(trainer.model)
    bring_together(model)
    if config.parallel.expert_parallel_size > 1:
        from ..distributed.expert_parallel import unshard_experts

        unshard_experts(model)
    if trainer.is_world_process_zero():
        if trainer.args.load_best_model_at_end and (best := trainer.state.best_model_checkpoint):
            put_weights(Path(best), model)
        plot_curves({folder.name: folder}, folder / CURVES_FILE)
        write_model(model, trainable, papers)
        remove_checkpoints(config)
    trainer.accelerator.wait_for_everyone()
    return folder


def write_model(model: UniMoEForConditionalGeneration, trainable: Trainable, papers: Papers) -> None:
    """Write a trained model, LoRA merged or apart, to the stage's output.

    Several specialists are written each to a folder in it, named by its modality.
    """
    config = papers.config
    _finish_lora(trainable, config)
    model.requires_grad_(True).eval()
    if config.start.specialists is not None:
        _save_specialists(model, papers)
    else:
        papers.save(Path(config.output), model)


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


def _save_specialists(model: UniMoEForConditionalGeneration, papers: Papers) -> None:
    """Write a dense model for each specialist; the stage's own folder has its losses and history."""
    specialists, output = papers.config.start.specialists, Path(papers.config.output)
    assert specialists is not None
    for key, dense in harvest(model, load_weights(specialists.base), list(specialists.modalities)):
        papers.save(output / key, dense)
        shutil.copy(output / METRICS_FILE, output / key / METRICS_FILE)
    write_history(output, papers.history())


__all__ = ["save_stage", "write_model"]
