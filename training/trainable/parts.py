"""Which parameters train: parts by name, LoRA on parts, and the table of both. Everything else is frozen."""

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from rich.table import Table
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unimoe import UniMoEForConditionalGeneration
from unimoe.encoders import Encoder
from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean
from unimoe.errors.terminal import plain
from unimoe.moe.tasks import set_task
from unimoe.surgery.extension import reserved_key, trained_parts

from ..config.train import TrainConfig
from .lora import add_lora


@dataclass
class Trainable:
    """What trains in a model, after `choose_trainable`.

    Args:
        parts: Parameters of each part of the model, before low-rank deltas were added.
        deltas: Low-rank parameters by the part that they belong to.
        unread: Parameters of no part: the model keeps them, and no forward reads them, such as the pooler of a ViT.
        adapter: peft's model around this one, which can save and merge the deltas; None without LoRA.
    """

    parts: dict[str, list[nn.Parameter]]
    deltas: dict[str, list[nn.Parameter]] = field(default_factory=dict)
    unread: list[nn.Parameter] = field(default_factory=list)
    adapter: Any = None

    def merge(self) -> None:
        """Add the low-rank deltas to the weights that they belong to, and take them out of the model."""
        if self.adapter is not None:
            self.adapter.merge_and_unload(safe_merge=True)
            self.adapter, self.deltas = None, {}

    def unload(self) -> None:
        """Take the low-rank deltas out of the model without adding them to it."""
        if self.adapter is not None:
            self.adapter.unload()
            self.adapter, self.deltas = None, {}


def choose_trainable(model: UniMoEForConditionalGeneration, config: TrainConfig) -> Trainable:
    """Freeze a model but for the parts that a stage names, add LoRA where it asks for it, and turn a task on.

    Args:
        model: Changed in place.
        config: The stage's `train`.

    Returns:
        The trained parameters; call its `merge` after training.

    Raises:
        ConfigError: If the model has no part of a name, or a part has nothing that LoRA can be put on, or as
            `turn_task_on`.
    """
    everything = model.parts()
    for part in [*config.parts, *(config.lora.parts if config.lora else [])]:
        if part not in everything:
            raise ConfigError(
                f"This model has no part {part!r}.{did_you_mean(part, everything)} Parts: {', '.join(everything)}."
            )
    turn_task_on(model, config)
    names = within_layers(everything, config.layers, len(model.model.language_model.layers))
    parameters = dict(model.named_parameters())
    _check_parts(config, names, parameters)
    trainable = Trainable({part: [parameters[name] for name in members] for part, members in everything.items()})
    trainable.unread = [parameters[name] for name in parameters.keys() - {*chain(*everything.values())}]
    fixed = {name for name, parameter in parameters.items() if not parameter.requires_grad}  # Whisper's sinusoids
    model.requires_grad_(False)
    if config.lora is not None:
        trainable.adapter, trainable.deltas = add_lora(model, config.lora, names)
    for part in config.parts:
        for name in set(names[part]) - fixed:
            parameters[name].requires_grad_(True)
    return trainable


def turn_task_on(model: UniMoEForConditionalGeneration, config: TrainConfig) -> None:
    """Turn the task on whose reserved experts or router rows a stage trains; they learn while it is on, only.

    Args:
        model: Changed in place.
        config: The stage's `train`.

    Raises:
        ConfigError: If they are of several tasks.
    """
    parts, everything = [*config.parts, *(config.lora.parts if config.lora else [])], model.parts()
    trained = {name for part in parts for name in everything.get(part, ())}
    own = {task: trained_parts(model, reserved_key(None, task)) for task in model.config.text_config.reserved_tasks}
    tasks = [task for task, parts in own.items() if any(trained.intersection(everything[part]) for part in parts)]
    if len(tasks) > 1:
        problem = f"experts of {' and '.join(tasks)} would train, and one task is on at a time."
        raise ConfigError("train.parts", problem, f"Name those of one: {', '.join(own[tasks[0]])}.")
    set_task(model, tasks[0] if tasks else None)


def _check_parts(config: TrainConfig, names: dict[str, list[str]], parameters: dict[str, nn.Parameter]) -> None:
    """Refuse parts of which nothing would train, and those that would train twice."""
    for part in config.parts:
        if not names[part]:
            raise ConfigError(f"train.layers: {part} has nothing in layers {config.layers}. Leave one of them out.")
        if not any(parameters[name].requires_grad for name in names[part]):
            raise ConfigError(f"train.parts: {part} is frozen by design; nothing of it would train.")
    whole = {name for part in config.parts for name in names[part]}
    for part in config.lora.parts if config.lora else []:
        if both := sorted(whole.intersection(names[part])):
            raise ConfigError(
                f"train.lora.parts: {part} would train whole and by lora ({both[0]}). Name it in one of them."
            )


def within_layers(names: dict[str, list[str]], layers: list[int] | None, depth: int) -> dict[str, list[str]]:
    """Of the parameters of each part, those in some decoder layers, and those that are in none.

    Raises:
        ConfigError: If there is no such layer.
    """
    if layers is None:
        return names
    if strangers := [layer for layer in layers if not 0 <= layer < depth]:
        raise ConfigError(f"train.layers: there is no layer {strangers[0]}; the decoder has {depth}, from 0 on.")
    inside = tuple(f"model.language_model.layers.{layer}." for layer in layers)
    return {
        part: [
            name for name in members if name.startswith(inside) or not name.startswith("model.language_model.layers.")
        ]
        for part, members in names.items()
    }


def keep_frozen_steady(model: nn.Module) -> None:
    """Put frozen encoders, and every frozen batch norm, in evaluation mode: no dropout, no drifting statistics.

    The trainer puts the whole model in training mode before each step, so this is called after that. Frozen decoder
    layers stay in training mode, because activation checkpointing works there alone.
    """
    for module in model.modules():
        steady = isinstance(module, Encoder | _BatchNorm)
        if steady and not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()


def trainable_table(trainable: Trainable) -> Table:
    """Show for each part how many parameters it has and how many train."""
    table = Table(title="What trains")
    table.add_column("part")
    for column in ("parameters", "trainable"):
        table.add_column(column, justify="right")
    table.add_column("how")
    whole: dict[int, nn.Parameter] = {}
    for part, members in sorted(trainable.parts.items()):
        deltas = trainable.deltas.get(part, [])
        full = sum(parameter.numel() for parameter in members if parameter.requires_grad)
        how = "whole" if full else "lora" if deltas else "frozen"
        count = full + sum(delta.numel() for delta in deltas)
        table.add_row(plain(part), f"{sum(map(nn.Parameter.numel, members)):,}", f"{count:,}", how)
        whole |= {id(parameter): parameter for parameter in [*members, *deltas]}
    if unread := sum(map(nn.Parameter.numel, trainable.unread)):
        table.add_row("(read by no forward)", f"{unread:,}", "0", "kept")
    total = sum(parameter.numel() for parameter in whole.values()) + unread
    trained = sum(parameter.numel() for parameter in whole.values() if parameter.requires_grad)
    table.add_section()
    table.add_row("all", f"{total:,}", f"{trained:,}", f"{trained / max(total, 1):.1%}")
    return table
