"""How much memory a stage will take, said before its first step where `report.memory` asks for it; what it took."""

import json
from pathlib import Path

import torch
from transformers import TrainerState, TrainingArguments

from unimoe import UniMoEConfig
from unimoe.errors import ConfigError
from unimoe.errors.terminal import plain
from unimoe.files.writing import append

from ..config.stage import StageConfig
from ..distributed.processes import from_all
from ..monitor.memory import MemoryWatch, in_use
from ..monitor.metrics_file import METRICS_FILE
from ..monitor.progress import StageProgress
from ..monitor.sizes import GB
from ..planning.batches import BatchEstimate
from ..planning.memory import StepMemory, meta_model
from ..planning.memory_parallel import host_memory
from ..planning.models import DescribedRecipe
from ..planning.plan import step_memory


def say_memory(
    config: StageConfig,
    args: TrainingArguments,
    model_config: UniMoEConfig,
    batches: BatchEstimate,
    progress: StageProgress,
    *,
    loaded: int,
) -> int | None:
    """Say how much memory each process will have in use at most, and warn if its GPU has less.

    Args:
        config: The stage.
        args: Of its trainer.
        model_config: Of its model.
        batches: What it trains on.
        progress: Shows it.
        loaded: Bytes that the model added to this process.

    Returns:
        The bytes, of the same meaning as `MemoryWatch.peak`; None if they cannot be told.
    """
    device, processes = args.device, args.world_size
    is_cpu = device.type == "cpu"
    try:
        step = step_memory(config, args, model_config, batches, processes=processes, on_cpu=is_cpu)
    except ConfigError as error:  # of a tower that looks at values; it trains nevertheless
        progress.console.print(plain(str(error)), highlight=False)
        return None
    each = f" in each of {processes} processes" if processes > 1 else ""
    progress.console.print(f"memory of a step{each}: about {step}", highlight=False)
    if (there := device_memory(device)) and step.total > there:
        progress.warn(
            f"A step is expected to take {step.total / GB:.1f} GB, and the GPU has {there / GB:.1f} GB. `python -m "
            f"training plan FILE --gpu-memory {there / GB:.0f}` says what would make it fit."
        )
    return _say_process(config, model_config, step, progress, loaded=loaded) if is_cpu else step.total


def _say_process(
    config: StageConfig, model_config: UniMoEConfig, step: StepMemory, progress: StageProgress, *, loaded: int
) -> int:
    """Say what a process that trains on a CPU has in use at most: what it has now beside the model, and the stage."""
    beside = in_use() - loaded
    model, _ = meta_model(config, model_config)
    sources = DescribedRecipe().begin(config).sources if config.start.path is None else 0
    host = host_memory(config, step, model, sources=sources)
    progress.console.print(
        f"memory of a process: about {(beside + host.total) / GB:.2f} GB, of which Python, libraries and data "
        f"{beside / GB:.2f}, and at most one of {host}",
        highlight=False,
        soft_wrap=True,
    )
    return beside + host.total


def compare_memory(
    folder: Path, told: int | None, watch: MemoryWatch, progress: StageProgress, state: TrainerState
) -> None:
    """Say at the end what was told and what was in use at most, of all processes; also in `metrics.jsonl`.

    Args:
        folder: Output of the stage.
        told: By `say_memory`, in the first process.
        watch: Of this process.
        progress: Shows it.
        state: Of the trainer.
    """
    found = from_all((watch.peak, watch.reserved))
    peak, reserved = (max(sizes) for sizes in zip(*found, strict=True))
    if not state.is_world_process_zero or told is None:
        return
    progress.console.print(
        f"memory of a process: {told / GB:.2f} GB told, {peak / GB:.2f} GB in use at most; {reserved / GB:.2f} GB "
        "with what was freed and kept",
        highlight=False,
        soft_wrap=True,
    )
    sizes = {"memory_told_gb": told, "memory_gb": peak, "memory_reserved_gb": reserved}
    line = {"step": state.global_step} | {name: round(size / GB, 3) for name, size in sizes.items()}
    append(folder / METRICS_FILE, json.dumps(line) + "\n")


def device_memory(device: torch.device) -> int | None:
    """Bytes of a GPU's memory. None: not a GPU."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


__all__ = ["compare_memory", "say_memory"]
