"""Dense specialists in one run: forced routing, all tokens of a sample to the feed-forwards of its modality.

Branch and train in one process (Li et al. 2024, Uni-MoE, arXiv 2405.11273, section 3.2; Sukhbaatar et al. 2024,
Branch-Train-MiX, arXiv 2403.07816): in every decoder layer the dense feed-forward becomes one for each modality. A
step's batches are of one modality, and only that specialist learns from it, as if the others were not there: they get
no gradient, so that Adam does not move them, and each follows its own learning rate schedule.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from unimoe import UniMoEForConditionalGeneration
from unimoe.errors import ConfigError
from unimoe.moe import GatedMLP

from ..config.train import ScheduleSpan
from ..data import BatchSchedule, MixtureBatches, MixtureDataset
from ..data.batching.measure import RowLengths
from ..data.batching.streams import ModalityStreams, ScheduledBatches, apportion, split_by_modality, step_schedule
from ..trainable.schedule import rate_factor, set_factors
from .trainer import StageTrainer


class Specialists(nn.Module):
    """A layer's feed-forwards, one for each specialist; `chosen` computes."""

    def __init__(self, mlp: GatedMLP, keys: Sequence[str]) -> None:
        super().__init__()
        self.specialists = nn.ModuleDict({key: copy.deepcopy(mlp) for key in keys})
        self.chosen = keys[0]

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (B, S, D) to (B, S, D)."""
        return self.specialists[self.chosen](hidden_states)


def split_feed_forwards(model: UniMoEForConditionalGeneration, keys: Sequence[str]) -> None:
    """Give each decoder layer of a dense model a feed-forward for each specialist, in place.

    Raises:
        ValueError: If the model has experts already, or no encoder for a key.
    """
    if number := model.config.text_config.num_experts:
        raise ValueError(f"specialists are made of a dense model; this one has {number} experts.")
    if strangers := sorted(set(keys) - {"text", *model.config.encoder_keys}):
        raise ValueError(f"specialists: there is no encoder for {', '.join(strangers)} in this model.")
    for layer in model.model.language_model.layers:
        layer.mlp = Specialists(layer.mlp, keys)


def choose_specialist(model: nn.Module, key: str) -> None:
    """Let a specialist compute, in all layers."""
    for module in model.modules():
        if isinstance(module, Specialists):
            module.chosen = key


def owner(name: str, keys: Sequence[str]) -> str:
    """Return the specialist that a trained parameter belongs to, by its name.

    Raises:
        ConfigError: If it belongs to none of them.
    """
    scope = name.split(".")
    for part in ("specialists", "connectors", "encoders"):
        if part in scope and (key := scope[scope.index(part) + 1]) in keys:
            return key
    raise ConfigError(f"train: {name} belongs to none of the specialists {', '.join(keys)}. Name its part apart.")


def rest_others(model: nn.Module, key: str, keys: Sequence[str]) -> None:
    """Take the gradients of all but one specialist away, zeros too, so that the optimizer leaves them alone."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and owner(name, keys) != key:
            parameter.grad = None


def split_groups(optimizer: torch.optim.Optimizer, model: nn.Module, keys: Sequence[str]) -> None:
    """Split the groups of a new optimizer by specialist; each group knows its own."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        for key in keys:
            parameters = [parameter for parameter in group["params"] if owner(names[parameter], keys) == key]
            if parameters:
                optimizer.param_groups.append({**group, "params": parameters, "specialist": key})


def own_schedules(
    scheduler: Any,
    schedule: Sequence[str],
    steps: Mapping[str, int],
    args: TrainingArguments,
    span: ScheduleSpan | None = None,
) -> None:
    """Let the learning rate of each specialist follow its own count of steps.

    Args:
        scheduler: Over groups that `split_groups` made; changed in place.
        schedule: Specialist of each step.
        steps: Steps of each specialist.
        args: What the schedule is made from.
        span: Stretch of a schedule of several stages, through which each specialist goes.

    Raises:
        ConfigError: If the schedule is not a function of the step.
    """
    factors = {
        key: _own_factor(
            rate_factor(args, steps[key], span=span, asked_by="start.specialists"), [each == key for each in schedule]
        )
        for key in steps
    }
    set_factors(scheduler, [factors[group["specialist"]] for group in scheduler.optimizer.param_groups])


def _own_factor(factor: Callable[[int], float], is_own: Sequence[bool]) -> Callable[[int], float]:
    """Return the factor of a specialist's learning rate at each step of all."""
    done = [0, *accumulate(is_own)]
    return lambda step: factor(done[min(step, len(is_own))])


def export_specialists(
    model: UniMoEForConditionalGeneration, base: UniMoEForConditionalGeneration, keys: Sequence[str]
) -> Iterator[tuple[str, UniMoEForConditionalGeneration]]:
    """Make a dense model of each specialist: the base with its feed-forwards, connector and encoder.

    Args:
        model: What was trained, LoRA merged.
        base: What it started from; it is changed: use each result before the next one is asked for.
        keys: The specialists.
    """
    trained, weights = model.state_dict(), base.state_dict()
    initial = {name: value.clone() for name, value in weights.items() if _is_own(name)}
    for key in keys:
        with torch.no_grad():
            for name, value in initial.items():
                weights[name].copy_(trained.get(_name_in_run(name, key), value))
        yield key, base


def _is_own(name: str) -> bool:
    """Whether a weight of a dense model is of a part that specialists have of their own."""
    return name.startswith(("model.encoders.", "model.connectors.", "model.language_model.layers."))


def _name_in_run(name: str, key: str) -> str:
    """Return the name in a run of several specialists of a weight that one of them has of its own; of others, none."""
    if name.startswith((f"model.encoders.{key}.", f"model.connectors.{key}.")):
        return name
    layer, feed_forward, rest = name.partition(".mlp.")
    is_feed_forward = layer.startswith("model.language_model.layers.") and feed_forward
    return f"{layer}.mlp.specialists.{key}.{rest}" if is_feed_forward else ""


class SpecialistTrainer(StageTrainer):
    """Trainer of several specialists in one run: each step trains one of them.

    Args:
        modalities: Specialists, and their shares of the steps.
    """

    def __init__(self, *args: Any, modalities: Mapping[str, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keys = list(modalities)
        try:
            self.steps = apportion(self.args.max_steps, modalities)
        except ValueError as error:
            raise ConfigError(f"start.specialists: {error}") from error
        self.step_schedule = step_schedule(self.steps)

    def make_batches(self) -> tuple[ModalityStreams, ScheduledBatches]:
        """Batches of one modality each, by the schedule."""
        assert isinstance(self.train_dataset, MixtureDataset) and self.schedule is not None
        streams = split_by_modality(self.train_dataset, self.keys)
        batches = {key: self._stream_batches(stream, self.schedule) for key, stream in streams.items()}
        accumulation = self.args.gradient_accumulation_steps
        return ModalityStreams(streams), ScheduledBatches(batches, self.step_schedule, accumulation=accumulation)

    def _stream_batches(self, stream: MixtureDataset, schedule: BatchSchedule) -> MixtureBatches:
        lengths = RowLengths(stream, schedule.lengths.counter.processor) if schedule.lengths else None
        own = BatchSchedule(schedule.config, lengths, report=schedule.report)
        args = self.args
        return MixtureBatches(
            stream, own, batch_size=self._train_batch_size, process=args.process_index, processes=args.world_size
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As in Trainer, with groups by specialist."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            split_groups(optimizer, model or self.accelerator.unwrap_model(self.model), self.keys)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As in Trainer, with a schedule for each specialist."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            span = self.groups.config.schedule if self.groups else None
            own_schedules(scheduler, self.step_schedule, self.steps, self.args, span)
        return scheduler

    def choose_specialist(self, key: str | None) -> None:
        """Let the specialist of a validation batch compute."""
        assert key is not None
        choose_specialist(self.accelerator.unwrap_model(self.model), key)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in Trainer, for the specialist that is scheduled; the others rest."""
        model, key = self.accelerator.unwrap_model(self.model), self.step_schedule[self.state.global_step]
        choose_specialist(model, key)
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            rest_others(model, key, self.keys)
        return loss


__all__ = ["SpecialistTrainer", "Specialists", "choose_specialist", "export_specialists", "split_feed_forwards"]
