"""How much memory a step of a stage takes, without taking it: the real model class, with tensors that do not exist.

One step (forward, loss, backward, clipping, optimizer) runs under torch's `FakeTensorMode`, where tensors have shapes
and no storage, while `MemoryTracker` counts them. What ZeRO and data parallelism add or shard is arithmetic.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils.operations import convert_to_fp32
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils._pytree import tree_map_only
from transformers import Trainer, TrainingArguments

from unimoe import Modality, UniMoEConfig, UniMoEForConditionalGeneration
from unimoe.errors import ConfigError
from unimoe.moe import weighted_router_loss

from ..config.stage import StageConfig
from ..config.train import TrainConfig
from ..config.training_arguments import arguments_for_estimate
from ..data.batching.collator import IGNORED
from ..encoder_cache.settings import choose_modalities, replaced_encoders
from ..monitor.sizes import GB, MB
from ..trainable.parts import Trainable, choose_trainable, keep_frozen_steady
from ..trainer.losses import set_coefficients
from ..trainer.specialists import split_feed_forwards
from .memory_tracker import MemoryTracker

WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer"
"""Kinds of memory beside activations."""


@dataclass(frozen=True)
class StepMemory:
    """What one process that trains alone needs for a step: kind of memory -> bytes, at some moments.

    Args:
        backward: When most is in use in forward and backward passes.
        update: When most is in use while gradients are clipped and the optimizer steps.
        flops: Floating-point operations of one step of the optimizer, over all accumulated batches.
        validation: When most is in use while validation rows are looked at.
    """

    backward: dict[str, int]
    update: dict[str, int]
    flops: int
    validation: dict[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, int]:
        """What is in use at the worst moment."""
        return max(self.backward, self.update, self.validation, key=lambda parts: sum(parts.values()))

    @property
    def total(self) -> int:
        """Most bytes in use at once."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """All of it and its parts, in GB or MB."""
        unit, bytes_ = ("GB", GB) if self.total >= GB else ("MB", MB)
        parts = ", ".join(f"{kind} {size / bytes_:.2f}" for kind, size in self.parts.items())
        return f"{self.total / bytes_:.2f} {unit}: {parts}"


def estimate(
    config: StageConfig,
    model_config: UniMoEConfig,
    batch: Mapping[str, Any],
    *,
    validation: Mapping[str, Any] | None = None,
    args: TrainingArguments | None = None,
) -> StepMemory:
    """Find what a step takes in one process that trains alone; see `training.planning.memory_parallel` for several.

    Args:
        config: The stage.
        model_config: Of the model that it starts from.
        batch: One batch as the collator makes it; its values do not matter, but for the attention mask.
        validation: A batch of validation rows, if there are any.
        args: Of the trainer, once there is one, for to make others would reset accelerate's state. None: made.

    Raises:
        ConfigError: If the model has no part of a name that trains, or cannot be tried out without values.
    """
    args = args or arguments_for_estimate(config)
    model, _ = meta_model(config, model_config)
    cached = cached_modalities(config, model)
    tensors, others = (
        with_cached_states(tensors_of(given), cached, model_config) for given in (batch, validation or {})
    )
    for key in replaced_encoders(cached, model):
        del model.model.encoders[key]
    learned = int((others["labels"][:, 1:] != IGNORED).any(dim=0).sum()) if others else 0
    try:
        with fake_world() as (mode, tracker):
            make_fake(model)
            step = Step(config, args, model, tracker, to_fake(tensors, mode))
            found = step.run()
            return replace(found, validation=step.validate(to_fake(others, mode), learned)) if others else found
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ConfigError(
            f"The memory of a step cannot be told: the model looks at values of tensors, of which a plan has none "
            f"({error})."
        ) from error


def cached_modalities(config: StageConfig, model: UniMoEForConditionalGeneration) -> list[Modality]:
    """Modalities whose encoders run once, before the first step; none, if `data.cache_encoders` does not ask for it.

    Raises:
        ConfigError: If an encoder trains whose tokens shall be cached.
    """
    asked = config.data.cache_encoders
    return choose_modalities(asked.modalities, model) if asked else []


def with_cached_states(
    tensors: dict[str, Any], cached: Sequence[Modality], model_config: UniMoEConfig
) -> dict[str, Any]:
    """Return a batch with its encoders' tokens, empty, in the place of the features of some modalities."""
    states = dict(tensors.get("encoder_states", {}))
    raw = {name: value for name, value in tensors.items() if name != "encoder_states"}
    for modality in cached:
        if (features := raw.pop(modality.feature_name or "", None)) is not None:
            encoder = model_config.encoder_config(modality.encoder_key)
            states[modality.key] = torch.empty(len(features), encoder.num_tokens, encoder.hidden_size)
    return raw | {"encoder_states": states} if states else raw


def to_fake(tensors: Any, mode: FakeTensorMode) -> Any:
    """Tensors of the same shapes that do not exist."""
    return tree_map_only(Tensor, mode.from_tensor, tensors)


def meta_model(config: StageConfig, model_config: UniMoEConfig) -> tuple[UniMoEForConditionalGeneration, Trainable]:
    """Make the model of a stage, ready to train, without memory for its weights; and what trains in it.

    Raises:
        ConfigError: If the model has no part of a name that trains.
    """
    with torch.device("meta"):
        model: Any = UniMoEForConditionalGeneration._from_config(model_config, dtype=torch.float32)
        if config.start.specialists is not None:
            split_feed_forwards(model, list(config.start.specialists.modalities))
        set_coefficients(model.config.text_config, config.train.losses, step=0)
        trainable = choose_trainable(model, without_adapter(config.train))
    if config.trainer.get("activation_checkpointing"):
        model.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    model.train()
    keep_frozen_steady(model)
    return model, trainable


def without_adapter(train: TrainConfig) -> TrainConfig:
    """Say what trains, with new deltas in the place of saved ones: of the same sizes, and no file is read."""
    if train.lora is None:
        return train
    return train.model_copy(update={"lora": train.lora.model_copy(update={"adapter": None})})


def make_fake(model: nn.Module) -> None:
    """Give a model of the meta device tensors of the present `FakeTensorMode`, as if they were on a CPU; in place."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # old ones are kept, so that no other gets their id

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = (tensor, nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty)
        return made[id(tensor)][1]

    for module in model.modules():
        own = {
            **vars(module),
            **dict(module.named_parameters(recurse=False)),
            **dict(module.named_buffers(recurse=False)),
        }
        for name, value in own.items():
            if isinstance(value, Tensor):
                setattr(module, name, fake(value))


@contextmanager
def fake_world() -> Iterator[tuple[FakeTensorMode, MemoryTracker]]:
    """Make all tensors fake, and count them. transformers' checks of their values are off."""
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with FakeTensorMode() as mode, MemoryTracker() as tracker:
            yield mode, tracker
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def tensors_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Say what of a batch reaches the model; without a mask where nothing is masked, for then attention makes none."""
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor) or name == "encoder_states"}
    if "attention_mask" in tensors and tensors["attention_mask"].all():
        del tensors["attention_mask"]
    return tensors


class Step:
    """A step of the optimizer as the trainer runs it; of the model's weights, and of the batch, nothing is read.

    Args:
        config: The stage.
        args: Of its trainer.
        model: Ready to train.
        tracker: The mode in which it runs.
        batch: What of a batch reaches the model.
    """

    def __init__(
        self,
        config: StageConfig,
        args: TrainingArguments,
        model: UniMoEForConditionalGeneration,
        tracker: MemoryTracker,
        batch: dict[str, Any],
    ) -> None:
        self.config, self.args, self.model, self.tracker, self.batch = config, args, model, tracker, batch
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for tensor in [*model.parameters(), *model.buffers()]:
            tracker.hold(tensor, WEIGHTS)
        for parameter in self.trained:
            parameter.register_post_accumulate_grad_hook(self._name_gradient)

    def run(self) -> StepMemory:
        """Run it, with the optimizer that the trainer would make, and say what it took."""
        kind, options = Trainer.get_optimizer_cls_and_kwargs(self.args, self.model)
        optimizer = kind(self.trained, **options)
        self.fill_states(optimizer)
        self.tracker.begin()
        accumulated = self.args.gradient_accumulation_steps
        for _ in range(min(accumulated, 2)):  # from the second batch on, gradients are there already
            self.backward()
        backward, flops = self.tracker.at_peak, self.tracker.flops
        self.tracker.begin()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        optimizer.step()
        return StepMemory(backward, self.tracker.at_peak, flops * accumulated // min(accumulated, 2))

    def fill_states(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer make its states, as it does in its first step."""
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self.tracker.hold(value, OPTIMIZER)

    def backward(self) -> None:
        """Run the model on one batch, and add its gradients up."""
        self.loss().backward()

    def loss(self) -> Tensor:
        """Return the loss of one batch; when it is returned, logits live on only where a gradient needs them."""
        with self._autocast():
            outputs: Any = self.model(
                **self.batch, num_items_in_batch=torch.ones(()), output_router_logits=True, use_cache=False
            )
        if self.config.trainer.get("bf16") and self.config.parallel.zero is None:
            outputs = convert_to_fp32(outputs)  # as accelerate does around the whole model
        losses = outputs.losses
        return losses["language"] + weighted_router_loss(self.model.config.text_config, losses)

    @torch.no_grad()
    def validate(self, batch: dict[str, Any], learned: int) -> dict[str, int]:
        """Look at validation rows, as `training.trainer.validation.row_losses` does; what is in use at most, by kind.

        Args:
            batch: What of them reaches the model.
            learned: Positions where a row has a label.
        """
        for parameter in self.trained:
            parameter.grad = None
        self.tracker.begin()
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        self.model.eval()
        with self._autocast():
            logits = self.model(**inputs, logits_to_keep=torch.arange(learned), use_cache=False).logits
        labels = batch["labels"][:, :learned]
        F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return self.tracker.at_peak

    def _autocast(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if self.config.trainer.get("bf16") else nullcontext()

    def _name_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.tracker.hold(parameter.grad, GRADIENTS)


__all__ = ["StepMemory", "estimate"]
