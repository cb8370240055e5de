"""What processes send each other in a step, in bytes, by formula; `tests/training/test_traffic.py` counts it in runs.

P processes, e of them share the experts of one model, so that P / e have the same ones. A collective operation among
them is counted by its payload, what one process puts in or gets out; of an all-reduce 2 (n - 1) / n of that leave a
process, of a reduce-scatter, an all-gather or an all-to-all (n - 1) / n, among n processes.
"""

from dataclasses import dataclass

from torch import nn
from transformers import TrainingArguments

from unimoe.moe.block import SparseMoeBlock
from unimoe.moe.routers.router import Router
from unimoe.moe.soft import SoftMoeBlock

from ..config.stage import StageConfig


@dataclass(frozen=True)
class Placement:
    """Bytes of a model's parameters by where ZeRO-3 and expert parallelism leave them.

    Args:
        experts: Of experts and their low-rank deltas, which each of e processes has a share of.
        kept: Of encoders, connectors and routers, whole in every process.
        others: Of all else.
        layers: Of all else in decoder layers, but for sparse feed-forwards.
        largest: Of the largest module that ZeRO-3 has whole at once, without experts, and of the experts in it.
        trained_experts, trained: Of experts that train, and of all else that trains.
        sparse_layers: How many layers have experts.
    """

    experts: int
    kept: int
    others: int
    layers: int
    largest: tuple[int, int]
    trained_experts: int
    trained: int
    sparse_layers: int

    @classmethod
    def of(cls, model: nn.Module) -> "Placement":
        """Look at a model, on the meta device or not, with what trains in it chosen."""
        blocks = [module for module in model.modules() if isinstance(module, SparseMoeBlock | SoftMoeBlock)]
        sharded = {id(each) for block in blocks for each in _experts(block)}
        apart = [module for name, module in model.named_modules() if name.endswith((".encoders", ".connectors"))]
        routers = [module for module in model.modules() if isinstance(module, Router)]
        kept = {id(each) for module in [*apart, *routers] for each in module.parameters()}
        parameters = list(model.parameters())
        others = [each for each in parameters if id(each) not in sharded | kept]
        rest = {id(each) for each in others} - {id(each) for block in blocks for each in block.parameters()}
        layers = [each for name, each in model.named_parameters() if ".layers." in name and id(each) in rest]
        trains = [each for each in parameters if each.requires_grad]
        sizes = [(_bytes(block.parameters()), _bytes(_experts(block))) for block in blocks]
        return cls(
            experts=_bytes(each for each in parameters if id(each) in sharded),
            kept=_bytes(each for each in parameters if id(each) in kept),
            others=_bytes(others),
            layers=_bytes(layers),
            largest=max(
                [(whole - experts, experts) for whole, experts in sizes]
                + [(each.nbytes, 0) for each in others],  # an embedding, in a dense model with few layers
                key=sum,
            ),
            trained_experts=_bytes(each for each in trains if id(each) in sharded),
            trained=_bytes(each for each in trains if id(each) not in sharded),
            sparse_layers=len(blocks),
        )


def _experts(block: nn.Module) -> list[nn.Parameter]:
    """Parameters of a block's experts that each process has a share of, deltas among them."""
    named = ((name.replace("base_layer.", ""), each) for name, each in block.named_parameters())
    return [each for name, each in named if name.startswith("experts.") and not name.startswith("experts.base.")]


def _bytes(parameters: object) -> int:
    return sum(parameter.nbytes for parameter in parameters)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Traffic:
    """Payloads of one process in a step, in bytes.

    Args:
        exchange: Tokens on their way to experts and back, in all-to-alls.
        gradients: In all-reduces (plain data parallelism, ZeRO-1, ZeRO-2) or reduce-scatters (ZeRO-3).
        weights: In all-gathers.
    """

    exchange: int
    gradients: int
    weights: int


def step_traffic(
    config: StageConfig,
    args: TrainingArguments,
    placement: Placement,
    *,
    processes: int,
    choices: float,
    num_experts: int,
    hidden_size: int,
) -> Traffic:
    """Say what a process sends and receives in a step.

    A choice (a token and one of its experts) travels to the expert and back, D numbers each way, and its gradient
    does; with activation checkpointing it travels twice more. Beside it go the numbers of rows for each expert.
    (Where nothing below the first sparse layer trains, its gradient stays.) ZeRO-3 fetches weights for the forward and
    for the backward pass, and with activation checkpointing those outside of sparse feed-forwards once more.

    Args:
        config: The stage.
        args: Of its trainer.
        placement: Of its model.
        processes: P.
        choices: Of experts, by the tokens of one batch of one process in one layer, on average.
        num_experts: E.
        hidden_size: D.
    """
    size, zero = config.parallel.expert_parallel_size, config.parallel.zero
    batches, again = args.gradient_accumulation_steps, bool(args.activation_checkpointing)
    number = 2 if config.trainer.get("bf16") else 4
    rows = (6 if again else 4) * choices * hidden_size * number
    counts = (2 if again else 1) * 8 * num_experts
    exchange = placement.sparse_layers * batches * (rows + counts) if size > 1 else 0
    if processes == 1:
        return Traffic(0, 0, 0)
    has_replicas = processes > size
    trained = placement.trained + has_replicas * placement.trained_experts // size
    if zero is None:
        return Traffic(round(exchange), trained, 0)
    reductions = 1 if zero == 1 or waits(config) else batches
    weights = trained
    if zero == 3:
        fetched = placement.others + has_replicas * placement.experts // size
        weights = batches * (2 * fetched + again * placement.layers) + placement.kept
    return Traffic(round(exchange), reductions * trained, weights)


def waits(config: StageConfig) -> bool:
    """Whether gradients wait for the end of a step, because a modality's own parts train (`OrderedReduction`)."""
    parts = [*config.train.parts, *(config.train.lora.parts if config.train.lora else [])]
    return any(part.partition(".")[0] in ("encoders", "connectors") for part in parts)


__all__ = ["Placement", "Traffic", "step_traffic", "waits"]
