"""What a training took: rows, tokens, time, and floating-point operations of the parameters that a token passes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from training.config.recipe import Recipe
from training.monitor.metrics_file import METRICS_FILE, read_metrics
from unimoe import UniMoEConfig, UniMoEForConditionalGeneration

from ..ablations import needed_stages
from .start import measure_sizes

_FLOPS = 6
"""Of a parameter and token: a multiplication and an addition forwards, twice as many backwards (arXiv 2001.08361)."""


class Cost(NamedTuple):
    """What a system's trainings took together.

    Args:
        rows: Shown, repetitions counted.
        tokens: Of these, without padding.
        seconds: Of the steps; validation, checkpoints and starts are left out.
        flops: Of the parameters that a token passes, without the frozen towers, which run once for each medium.
    """

    rows: float
    tokens: float
    seconds: float
    flops: float


def read_cost(recipe: Recipe, stage: str) -> Cost:
    """Add up what a stage took, and those that it starts from."""
    chain = [*needed_stages(recipe, stage), stage]
    return add([_read_one(Path(recipe.stages[name].output)) for name in chain])


def _read_one(folder: Path) -> Cost:
    logs = read_metrics(folder / METRICS_FILE)
    steps = [log for log in logs if "tokens" in log]
    tokens = sum(log["tokens"] for log in steps)
    seconds = sum(log["tokens"] / log["tokens_per_second"] for log in steps)
    return Cost(max(log.get("rows", 0) for log in logs), tokens, seconds, _FLOPS * active_parameters(folder) * tokens)


def active_parameters(folder: Path) -> int:
    """Parameters that a token passes, without the towers."""
    with torch.device("meta"):
        return measure_sizes(UniMoEForConditionalGeneration(UniMoEConfig.from_pretrained(folder))).active


def add(costs: Sequence[Cost]) -> Cost:
    """Add costs up."""
    return Cost(*map(sum, zip(*costs, strict=True)))


def mean(costs: Sequence[Cost]) -> Cost:
    """Mean over seeds."""
    return Cost(*(total / len(costs) for total in add(costs)))
