"""What several processes add to the memory of a step, or share of it; and what a process needs beside its steps.

P processes, T bytes of the parameters that train.
"""

from dataclasses import asdict, dataclass

from torch import nn

from unimoe import UniMoEForConditionalGeneration
from unimoe.moe import Experts

from ..config.stage import StageConfig
from ..encoder_cache.settings import replaced_encoders
from ..monitor.sizes import GB
from ..trainer.specialists import Specialists
from .memory import GRADIENTS, OPTIMIZER, WEIGHTS, StepMemory, cached_modalities
from .traffic import Placement, waits

BUFFERS = "buffers"
"""Kind of memory: of gradients on their way between processes."""
BUCKET = 500_000_000
"""Elements of the bucket in which DeepSpeed reduces gradients (`reduce_bucket_size`, which a stage leaves alone)."""


def trained_bytes(model: nn.Module) -> int:
    """T: bytes of the parameters that train."""
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def across_processes(
    step: StepMemory, config: StageConfig, model: nn.Module, *, processes: int, on_cpu: bool
) -> StepMemory:
    """Say what one of several processes needs for a step, from what a single one needs.

    Plain data parallelism keeps the gradients a second time, in buckets (`torch.nn.parallel.DistributedDataParallel`,
    which accelerate leaves at `gradient_as_bucket_view=False`). ZeRO-1 and ZeRO-2 (Rajbhandari et al. 2020, arXiv
    1910.02054, section 5) leave each process 1/P of the optimizer's states and of the master copy of the weights,
    which for float32 weights is one more copy. Gradients are whole until they are reduced, in a bucket of `BUCKET`
    elements: on a GPU all of it is taken, on a CPU as much as is written to. Where a modality's own parts train,
    gradients wait for the end of the step (`OrderedReduction`) and are there beside the bucket.
    Of sharded experts a process has its shard. ZeRO-3 leaves it 1/P of the weights of the language model, and the
    largest module of it whole.

    Args:
        step: Of a process that trains alone.
        config: The stage.
        model: As it trains.
        processes: P.
        on_cpu: Whether it trains there.
    """
    trained = trained_bytes(model)
    if config.parallel.zero is None:
        added = {BUFFERS: trained} if processes > 1 else {}
        validation = step.validation and step.validation | added
        return StepMemory(step.backward | added, step.update | added, step.flops, validation)
    step, trained = _of_shares(step, config, Placement.of(model), processes=processes)
    share = {OPTIMIZER: (step.backward.get(OPTIMIZER, 0) + trained_bytes(model)) // processes}
    bucket = min(trained, BUCKET * 4) if on_cpu else BUCKET * 4
    whole = waits(config) or config.parallel.zero == 1
    in_backward = 0 if whole or on_cpu else bucket  # on a CPU gradients move there as they come
    at_update = bucket + (trained if whole else 2 * trained // processes)
    backward = step.backward | share | {BUFFERS: in_backward}
    update = {kind: size for kind, size in step.update.items() if kind not in ("gradients", "activations")}
    validation = step.validation and step.validation | share
    return StepMemory(backward, update | share | {BUFFERS: at_update}, step.flops, validation)


def _of_shares(
    step: StepMemory, config: StageConfig, placement: Placement, *, processes: int
) -> tuple[StepMemory, int]:
    """Return a step with its share of experts and, under ZeRO-3, of weights; and the bytes that a process trains."""
    size = config.parallel.expert_parallel_size
    weights = placement.kept + placement.others + placement.experts // size
    if config.parallel.zero == 3:
        largest, experts = placement.largest
        shared = (placement.others + placement.experts) // processes
        weights = min(weights, placement.kept + shared + largest + experts // size)
    elsewhere = placement.trained_experts - placement.trained_experts // size
    elsewhere_by_kind = {
        WEIGHTS: placement.kept + placement.others + placement.experts - weights,
        GRADIENTS: elsewhere,
    }

    def shares(parts: dict[str, int]) -> dict[str, int]:
        return {kind: max(taken - elsewhere_by_kind.get(kind, 0), 0) for kind, taken in parts.items()}

    own = StepMemory(shares(step.backward), shares(step.update), step.flops, shares(step.validation))
    return own, placement.trained + placement.trained_experts // size


@dataclass(frozen=True)
class HostMemory:
    """What a process that trains on a CPU has in use beside its imports and its data, in bytes.

    Args:
        start: Most while the model is loaded, composed or assembled.
        step: Most in a step.
        save: Most while checkpoint and output are written.
    """

    start: int
    step: int
    save: int

    @property
    def total(self) -> int:
        """Most in the whole stage."""
        return max(self.start, self.step, self.save)

    def __str__(self) -> str:
        """All three, in GB."""
        return ", ".join(f"{name} {size / GB:.2f}" for name, size in asdict(self).items())


def host_memory(
    config: StageConfig, step: StepMemory, model: UniMoEForConditionalGeneration, *, sources: int
) -> HostMemory:
    """Say what a process holds that trains on a CPU.

    A loaded model's weights are pages of its file until they change. What is not used as it stands in the file stays
    there beside what was made of it: the weights of single experts, which are stacked; feed-forwards, of which
    specialists get copies; under ZeRO those that train. Encoders whose tokens are cached lie beside the step.
    For saving, the stacks of gate and up projections are taken apart; under ZeRO a checkpoint copies all weights,
    and for specialists the base is loaded again.

    Args:
        config: The stage.
        step: Of one process, see `across_processes`.
        model: As it trains.
        sources: Bytes of the models that it is composed of or assembled from; 0 for one that is loaded.
    """
    weights = _bytes(model) + sum(buffer.nbytes for buffer in model.buffers())
    stacks = [module for module in model.modules() if isinstance(module, Experts)]
    stacked = sum(map(_bytes, stacks))
    zero, trained = config.parallel.zero is not None, trained_bytes(model)
    specialists = [module for module in model.modules() if isinstance(module, Specialists)]
    copied_from = sum(_bytes(module) // len(module.specialists) for module in specialists)
    in_file = 0 if sources else stacked + copied_from + (trained if zero else 0)
    apart = sum(module.get_parameter("gate_up_proj").nbytes for module in stacks)
    optimizer = step.update.get(OPTIMIZER, 0)
    copied = weights if zero or specialists else 0
    replaced = replaced_encoders(cached_modalities(config, model), model)
    encoders = sum(_bytes(model.model.encoders[key]) for key in replaced)
    return HostMemory(
        start=weights + (sources or stacked),
        step=step.total + encoders + in_file,
        save=weights + optimizer + in_file + max(apart, copied),
    )


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


__all__ = ["BUFFERS", "HostMemory", "across_processes", "host_memory", "trained_bytes"]
