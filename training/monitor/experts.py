"""Experts without tokens, named while a stage trains."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from unimoe import Modality, UniMoETextConfig
from unimoe.errors import ConfigError

from .metrics_file import read_metrics

Warn = Callable[[str], None]


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
        open_experts = set(self.text.open_experts)
        dead = {(layer, expert) for layer, expert in silent if expert in open_experts}
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
    """Return the three most used experts of a modality in a layer and their shares."""
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


__all__ = ["DeadExperts", "WatchExperts"]
