"""What goes wrong in silence, said by name: experts without tokens, parts without gradients, values that are NaN."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe import MEDIA, Modality, UniMoETextConfig
from unimoe.errors import ConfigError

from ..trainable.parts import Trainable
from .metrics_file import read_metrics

Warn = Callable[[str], None]


class NonFiniteLoss(RuntimeError):
    """The loss or a gradient became NaN or infinite; the message names the rows of the batch."""


class DeadExperts:
    """Finds experts that no token chose in the last steps.

    Args:
        text: Configuration of the language model.
        steps: Steps that an expert may be without tokens.
    """

    def __init__(self, text: UniMoETextConfig, *, steps: int) -> None:
        self.text, self.steps = text, steps
        self.layers = [layer for layer in range(text.num_hidden_layers) if text.is_sparse(layer)]
        self.known: set[tuple[int, int]] = set()
        self._window: deque[tuple[int, Tensor]] = deque()

    def add(self, load: dict[str, list[list[int]]], *, steps: int) -> list[str]:
        """Add the assignments of some steps, as `training.monitor.metrics.layer_load` returns them.

        Returns:
            What is to be said of experts that have newly become dead; those that come back are forgotten.
        """
        self._window.append((steps, self._counts(load)))
        while self._covered() - self._window[0][0] >= self.steps:
            self._window.popleft()
        return self.find() if self._covered() >= self.steps else []

    def find(self) -> list[str]:
        """Say which experts had no token in the steps that are remembered and have not been named before."""
        if not self._window:
            return []
        counts = torch.stack([counts for _, counts in self._window]).sum(dim=0)  # (L, M, E)
        silent = (counts.sum(dim=1)[:, : self.text.num_experts] == 0).nonzero().tolist()
        dead = {(layer, expert) for layer, expert in silent}
        new, self.known = sorted(dead - self.known), dead
        return [self._describe(layer, expert, counts[layer]) for layer, expert in new]

    def named(self) -> dict[str, list[int]]:
        """Dead experts by the number of their decoder layer."""
        found: dict[str, list[int]] = {}
        for layer, expert in sorted(self.known):
            found.setdefault(str(self.layers[layer]), []).append(expert)
        return found

    def _covered(self) -> int:
        return sum(steps for steps, _ in self._window)

    def _counts(self, load: dict[str, list[list[int]]]) -> Tensor:
        counts = torch.zeros(len(self.layers), len(Modality), self.text.num_router_targets, dtype=torch.long)
        for modality in Modality:
            if modality.key in load:
                counts[:, modality] = torch.tensor(load[modality.key])
        return counts

    def _describe(self, layer: int, expert: int, counts: Tensor) -> str:
        """One sentence about an expert, with where the tokens of a layer, (M, E), went instead."""
        name = f"Layer {self.layers[layer]}, expert {expert}"
        steps = f"in the last {self._covered()} steps"
        reach = [modality for modality in Modality if expert in self.text.permitted_experts(modality)]
        came = [modality for modality in reach if counts[modality].sum() > 0]
        if not came:
            kinds = ", ".join(modality.key for modality in reach)
            return f"{name}: no token that may reach it came {steps} (it is open to {kinds} only)."
        shares = "; ".join(f"{modality.key}: {_shares(counts[modality])}" for modality in came)
        return (
            f"{name} is dead: no token of any modality chose it {steps} ({shares}). Raise train.losses.balance, lower "
            "the learning rate of the router, or take the expert out."
        )


def _shares(counts: Tensor) -> str:
    """The three most used experts of a modality in a layer and their shares."""
    shares = counts / counts.sum()
    return ", ".join(f"expert {expert} {shares[expert]:.0%}" for expert in shares.topk(min(3, len(shares))).indices)


class WatchExperts(TrainerCallback):
    """Warns of dead experts at each log; at the end also if the stage was shorter than the steps that are waited.

    Args:
        experts: Finds them.
        details: What the last log measured beside its numbers; names of dead experts are added to it.
        metrics: The file of the logs, from which a training that goes on learns what was before.
        warn: Says a sentence.
    """

    def __init__(
        self, experts: DeadExperts, *, details: Callable[[], dict[str, Any]], metrics: Path, warn: Warn
    ) -> None:
        self.experts, self.details, self.metrics, self.warn = experts, details, metrics, warn
        self._last = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read what was measured before the step that the training begins at.

        Raises:
            ConfigError: If it is damaged.
        """
        for line in read_metrics(self.metrics) if state.global_step else []:
            if "load" in line and self._last < line["step"] <= state.global_step:
                try:
                    self._add(line["load"], line["step"])
                except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError):
                    problem = f"is damaged: the load of step {line['step']} is none of this model."
                    raise ConfigError(str(self.metrics), problem, "Take its line out of the file.") from None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Look at the load of the steps since the last log."""
        details = self.details()
        if state.is_world_process_zero and "load" in details:
            for sentence in self._add(details["load"], state.global_step):
                self.warn(sentence)
            if self.experts.known:
                details["dead_experts"] = self.experts.named()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look at a short stage as a whole."""
        if state.is_world_process_zero:
            for sentence in self.experts.find():
                self.warn(sentence)

    def _add(self, load: dict[str, list[list[int]]], step: int) -> list[str]:
        steps, self._last = step - self._last, step
        return self.experts.add(load, steps=steps)


class WatchGradients(TrainerCallback):
    """Names parts that should train and have no gradient: after the first step, and again if it stays so.

    Args:
        trainable: What trains.
        steps: Steps after which a part is said not to train.
        gather: Puts the tensors of all processes one after the other.
        warn: Says a sentence.
    """

    def __init__(self, trainable: Trainable, *, steps: int, gather: Callable[[Tensor], Tensor], warn: Warn) -> None:
        self.steps, self.gather, self.warn = steps, gather, warn
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
        if self.silent and self._done == 1:
            self.warn(f"No gradient in the first step: {self._name_silent()}. If that stays so it will be said again.")
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


class WatchLoss(TrainerCallback):
    """Warns once of a language loss of exactly 0, from which nothing is learned.

    Args:
        warn: Says a sentence.
    """

    def __init__(self, warn: Warn) -> None:
        self.warn, self.is_said = warn, False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the loss of the steps since the last log."""
        if state.is_world_process_zero and not self.is_said and (logs or {}).get("loss_language") == 0.0:
            self.is_said = True
            self.warn(
                f"The language loss is exactly 0 at step {state.global_step}: nothing is learned any more. Look at "
                "the labels (the sample before step 1 shows them), and at the learning rate."
            )


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
    room, _, key = part.partition(".")
    if room not in ("encoders", "connectors"):
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
    idle = [part for part in sorted(parts) if modalities_of(part) and not present & set(modalities_of(part))]
    if not idle:
        return
    sentence = f"The mixture has no row for {', '.join(idle)}, only {', '.join(sorted(present)) or 'text'}"
    if len(idle) == len(parts):
        raise ConfigError(f"Nothing would train: {sentence[0].lower()}{sentence[1:]}. Name other parts, or add rows.")
    warn(f"{sentence}: {'these parts' if len(idle) > 1 else 'this part'} will not change.")


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


def find_bad_rows(logits: Tensor, inputs: dict[str, Any], row_ids: Sequence[str]) -> list[str]:
    """Which rows of a batch have labels whose prediction is not finite.

    Args:
        logits: (B, S, V).
        inputs: Of the model, with `labels`.
        row_ids: Of the batch.

    Returns:
        Their ids; none where rows are packed: masked attention multiplies by 0, and 0 times NaN is NaN in all of them.
    """
    if len(logits) != len(row_ids):
        return []
    bad = ~torch.isfinite(logits[:, :-1]).all(dim=-1) & (inputs["labels"][:, 1:] >= 0)  # (B, S - 1)
    return [row_ids[number] for number in bad.any(dim=-1).nonzero().flatten().tolist()]


def find_bad_inputs(inputs: dict[str, Any]) -> list[str]:
    """Names of the inputs, and of what encoders gave, that hold values which are not finite."""
    given = {
        **inputs,
        **{f"encoder_states[{key!r}]": value for key, value in inputs.get("encoder_states", {}).items()},
    }
    floats = {name: value for name, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return [name for name, value in floats.items() if not torch.isfinite(value).all()]


def find_bad_gradients(model: nn.Module) -> list[str]:
    """Names of the parameters whose gradients are not finite."""
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    if not gradients or torch.nn.utils.get_total_norm(gradients.values()).isfinite():
        return []
    return [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]


__all__ = [
    "DeadExperts",
    "NonFiniteLoss",
    "WatchExperts",
    "WatchGradients",
    "WatchLoss",
    "check_learning_rate",
    "check_trained_modalities",
    "find_bad_gradients",
    "find_bad_inputs",
    "find_bad_rows",
    "modalities_of",
    "smallest_parts",
]
