"""What a stage may say about its training: which parts train, whole or by LoRA, and by which losses."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from unimoe.files.settings import Section

NonNegative = Annotated[float, Field(ge=0)]
_LAYER = re.compile(r"[0-9]{1,5}")


class LoraTraining(Section):
    """Train low-rank deltas of some parts (Hu et al. 2021, arXiv 2106.09685).

    Args:
        parts: Parts whose linear layers and stacked experts get a delta; each expert gets its own.
        r: Rank.
        alpha: The delta is scaled by alpha / r.
        use_rslora: Scale by alpha / sqrt(r) instead (Kalajdzievski 2023, arXiv 2312.03732).
        dropout: Share dropped of what goes into a delta. 0 where experts have one: stacked weights take none.
        merge: Add the deltas to the weights when the stage ends. Otherwise the output is the model without them, and
            `adapter/` in peft's format beside it; a stage that starts from there puts both together.
        adapter: Folder of an adapter to go on with, whose model is the start; made with the same parts and sizes.
    """

    parts: list[str] = Field(min_length=1)
    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    use_rslora: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    merge: bool = True
    adapter: str | None = None

    @model_validator(mode="after")
    def _check_dropout(self) -> Self:
        if self.dropout and "experts" in self.parts:
            raise PydanticCustomError(
                "refused",
                f"dropout is {self.dropout}, but peft cannot put dropout between stacked experts and their deltas. "
                "Set it to 0, or train the experts by LoRA in another stage.",
            )
        return self


class Annealed(Section):
    """A coefficient that moves linearly from `start` to `end` within `steps` optimiser steps, and stays there."""

    start: NonNegative
    end: NonNegative
    steps: Annotated[int, Field(ge=1)]


Coefficient = NonNegative | Annealed


class LossConfig(Section):
    """Losses of a stage: coefficients of the router losses, for this stage and those after it; see `MoEConfig`.

    None leaves a coefficient as the model says.

    Args:
        language: What the language loss is a mean over: `labels`, the tokens that have one; `tokens`, all real ones
            (token-balanced: in full batches a text token weighs the same however many tokens are images); or
            `modalities`, the modalities of a step, each with the mean over the labels of its rows, so that long
            answers to sounds do not outweigh short ones to pictures. (Rows with two modalities are a group of their
            own, as are rows with text alone.)
    """

    language: Literal["labels", "tokens", "modalities"] = "labels"
    balance: Coefficient | None = None
    z: Coefficient | None = None
    importance: Coefficient | None = None
    load: Coefficient | None = None
    entropy: Coefficient | None = None
    entropy_global: Coefficient | None = None
    orthogonality: Coefficient | None = None
    gram: Coefficient | None = None
    score_variance: Coefficient | None = None
    expert_overlap: Coefficient | None = None


class WarmUp(Section):
    """Parts that move alone in the first steps, such as a new router between trained experts; the others wait.

    Parts that wait have a learning rate of 0: no weight decay moves them, and the optimizer gathers what it knows of
    their gradients, which count in the clipped norm as well.

    Args:
        parts: Parts that train from the first step.
        steps: Optimiser steps until the others join.
    """

    parts: list[str] = Field(min_length=1)
    steps: Annotated[int, Field(ge=1)]


class ScheduleSpan(Section):
    """The stretch of one learning-rate schedule that a stage goes through, when stages share a schedule.

    Args:
        begin: Where the stage begins, as a share of the whole schedule, 0 to 1. A warm-up counts from 0; a stage that
            begins later warms up again over as large a share of its own steps, as its optimizer is new.
        end: Where it ends; 1 is the end of the schedule.
    """

    begin: Annotated[float, Field(ge=0, lt=1)]
    end: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.begin >= self.end:
            raise PydanticCustomError("refused", f"begin is {self.begin}, end {self.end}: begin must come first.")
        return self


class HealthConfig(Section):
    """What is warned of while training, or stops it; 0 turns a check off.

    Args:
        dead_expert_steps: Steps without a token after which an expert of a layer is called dead.
        no_gradient_steps: Steps without a gradient after which a part that should train is said not to; if that is so
            of all parts, the training stops.
    """

    dead_expert_steps: int = Field(default=100, ge=0)
    no_gradient_steps: int = Field(default=100, ge=0)


class ValidationConfig(Section):
    """How the validation rows are looked at while training.

    Args:
        share: Most of the training's work that it takes: how often and how many rows are looked at follows from it
            and from the rows, steps and tokens of the stage. Where the stage says how often (`trainer.eval_steps`,
            `eval_strategy: epoch`, `load_best_model_at_end`), all rows are looked at each time.
        answers: Rows of each file to which answers are generated each time, at most. 0: none.
        shuffled_media: Measure the loss with shuffled media too.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.05
    answers: int = Field(default=16, ge=0)
    shuffled_media: bool = True


class TrainConfig(Section):
    """Which parts of the model train, and by which losses beside that of the language. All other parts are frozen.

    Args:
        parts: Parts that train whole.
        lora: Parts that train by low-rank deltas.
        layers: Decoder layers (0-based) whose parts train, as numbers and ranges such as `8-15`. None: all.
        learning_rates: Part -> its own learning rate; those without have `trainer.learning_rate`. Of two named parts
            the smaller one decides, such as `connectors.image` within `connectors`.
        warm_up: Parts that move alone at first.
        schedule: Stretch of a learning-rate schedule of several stages. None: the stage has a schedule of its own. A
            recipe's `schedule` sets it for the stages that it names.
        losses: Losses and their coefficients.
        health: What is watched.
        validation: How validation rows are looked at.
    """

    parts: list[str] = []
    lora: LoraTraining | None = None
    layers: list[int] | None = None
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    warm_up: WarmUp | None = None
    schedule: ScheduleSpan | None = None
    losses: LossConfig = LossConfig()
    health: HealthConfig = HealthConfig()
    validation: ValidationConfig = ValidationConfig()

    @field_validator("layers", mode="before")
    @classmethod
    def _read_ranges(cls, values: Any) -> Any:
        return (
            sorted({layer for value in values for layer in _read_range(value)}) if isinstance(values, list) else values
        )

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.parts and self.lora is None:
            raise PydanticCustomError("refused", "nothing would train. Name parts, or give `lora`.")
        if both := sorted(set(self.parts) & set(self.lora.parts if self.lora else [])):
            raise PydanticCustomError("refused", f"{', '.join(both)}: train a part either whole or by lora, not both.")
        return self


def _read_range(value: Any) -> list[Any]:
    """Return the numbers of a range such as `8-15`, or the one value."""
    if not isinstance(value, str):
        return [value]
    first, dash, last = value.partition("-")
    ends = [first, last or first]
    if not all(_LAYER.fullmatch(end) for end in ends) or (dash and not last) or int(ends[1]) < int(ends[0]):
        raise PydanticCustomError(
            "refused", f"layers: {value[:80]!r} is no layer below 100,000, or range of layers such as 8-15."
        )
    return list(range(int(first), int(last or first) + 1))


__all__ = [
    "Annealed",
    "HealthConfig",
    "LoraTraining",
    "LossConfig",
    "ScheduleSpan",
    "TrainConfig",
    "ValidationConfig",
    "WarmUp",
]
