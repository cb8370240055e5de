"""Plans stages: their models by configuration, their batches by the data, and what a step takes by trying it out on
nothing.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn
from transformers import TrainingArguments

from unimoe import UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.moe.counting import count_parameters

from ..config.recipe import load_recipe, select_stages
from ..config.stage import StageConfig
from ..config.training_arguments import arguments_for_estimate
from ..distributed.deepspeed import check_experts
from ..monitor.sizes import GB
from ..trainable.parts import Trainable, trainable_table
from .batches import BatchEstimate, estimate_batches
from .memory import StepMemory, estimate, meta_model
from .memory_parallel import HostMemory, across_processes, host_memory
from .models import DescribedModel, DescribedRecipe
from .traffic import Placement, Traffic, step_traffic


@dataclass(frozen=True)
class StageEstimate:
    """What one stage will take.

    Args:
        name: Of the stage.
        parameters: Of its model: `total`, `active` (those that one token can meet) and `trainable`.
        batches: What it trains on.
        memory: Of one process, for a step.
        traffic: Of one process, in a step.
        host: Of one process that trains on a CPU.
        processes: That share it.
        table: What trains, part by part.
        advice: Changes that would make it fit, in words; empty if it fits, or nobody said what into.
        absent: Pretrained parts that were not to be had, see `DescribedModel`.
    """

    name: str
    parameters: dict[str, int]
    batches: BatchEstimate
    memory: StepMemory
    traffic: Traffic
    host: HostMemory
    processes: int
    table: Table
    advice: list[str]
    absent: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations of one step, over all processes."""
        return self.memory.flops * self.processes

    def as_json(self, *, imports: int = 0) -> dict[str, Any]:
        """All numbers, for machines; `imports` are the bytes that Python and libraries have in use in a training."""
        return {
            "stage": self.name,
            "parameters": self.parameters,
            "processes": self.processes,
            "steps": self.batches.steps,
            "tokens_per_batch": round(self.batches.tokens),
            "basis": self.batches.basis,
            "flops_per_step": self.flops,
            "traffic": asdict(self.traffic),
            "memory": {"total": self.memory.total, **self.memory.parts},
            "host_memory": {"imports": imports, **asdict(self.host), "total": imports + self.host.total},
            "advice": self.advice,
            "absent_parts": list(self.absent),
        }


def estimate_stage(
    name: str, config: StageConfig, start: DescribedModel, *, processes: int = 1, limit: float | None = None
) -> StageEstimate:
    """Plan one stage.

    Args:
        name: Its name.
        config: The stage.
        start: The model that it begins with.
        processes: That share it.
        limit: Bytes that a process may use. None: no advice is given.

    Raises:
        ConfigError: If the model has no part of a name that trains, or its experts cannot be sharded so.
        DataError: If there are data, but a row of them does not fit.
    """
    if config.parallel.expert_parallel_size > 1:
        check_experts(config.parallel, start.config.text_config, processes=processes)
    model, trainable = meta_model(config, start.config)
    args = arguments_for_estimate(config)
    batches = estimate_batches(config, args, start.processor, processes=processes)
    alone = worst_step(config, args, start.config, batches)
    on_device, on_cpu = (
        across_processes(alone, config, model, processes=processes, on_cpu=on_cpu)
        for on_cpu in (bool(config.trainer.get("use_cpu")), True)
    )
    is_over = limit is not None and on_device.total > limit
    return StageEstimate(
        name=name,
        parameters=count_planned(start, model, trainable),
        batches=batches,
        memory=on_device,
        traffic=plan_traffic(config, args, start, model, batches, processes=processes),
        host=host_memory(config, on_cpu, model, sources=start.sources),
        processes=processes,
        table=trainable_table(trainable),
        advice=list(advise(config, args, start, processes, limit)) if is_over and limit else [],
        absent=start.absent,
    )


def plan_traffic(
    config: StageConfig,
    args: TrainingArguments,
    start: DescribedModel,
    model: nn.Module,
    batches: BatchEstimate,
    *,
    processes: int,
) -> Traffic:
    """Say what a process sends in a step whose tokens all have as many experts as they may, each once."""
    text = start.config.text_config
    return step_traffic(
        config,
        args,
        Placement.of(model),
        processes=processes,
        choices=batches.tokens * text.num_experts_per_tok,
        num_experts=text.num_experts,
        hidden_size=text.hidden_size,
    )


def count_planned(start: DescribedModel, model: nn.Module, trainable: Trainable) -> dict[str, int]:
    """Count parameters: all without low-rank deltas, those that one token can meet, and those that train."""
    with torch.device("meta"):
        plain: nn.Module = UniMoEForConditionalGeneration._from_config(start.config)
    deltas = sum(delta.numel() for members in trainable.deltas.values() for delta in members)
    return {
        "total": sum(parameter.numel() for parameter in model.parameters()) - deltas,
        "active": count_parameters(plain)["active"],
        "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def step_memory(
    config: StageConfig,
    args: TrainingArguments,
    model_config: UniMoEConfig,
    batches: BatchEstimate,
    *,
    processes: int,
    on_cpu: bool,
) -> StepMemory:
    """Estimate what a step takes at most in each of some processes."""
    model, _ = meta_model(config, model_config)
    alone = worst_step(config, args, model_config, batches)
    return across_processes(alone, config, model, processes=processes, on_cpu=on_cpu)


def worst_step(
    config: StageConfig, args: TrainingArguments, model_config: UniMoEConfig, batches: BatchEstimate
) -> StepMemory:
    """Estimate a step in a process that trains alone, with the batch that takes most."""
    steps = (
        estimate(config, model_config, batch, validation=batches.validation, args=args) for batch in batches.largest
    )
    return max(steps, key=lambda step: step.total)


def advise(
    config: StageConfig, args: TrainingArguments, start: DescribedModel, processes: int, limit: float
) -> Iterator[str]:
    """Try changes one on top of the other until a stage fits, and say what each would come to."""
    changed = config
    for what, change in possible_changes(config, args, processes):
        changed = change(changed)
        changed_args = arguments_for_estimate(changed)
        batches = estimate_batches(changed, changed_args, start.processor, processes=processes)
        on_cpu = bool(config.trainer.get("use_cpu"))
        total = step_memory(changed, changed_args, start.config, batches, processes=processes, on_cpu=on_cpu).total
        yield f"{what}: {total / GB:.2f} GB"
        if total <= limit:
            return
    yield "Still too much: train fewer parts, or parts by lora; shorten data.max_length; or take larger GPUs."


def possible_changes(config: StageConfig, args: TrainingArguments, processes: int) -> Iterator[tuple[str, Any]]:
    """Return changes that leave the losses as they are: names, and functions that make them."""
    if not args.activation_checkpointing:
        yield (
            "trainer.activation_checkpointing=true",
            lambda stage: _with_trainer(stage, activation_checkpointing=True),
        )
    size, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if size > 1:
        values = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation * size}
        named = " ".join(f"trainer.{key}={value}" for key, value in values.items())
        yield f"and {named}", lambda stage: _with_trainer(stage, **values)
    if processes > 1 and config.parallel.zero != 2 and config.start.specialists is None:
        yield (
            "and parallel.zero=2",
            lambda stage: stage.model_copy(update={"parallel": stage.parallel.model_copy(update={"zero": 2})}),
        )


def _with_trainer(config: StageConfig, **values: Any) -> StageConfig:
    return config.model_copy(update={"trainer": {**config.trainer, **values}})


def estimate_recipe(
    file: Path, overrides: list[str], *, only: list[str], processes: int, limit: float | None
) -> Iterator[StageEstimate]:
    """Plan the stages of a file, one after the other; of those before a chosen one only the models are looked at.

    Args:
        file: The YAML file.
        overrides: `key.sub=value` each.
        only: Names of stages. Empty: all.
        processes: That share each stage.
        limit: GB of a GPU.

    Raises:
        ConfigError: If something in the file, or in what it names, does not fit.
        DataError: If a row of the data does not fit.
    """
    recipe = load_recipe(file, overrides)
    chosen = select_stages(recipe, only=only, start=None)
    models = DescribedRecipe()
    for name, config in recipe.stages.items():
        start = models.begin(config)
        if name in chosen:
            yield estimate_stage(name, config, start, processes=processes, limit=limit and limit * GB)
        models.end(config, start)


__all__ = ["StageEstimate", "estimate_recipe", "estimate_stage", "step_memory"]
