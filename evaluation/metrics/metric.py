"""What a metric is: rows and predictions -> a ratio of sums for each named value, and which answers could be read.

Every value is sum of numerators / sum of denominators over rows, so that one clustered bootstrap serves all of them
(`evaluation.scores.intervals`), and so that a category's value is the same ratio over its rows.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import EvaluationError
from ..tasks import Sample
from .normalise import is_unparsed, normalise

Pairs = NDArray[np.float64]
"""Numerator and denominator of each row, (rows, 2)."""
Flags = NDArray[np.bool_]
"""One truth value for each row, (rows,)."""


@dataclass(frozen=True)
class Scores:
    """What a metric says of the predictions of a task.

    Args:
        values: Name -> pairs of the rows. The first is the main value.
        unparsed: Rows in whose prediction no answer could be read: counted as wrong, never guessed.
        notes: What a reader of the values should know of this run, such as a library that was not there.
    """

    values: dict[str, Pairs]
    unparsed: Flags
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> Pairs:
        """Pairs of the main value."""
        return next(iter(self.values.values()))


def lacks_nothing(sample: Sample) -> str | None:
    """Accept every row."""
    return None


def fit_together(samples: Sequence[Sample]) -> str | None:
    """Accept all rows, for metrics that take them one by one."""
    return None


def read_text(sample: Sample, text: str) -> str | None:
    """Read a free answer: the text after `normalise`; None if there is none."""
    return None if is_unparsed(text) else normalise(text)


@dataclass(frozen=True)
class Metric:
    """A metric and how it is read.

    Args:
        score: (rows, their predictions) -> scores.
        normaliser: What both sides went through before they were compared, in words.
        higher_is_better: False for error rates.
        lacks: What a row lacks for this metric, in words that follow "needs"; None if nothing.
        misfit: What is wrong with the rows taken together, beginning with a row's place; None if nothing.
        require: Raises EvaluationError if a library is missing, so that it shows before anything is generated.
        answer: (row, a prediction or the reference) -> what it says, so that equal answers can be counted; None if
            nothing could be read.
    """

    score: Callable[[Sequence[Sample], Sequence[str]], Scores]
    normaliser: str
    higher_is_better: bool = True
    lacks: Callable[[Sample], str | None] = lacks_nothing
    misfit: Callable[[Sequence[Sample]], str | None] = fit_together
    require: Callable[[], object] = object
    answer: Callable[[Sample, str], str | None] = read_text


def check_rows(name: str, metric: Metric, samples: Sequence[Sample]) -> None:
    """See to it that rows can be scored before anything is generated for them.

    Args:
        name: Of the metric.
        metric: The metric.
        samples: The rows.

    Raises:
        EvaluationError: Naming the first row that cannot, and what it lacks.
    """
    for sample in samples:
        if lacking := metric.lacks(sample):
            raise EvaluationError(f"{sample.where}: metric {name} needs {lacking}")
    if wrong := metric.misfit(samples):
        raise EvaluationError(wrong)


def lacks_answers(sample: Sample) -> str | None:
    """Require one answer that holds something, for metrics that take the best of several."""
    return None if any(answer.strip() for answer in sample.answers) else "'answers', a list of texts that are right"


def shares(hits: ArrayLike, of: ArrayLike | None = None) -> Pairs:
    """Make pairs of a share: hits over rows, or over the rows (or weights) that `of` names.

    Args:
        hits: Numerators, (rows,).
        of: Denominators, (rows,). None: every row counts 1.
    """
    numerator = np.asarray(hits, dtype=np.float64)
    denominator = np.ones_like(numerator) if of is None else np.asarray(of, dtype=np.float64)
    return np.stack([numerator, denominator], axis=-1)


def ratio(pairs: Pairs) -> float:
    """Divide the sum of numerators by that of denominators; NaN if nothing counts, such as precision without a yes."""
    numerator, denominator = pairs.sum(axis=0)
    return float(numerator / denominator) if denominator else float("nan")


def group_shares(samples: Sequence[Sample], hits: Flags) -> Pairs:
    """Make pairs of the share of groups all of whose rows are hits. A row without a group is one of its own.

    Each row of a group carries its part, 1 / rows of the group, so that categories of rows add up.
    """
    groups = [(sample.group, "" if sample.group else sample.id) for sample in samples]
    sizes = Counter(groups)
    missed = {group for group, hit in zip(groups, hits, strict=True) if not hit}
    parts = np.array([1 / sizes[group] for group in groups])
    return shares(parts * [group not in missed for group in groups], parts)


__all__ = [
    "Flags",
    "Metric",
    "Pairs",
    "Scores",
    "check_rows",
    "group_shares",
    "lacks_answers",
    "ratio",
    "read_text",
    "shares",
]
