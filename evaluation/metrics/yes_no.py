"""Yes-or-no questions: POPE's accuracy, precision, recall, F1 and yes ratio, and MME's score of pairs of questions."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..tasks import Sample
from .metric import Flags, Metric, Scores, group_shares, shares
from .stated import stated_yes_or_no

_SENTENCE_END = re.compile(r"[.!?\n]")
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_NEGATIONS = frozenset(("no", "not"))


def read_yes_no(prediction: str) -> str | None:
    """Read what is stated ("Answer: no"), else `no` if the first sentence has no or not, `yes` if it has yes.

    None if nothing of it is there.
    POPE's script (Li et al. 2023, arXiv 2305.10355) counts everything without no or not as yes; here it is unparsed.
    """
    if (stated := stated_yes_or_no(prediction)) is not None:
        return stated
    sentences = (part for part in _SENTENCE_END.split(prediction) if part.strip())
    words = set(_WORD.findall(next(sentences, "").lower()))
    if words & _NEGATIONS:
        return "no"
    return "yes" if "yes" in words else None


def _read(samples: Sequence[Sample], predictions: Sequence[str]) -> tuple[Flags, Flags, Flags]:
    """Tell whether the answer is yes, whether the reference is, whether nothing was read; each (rows,)."""
    read = [read_yes_no(prediction) for prediction in predictions]
    said = np.array([answer == "yes" for answer in read], dtype=bool)
    true = np.array([sample.reference.strip().lower() == "yes" for sample in samples], dtype=bool)
    return said, true, np.array([answer is None for answer in read], dtype=bool)


def _score_yes_no(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    """Score yes as the positive class; F1 = 2 TP / (2 TP + FP + FN). Where yes is true, unparsed is a miss (FN)."""
    said, true, unparsed = _read(samples, predictions)
    both = said & true
    values = {
        "accuracy": shares((said == true) & ~unparsed),
        "precision": shares(both, of=said),
        "recall": shares(both, of=true),
        "f1": shares(2.0 * both, of=said * 1.0 + true),
        "yes_ratio": shares(said),
    }
    return Scores(values, unparsed)


def _score_mme(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    """Score MME (Fu et al. 2023, arXiv 2306.13394): accuracy, accuracy+ of pictures with both questions right.

    A category's score is 100 (accuracy + accuracy+), at most 200; perception and cognition are sums over categories.
    """
    said, true, unparsed = _read(samples, predictions)
    hits = (said == true) & ~unparsed
    pictures = group_shares(samples, hits)
    both_right = pictures[:, 0] / pictures[:, 1]  # of the row's picture, (rows,)
    values = {"score": shares(100 * (hits + both_right)), "accuracy": shares(hits), "accuracy_plus": pictures}
    return Scores(values, unparsed)


def _lacks_yes_no(sample: Sample) -> str | None:
    if sample.reference.strip().lower() in ("yes", "no"):
        return None
    return f"yes or no as the reference; found {sample.reference!r}."


def _lacks_picture(sample: Sample) -> str | None:
    return _lacks_yes_no(sample) if sample.group else "'group', the same text in both questions about a picture."


def _uneven_pictures(samples: Sequence[Sample]) -> str | None:
    sizes = Counter(sample.group for sample in samples)
    for sample in samples:
        if sizes[sample.group] != 2:
            return (
                f"{sample.where}: metric mme needs two questions about a picture; group {sample.group!r} has "
                f"{sizes[sample.group]}. Correct 'group', or use metric yes_no."
            )
    return None


_READING = "thoughts removed; what is stated as the answer, else the first sentence's no, not or yes, in lower case"
YES_NO = Metric(_score_yes_no, _READING, lacks=_lacks_yes_no, answer=lambda sample, text: read_yes_no(text))
MME = Metric(
    _score_mme,
    _READING,
    lacks=_lacks_picture,
    misfit=_uneven_pictures,
    answer=lambda sample, text: read_yes_no(text),
)

__all__ = ["MME", "YES_NO", "read_yes_no"]
