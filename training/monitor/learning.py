"""Whether a model learns more than which answers are frequent, said in a sentence as soon as it does not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Say = Callable[[str], None]
SAME_LOSS = 0.05
"""Share of the loss, or of the label prior's where that is less, by which the loss must grow when media are shuffled;
otherwise the model is said not to look at them."""
FEW_ANSWERS, MANY_ANSWERS = 2, 4
CURE = "Raise trainer.learning_rate, train more parts (the encoder of these media first), or give it more passes"
CURE_AT_END = (
    "If its loss was still falling, raise trainer.learning_rate or give it more passes; if it rose, give it fewer "
    "passes or more augmentation"
)
GUIDE = "docs/fine_tuning.md"


@dataclass(frozen=True)
class Signs:
    """What the validation rows of one data file, or of all, tell.

    Args:
        name: Of the file.
        loss: Nats per label.
        prior: Loss of the label prior. None: it is not defined.
        shuffled: Loss with shuffled media. None: there are none to shuffle.
        answers, labels: Distinct answers of the model and of the labels; None where none are generated.
    """

    name: str
    loss: float
    prior: float | None = None
    shuffled: float | None = None
    answers: int | None = None
    labels: int | None = None

    @classmethod
    def read(cls, logs: Mapping[str, Any], name: str, suffix: str) -> "Signs":
        """Find them in what a validation logged; `suffix` is `/FILE`, or empty for all files."""
        keys = {"prior": "loss_prior", "shuffled": "loss_shuffled"}
        keys |= {"answers": "distinct_answers", "labels": "distinct_labels"}
        found = {field: logs.get(f"eval_{key}{suffix}") for field, key in keys.items()}
        return cls(name, logs[f"eval_loss{suffix}"], **found)

    @property
    def looks(self) -> bool | None:
        """Whether the model looks at its media; None where there are none to shuffle."""
        if self.shuffled is None:
            return None
        least = SAME_LOSS * min(self.loss, self.loss if self.prior is None else self.prior)
        return self.shuffled - self.loss >= least

    @property
    def is_below(self) -> bool:
        """Whether the loss is below that of the label prior, or there is none."""
        return self.prior is None or self.loss < self.prior

    def troubles(self) -> dict[str, str]:
        """Say what shows that nothing but the prior is learned, by kind; empty if nothing does."""
        found = {}
        if not self.is_below and not self.looks:
            found["prior"] = (
                f"loss {self.loss:.3f} is not below that of the label prior, {self.prior:.3f}: it has learned no more "
                "than which answers are frequent"
            )
        if self.looks is False:
            same = "it is" if found else f"the loss of {self.loss:.3f} is"
            found["shuffled"] = f"with shuffled media {same} {self.shuffled:.3f}: it does not look at its media"
        if self.answers is not None and self.answers <= FEW_ANSWERS and (self.labels or 0) >= MANY_ANSWERS:
            found["answers"] = f"{self.answers} distinct answer(s), where the labels have {self.labels}"
        return found

    def final_troubles(self) -> dict[str, str]:
        """Say what shows at the end that the model is too sure of wrong answers."""
        if self.is_below or not self.looks:
            return {}
        return {
            "sure": f"loss {self.loss:.3f} is not below that of the label prior, {self.prior:.3f}, though it looks at "
            f"its media (shuffled: {self.shuffled:.3f}): it has only begun, or is too sure of wrong answers"
        }


def read_signs(logs: Mapping[str, Any], names: Sequence[str]) -> list[Signs]:
    """Read the signs of each data file from what a validation logged.

    Args:
        logs: They.
        names: Of the data files.
    """
    if len(names) == 1:
        return [Signs.read(logs, names[0], "")]
    return [Signs.read(logs, name, f"/{name}") for name in names if f"eval_loss/{name}" in logs]


class WatchLearning(TrainerCallback):
    """Names data files of which a model learns the label prior alone, at the first validation behind the first step
    and, if it stays so, at the last one; and says when a file is in order again.

    Without validation rows the loss of the last steps is compared with the prior of the rows that train.

    Args:
        names: Of the validation files; none without any.
        warn: Says a sentence that is kept.
        say: Says one that is not.
    """

    def __init__(self, names: Sequence[str], *, warn: Say, say: Say) -> None:
        self.names, self.warn, self.say = names, warn, say
        self.named: dict[str, set[str]] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at what was measured; before the first step nothing was learned yet."""
        if not state.is_world_process_zero or not metrics or not state.global_step:
            return
        is_last = state.global_step >= state.max_steps
        for signs in read_signs(metrics, self.names):
            found = signs.troubles()
            before = self.named.get(signs.name, set())
            if found and (is_last or found.keys() - before):
                self._name(signs.name, found, state, CURE)
            elif is_last and (final := signs.final_troubles()):
                self._name(signs.name, final, state, CURE_AT_END)
            elif before and not found:
                self.say(f"{signs.name}: in order again, {in_order(signs)}.")
            self.named[signs.name] = set(found)

    def _name(self, name: str, found: dict[str, str], state: TrainerState, cure: str) -> None:
        where = f"step {state.global_step} of {state.max_steps}"
        self.warn(f"{name}, {where}: {'; '.join(found.values())}. {cure}: {GUIDE}.")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the loss of the last steps with the prior, where there are no validation rows."""
        last = next((log for log in reversed(state.log_history) if "loss_language" in log), {})
        if self.names or "loss_prior" not in last or not state.is_world_process_zero:
            return
        signs = Signs("the rows that train", last["loss_language"], last["loss_prior"])
        if found := signs.troubles():
            self._name(signs.name, found, state, CURE)


def in_order(signs: Signs) -> str:
    """Say by which numbers a file shows that its media are learned."""
    parts = [f"loss {signs.loss:.3f}"]
    if signs.prior is not None:
        parts.append(f"{'' if signs.is_below else 'not '}below that of the label prior, {signs.prior:.3f}")
    if signs.shuffled is not None:
        parts.append(f"with shuffled media {signs.shuffled:.3f}")
    return ", ".join(parts)


__all__ = ["Signs", "WatchLearning", "read_signs"]
