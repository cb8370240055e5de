"""What a stage may say about its training: which parts train, whole or by LoRA, and by which losses."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from unimoe.settings import Section

NonNegative = Annotated[float, Field(ge=0)]


class LoraTraining(Section):
    """Train low-rank deltas of some parts (Hu et al. 2021, arXiv 2106.09685); they are merged when the stage ends.

    Args:
        parts: Parts whose linear layers and stacked experts get a delta; each expert gets its own.
        r: Rank.
        alpha: The delta is scaled by alpha / r.
    """

    parts: list[str] = Field(min_length=1)
    r: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)


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


class HealthConfig(Section):
    """What is warned of while training, or stops it; 0 turns a check off.

    Args:
        dead_expert_steps: Steps without a token after which an expert of a layer is called dead.
        no_gradient_steps: Steps without a gradient after which a part that should train is said not to; if that is so
            of all parts, the training stops.
    """

    dead_expert_steps: int = Field(default=100, ge=0)
    no_gradient_steps: int = Field(default=100, ge=0)


class TrainConfig(Section):
    """Which parts of the model train, and by which losses beside that of the language. All other parts are frozen.

    Args:
        parts: Parts that train whole.
        lora: Parts that train by low-rank deltas.
        losses: Losses and their coefficients.
        health: What is watched.
    """

    parts: list[str] = []
    lora: LoraTraining | None = None
    losses: LossConfig = LossConfig()
    health: HealthConfig = HealthConfig()

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.parts and self.lora is None:
            raise PydanticCustomError("refused", "nothing would train. Name parts, or give `lora`.")
        if both := sorted(set(self.parts) & set(self.lora.parts if self.lora else [])):
            raise PydanticCustomError("refused", f"{', '.join(both)}: train a part either whole or by lora, not both.")
        return self


__all__ = ["Annealed", "HealthConfig", "LoraTraining", "LossConfig", "TrainConfig"]
