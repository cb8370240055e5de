"""How much memory a step of a stage will take, said before the first one where `report.memory` asks for it."""

import torch
from transformers import TrainingArguments

from unimoe import UniMoEConfig
from unimoe.errors import ConfigError
from unimoe.errors.terminal import plain

from ..config.stage import StageConfig
from ..monitor.progress import StageProgress
from ..monitor.sizes import GB
from ..planning.batches import BatchEstimate
from ..planning.plan import step_memory


def say_memory(
    config: StageConfig,
    args: TrainingArguments,
    model_config: UniMoEConfig,
    batches: BatchEstimate,
    progress: StageProgress,
) -> None:
    """Say how much memory a step of each process will take at most, and warn if its GPU has less."""
    device, processes = args.device, args.world_size
    try:
        step = step_memory(config, args, model_config, batches, processes=processes, on_cpu=device.type == "cpu")
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


__all__ = ["say_memory"]
