"""Parts that should train and get no gradient, named before the first step and while a stage trains."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe import MEDIA
from unimoe.errors import ConfigError

from ..trainable.parts import Trainable

Warn = Callable[[str], None]


class WatchGradients(TrainerCallback):
    """Names parts that should train and have no gradient: after the first step, and again if it stays so.

    Args:
        trainable: What trains.
        steps: Steps after which a part is said not to train.
        gather: Puts the tensors of all processes one after the other.
        warn: Says a sentence.
        first: Step after which parts are named for the first time: that in which each had its turn.
    """

    def __init__(
        self,
        trainable: Trainable,
        *,
        steps: int,
        gather: Callable[[Tensor], Tensor],
        warn: Warn,
        first: int = 1,
    ) -> None:
        self.steps, self.gather, self.warn, self.first = steps, gather, warn, first
        self.parts = smallest_parts(trainable)
        self.silent = sorted(self.parts)
        self._done = 0
        self._seen: dict[str, Tensor] = {}
        self._hooks: dict[str, list[Any]] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at every gradient until its part has had one."""
        for part, parameters in self.parts.items():
            self._seen[part] = torch.zeros((), dtype=torch.bool, device=args.device)
            self._hooks[part] = [parameter.register_hook(self._note(part)) for parameter in parameters]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take note of the step.

        Raises:
            ConfigError: If no part has had a gradient in so many steps.
        """
        if not self.silent:
            return
        self._done += 1
        flags = torch.stack([self._seen[part] for part in self.silent])
        seen = self.gather(flags[None]).any(dim=0).tolist()
        for part in [part for part, has_gradient in zip(self.silent, seen, strict=True) if has_gradient]:
            self.silent.remove(part)
            self._let_go(part)
        if self.silent and self._done == self.first:
            steps = "step" if self.first == 1 else f"{self.first} steps"
            self.warn(
                f"No gradient in the first {steps}: {self._name_silent()}. If that stays so it will be said again."
            )
        elif self._done == self.steps:
            self._conclude()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Conclude in a stage that was shorter.

        Raises:
            ConfigError: If no part has had a gradient.
        """
        if self.silent and 0 < self._done < self.steps:
            self._conclude()

    def _note(self, part: str) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            self._seen[part] |= (gradient != 0).any()

        return note

    def _let_go(self, part: str) -> None:
        for hook in self._hooks.pop(part, []):
            hook.remove()

    def _name_silent(self) -> str:
        return ", ".join(f"{part}{_origin(part)}" for part in self.silent)

    def _conclude(self) -> None:
        """Say which parts do not train, and stop looking; stop the training if it is all of them."""
        if not self.silent:
            return
        sentence = f"No gradient in {self._done} step(s): {self._name_silent()}. Nothing of it trains."
        if len(self.silent) == len(self.parts):
            raise ConfigError(f"{sentence} Give the mixture rows that need these parts, or name others in train.")
        self.warn(f"{sentence} Give the mixture rows that need it, or take it out of train.")
        for part in self.silent:
            self._let_go(part)
        self.silent = []


def smallest_parts(trainable: Trainable) -> dict[str, list[nn.Parameter]]:
    """Parameters that train by their part; of `connectors` and `connectors.image`, the latter has them."""
    names = [name for name in trainable.parts if not any(other.startswith(f"{name}.") for other in trainable.parts)]
    members = {name: [*trainable.parts[name], *trainable.deltas.get(name, [])] for name in names}
    for name, deltas in trainable.deltas.items():
        if name not in members:  # deltas of `connectors` are named by the part that was asked for
            members[name] = list(deltas)
    trained = {name: [each for each in parameters if each.requires_grad] for name, parameters in members.items()}
    return {name: parameters for name, parameters in trained.items() if parameters}


def modalities_of(part: str) -> list[str]:
    """Modalities whose media a part sees, if it is an encoder or connector; else none."""
    kind, _, key = part.partition(".")
    if kind not in ("encoders", "connectors"):
        return []
    return [each.key for each in MEDIA if not key or each.encoder_key == key]


def _origin(part: str) -> str:
    kinds = modalities_of(part)
    return f" (is there {' or '.join(kinds)} in the mixture?)" if kinds else ""


def check_trained_modalities(trainable: Trainable, kinds: Iterable[str], *, warn: Warn) -> None:
    """Look, before the first step, whether the mixture has what the trained encoders and connectors are for.

    Args:
        trainable: What trains.
        kinds: All modalities that the mixture has.
        warn: Says a sentence.

    Raises:
        ConfigError: If no part that trains would ever see a row.
    """
    present = set(kinds)
    parts = smallest_parts(trainable)
    unused = [part for part in sorted(parts) if modalities_of(part) and not present & set(modalities_of(part))]
    if not unused:
        return
    sentence = f"The mixture has no row for {', '.join(unused)}, only {', '.join(sorted(present)) or 'text'}"
    if len(unused) == len(parts):
        raise ConfigError(f"Nothing would train: {sentence[0].lower()}{sentence[1:]}. Name other parts, or add rows.")
    warn(f"{sentence}: {'these parts' if len(unused) > 1 else 'this part'} will not change.")


def check_learning_rate(trainable: Trainable, learning_rate: float) -> None:
    """Refuse a stage in which nothing can move, before its first step.

    Raises:
        ConfigError: If every parameter is frozen, or the learning rate is 0.
    """
    parts = smallest_parts(trainable)
    if not parts:
        raise ConfigError(f"Everything is frozen: {', '.join(sorted(trainable.parts))}. Name parts in train.parts.")
    if learning_rate == 0:
        raise ConfigError(
            f"trainer.learning_rate is 0, so that nothing would train of {', '.join(sorted(parts))}. Raise it."
        )


__all__ = [
    "WatchGradients",
    "check_learning_rate",
    "check_trained_modalities",
    "modalities_of",
    "smallest_parts",
]
