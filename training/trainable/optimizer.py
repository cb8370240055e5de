"""Groups of parameters: a learning rate for each part, and parts that rest while others warm up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from unimoe.errors import ConfigError
from unimoe.errors.suggest import did_you_mean

from ..config.train import TrainConfig
from .parts import Trainable
from .schedule import rate_factor, set_factors


@dataclass
class ParameterGroups:
    """What a stage says of the parameters that train.

    Args:
        config: The stage's `train`.
        parts: Trained parameters of each part, low-rank deltas among them.
    """

    config: TrainConfig
    parts: dict[str, list[nn.Parameter]]

    @classmethod
    def of(cls, trainable: Trainable, config: TrainConfig) -> "ParameterGroups":
        """Find the trained parameters of each part.

        Raises:
            ConfigError: If a part that has a rate, or warms up, is none of the model's, or does not train.
        """
        parts = {
            part: [parameter for parameter in [*members, *trainable.deltas.get(part, [])] if parameter.requires_grad]
            for part, members in trainable.parts.items()
        }
        named = {
            "learning_rates": config.learning_rates,
            "warm_up.parts": config.warm_up.parts if config.warm_up else [],
        }
        for key, names in named.items():
            for part in names:
                if part not in parts:
                    raise ConfigError(f"train.{key}: this model has no part {part!r}.{did_you_mean(part, parts)}")
                if not parts[part]:
                    raise ConfigError(f"train.{key}: {part} does not train in this stage. Leave it out.")
        return cls(config, parts)

    def split(self, optimizer: torch.optim.Optimizer) -> None:
        """Split the groups of a new optimizer by learning rate, and by who rests; in place.

        A group with a rate of its own names its part. A parameter of several named parts has the rate of
        the smallest of them.

        Raises:
            ConfigError: If the optimizer passes by what trains, such as stacked experts; the parts are named.
        """
        self._require_all(optimizer)
        owner = self._owners()
        warm = {id(parameter) for part in self._warm_parts for parameter in self.parts[part]}
        groups = optimizer.param_groups[:]
        optimizer.param_groups.clear()
        for group in groups:
            members: dict[tuple[str, bool], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                key = (owner.get(id(parameter), ""), bool(warm) and id(parameter) not in warm)
                members.setdefault(key, []).append(parameter)
            for (part, rests), parameters in sorted(members.items(), key=lambda item: item[0]):
                rate = self.config.learning_rates.get(part, group["lr"])
                optimizer.param_groups.append(
                    {**group, "params": parameters, "lr": rate, "part": part, "rests_first": rests}
                )

    def _require_all(self, optimizer: torch.optim.Optimizer) -> None:
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        left = {part: sum(id(own) not in held for own in members) for part, members in self.parts.items()}
        if parts := ", ".join(f"{part} ({count} tensors)" for part, count in left.items() if count):
            raise ConfigError(f"The optimizer {type(optimizer).__name__} does not reach all that trains: {parts}.")

    def schedule(self, scheduler: Any, args: TrainingArguments, steps: int) -> None:
        """Let the rates follow the stage's stretch of a schedule, those of groups that wait after a warm-up; in place.

        Args:
            scheduler: Of the trainer.
            args: What it is made from.
            steps: Of the stage.

        Raises:
            ConfigError: If the schedule is not a function of the step.
        """
        warm_up, span = self.config.warm_up, self.config.schedule
        if warm_up is None and span is None:
            return
        asked_by = "train.schedule" if span else "train.warm_up"
        factor = rate_factor(args, steps, span=span, asked_by=asked_by)
        waits = warm_up.steps if warm_up else 0
        groups = scheduler.optimizer.param_groups
        set_factors(scheduler, [_after(waits, factor) if group["rests_first"] else factor for group in groups])

    @property
    def _warm_parts(self) -> list[str]:
        return self.config.warm_up.parts if self.config.warm_up else []

    def _owners(self) -> dict[int, str]:
        """Return the smallest part with a learning rate of its own that each parameter is of."""
        by_size = sorted(self.config.learning_rates, key=lambda part: len(self.parts[part]), reverse=True)
        return {id(parameter): part for part in by_size for parameter in self.parts[part]}


def _after(steps: int, factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: 0.0 if step < steps else factor(step)


def group_rates(optimizer: torch.optim.Optimizer | None) -> dict[str, float]:
    """Return the present learning rate of each part that has its own, as it is logged: `learning_rate/PART`."""
    groups = optimizer.param_groups if optimizer is not None else []
    return {f"learning_rate/{group['part']}": group["lr"] for group in groups if group.get("part")}


__all__ = ["ParameterGroups", "group_rates"]
