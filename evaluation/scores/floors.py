"""Floors: what is reached without looking or listening, by code, from the training split."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from ..metrics import Metric
from ..tasks import Average, Sample
from .estimates import OVER_ROWS, value_of, whole


def most_frequent(answers: Counter[str]) -> str:
    """Find the most frequent answer; of equally frequent ones that which the training file has first."""
    return answers.most_common(1)[0][0]


def majority_answers(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Give the most frequent training answer to every row."""
    answer = most_frequent(Counter(sample.reference for sample in train))
    return [answer] * len(test)


def question_only_answers(train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Give the most frequent training answer to exactly the row's question; to an unseen one, that to all."""
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        by_question[sample.question][sample.reference] += 1
    known = {question: most_frequent(answers) for question, answers in by_question.items()}
    return [
        known.get(sample.question, majority)
        for sample, majority in zip(test, majority_answers(train, test), strict=True)
    ]


_FLOORS = {"majority": majority_answers, "question_only": question_only_answers}


def compute_floors(
    train: Sequence[Sample], test: Sequence[Sample], metric: Metric, average: Average = OVER_ROWS
) -> dict[str, float]:
    """Score every floor on the test rows with the main value of the task's metric, by name."""
    cut = whole(test, average)
    return {name: value_of(metric.score(test, answer(train, test)).main, cut) for name, answer in _FLOORS.items()}


def best_floor(floors: dict[str, float], metric: Metric) -> float | None:
    """Choose the floor that is hardest to beat: the highest, or for error rates the lowest; None if there are none."""
    if not floors:
        return None
    return max(floors.values()) if metric.higher_is_better else min(floors.values())


__all__ = ["best_floor", "compute_floors", "majority_answers", "most_frequent", "question_only_answers"]
