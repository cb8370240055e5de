"""Metrics of short free answers: exact match, VQA accuracy, ANLS, and whether the words asked for occur."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import EvaluationError
from ..tasks import Sample
from .evalai import normalise_vqa_answer
from .metric import Metric, Scores, lacks_answers, shares
from .normalise import fold, is_unparsed, normalise

AND = "<AND>"
"""Joins the parts of an answer that must all occur, as in MM-Vet's file."""
_THRESHOLD = 0.5


def exact_match(prediction: str, reference: str) -> float:
    """Return 1 if the two are equal after `normalise`, otherwise 0. An empty answer is never right."""
    return float(not is_unparsed(prediction) and normalise(prediction) == normalise(reference))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Compute agreement with annotators (Antol et al. 2015, arXiv 1505.00468), after the EvalAI normaliser.

    For each annotator left out, min(matches among the others / 3, 1); averaged. Of 10 annotators, 1, 2, 3, >= 4
    matches give 0.3, 0.6, 0.9, 1. Annotators are left out by position, so equal answers of others still count.
    """
    if is_unparsed(prediction):
        return 0.0
    given = normalise_vqa_answer(prediction)
    matches = [given == normalise_vqa_answer(answer) for answer in answers]
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Compute the Levenshtein similarity to the nearest answer (Biten et al. 2019, arXiv 1905.13648, eq. 1).

    1 - edits / length of the longer text, case and spaces folded; 0 if half or more would have to change.

    Raises:
        EvaluationError: If rapidfuzz is not installed.
    """
    distance = _levenshtein()
    given = fold(prediction)
    if not given:
        return 0.0
    distances = (distance(given, fold(answer)) for answer in answers)
    return max(1 - far if far < _THRESHOLD else 0.0 for far in distances)


def _levenshtein() -> Callable[[str, str], float]:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise EvaluationError(
            'metric anls needs rapidfuzz, which comes with jiwer: pip install "unimoe[eval]"'
        ) from error
    return Levenshtein.normalized_distance


def contains(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if all parts of one of the answers occur in the prediction as whole words, otherwise 0.

    The parts of an answer are joined by `<AND>`. A number does not occur in another one: no 5 in 15, 5.2, -5 or 5/8.
    """
    text = fold(prediction)
    return float(any(all(_occurs(part, text) for part in answer.split(AND)) for answer in answers))


def _occurs(part: str, text: str) -> bool:
    word = fold(part)
    whole = rf"(?<!\w)(?<!\d[.,/:]){re.escape(word)}(?!\w)(?![.,/:]\d)"
    if word[:1].isdigit():
        whole = rf"(?<!(?<![\w)\]])[-\u2212]){whole}"  # the minus of another number; that of 3-5 is none
    return bool(word) and re.search(whole, text) is not None


def _score_exact_match(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    rows = zip(samples, predictions, strict=True)
    hits = [exact_match(prediction, sample.reference) for sample, prediction in rows]
    return Scores({"exact_match": shares(hits)}, np.array([is_unparsed(text) for text in predictions], dtype=bool))


def _score_vqa(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    rows = zip(samples, predictions, strict=True)
    scores = [vqa_accuracy(prediction, sample.answers) for sample, prediction in rows]
    return Scores({"vqa_accuracy": shares(scores)}, np.array([is_unparsed(text) for text in predictions], dtype=bool))


def _score_anls(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    scores = [anls(prediction, sample.answers) for sample, prediction in zip(samples, predictions, strict=True)]
    return Scores({"anls": shares(scores)}, np.array([not fold(text) for text in predictions], dtype=bool))


def _score_contains(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    hits = [contains(prediction, sample.answers) for sample, prediction in zip(samples, predictions, strict=True)]
    return Scores({"contains": shares(hits)}, np.array([is_unparsed(text) for text in predictions], dtype=bool))


def _lacks_annotators(sample: Sample) -> str | None:
    if len(sample.answers) >= 4:
        return None
    return "'answers', a list of the annotators' answers (usually 10, at least 4). Add it, or use metric exact_match."


EXACT_MATCH = Metric(_score_exact_match, "lower case, no articles, no punctuation but that of numbers")
VQA_ACCURACY = Metric(
    _score_vqa,
    "EvalAI",
    lacks=_lacks_annotators,
    answer=lambda sample, text: None if is_unparsed(text) else normalise_vqa_answer(text),
)
ANLS = Metric(_score_anls, "lower case, single spaces", lacks=lacks_answers, require=_levenshtein)
CONTAINS = Metric(_score_contains, "lower case, single spaces", lacks=lacks_answers)

__all__ = [
    "ANLS",
    "CONTAINS",
    "EXACT_MATCH",
    "VQA_ACCURACY",
    "anls",
    "contains",
    "exact_match",
    "vqa_accuracy",
]
