"""Metrics as pure functions. Every metric is a ratio of sums over rows: hits / questions, or word errors / words.

So a row's score is a pair (numerator, denominator), the corpus value is sum / sum, and one bootstrap serves all
metrics (`intervals.py`). All values are fractions: 1 is 100 %.
"""

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .errors import EvaluationError
from .evalai import normalise_vqa_answer

Score = tuple[float, float]
"""Numerator and denominator of one row."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Metric:
    """A metric and how it is read.

    Args:
        score: (prediction, reference, answers of all annotators) -> pair for the row.
        higher_is_better: False for error rates.
        needs_answers: Whether rows must carry several annotators' answers.
        normaliser: What both sides went through before they were compared, in words.
        require: Raises EvaluationError if a library is missing, so that it shows before anything is generated.
    """

    score: Callable[[str, str, Sequence[str]], Score]
    higher_is_better: bool
    needs_answers: bool
    normaliser: str
    require: Callable[[], object] = object


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces; a text of nothing else keeps what it has."""
    plain = " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain


def is_unparsed(prediction: str) -> bool:
    """Whether there is no answer to compare. Counted as wrong and reported, never guessed."""
    return not normalise(prediction)


def exact_match(prediction: str, reference: str) -> float:
    """1 if the two are equal after `normalise`, otherwise 0. An empty answer is never right."""
    return float(not is_unparsed(prediction) and normalise(prediction) == normalise(reference))


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement with human annotators (Antol et al. 2015, arXiv 1505.00468), after the EvalAI normaliser.

    For each annotator left out, min(matches among the others / 3, 1); averaged. Of 10 annotators, 1, 2, 3, >= 4
    matches give 0.3, 0.6, 0.9, 1. Annotators are left out by position, so equal answers of others still count.
    """
    if is_unparsed(prediction):
        return 0.0
    given = normalise_vqa_answer(prediction)
    matches = [given == normalise_vqa_answer(answer) for answer in answers]
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def word_errors(prediction: str, reference: str) -> Score:
    """Substitutions + deletions + insertions, and words of the reference, after Whisper's English normaliser.

    Raises:
        EvaluationError: If jiwer or whisper-normalizer is not installed.
    """
    normaliser = _english_normaliser()
    import jiwer

    output = jiwer.process_words(normaliser(reference), normaliser(prediction))
    errors = output.substitutions + output.deletions + output.insertions
    return float(errors), float(output.hits + output.substitutions + output.deletions)


@cache
def _english_normaliser() -> Callable[[str], str]:
    try:
        import jiwer  # noqa: F401
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise EvaluationError('metric wer needs jiwer and whisper-normalizer: pip install "unimoe[eval]"') from error
    return EnglishTextNormalizer()


def _score_exact_match(prediction: str, reference: str, answers: Sequence[str]) -> Score:
    return exact_match(prediction, reference), 1.0


def _score_vqa(prediction: str, reference: str, answers: Sequence[str]) -> Score:
    return vqa_accuracy(prediction, answers), 1.0


def _score_wer(prediction: str, reference: str, answers: Sequence[str]) -> Score:
    return word_errors(prediction, reference)


METRICS: dict[str, Metric] = {
    "exact_match": Metric(_score_exact_match, True, False, "lower case, no punctuation, no articles"),
    "vqa_accuracy": Metric(_score_vqa, True, True, "EvalAI"),
    "wer": Metric(_score_wer, False, False, "Whisper English", require=_english_normaliser),
}


def ratio(scores: NDArray[np.float64]) -> float:
    """Corpus value of the pairs (rows, 2): sum of numerators over sum of denominators.

    Raises:
        EvaluationError: If the references hold nothing to count.
    """
    numerator, denominator = scores.sum(axis=0)
    if not denominator:
        raise EvaluationError("no reference holds a word after normalisation, so there is no error rate")
    return float(numerator / denominator)


def score_all(metric: Metric, triples: Iterable[tuple[str, str, Sequence[str]]]) -> NDArray[np.float64]:
    """Score (prediction, reference, answers) of each row, (rows, 2)."""
    return np.array([metric.score(*triple) for triple in triples], dtype=np.float64).reshape(-1, 2)


__all__ = [
    "METRICS",
    "Metric",
    "Score",
    "exact_match",
    "is_unparsed",
    "normalise",
    "ratio",
    "score_all",
    "vqa_accuracy",
    "word_errors",
]
