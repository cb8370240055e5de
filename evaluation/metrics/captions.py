"""Captions against several references, with pycocoevalcap: CIDEr-D, BLEU-4, ROUGE-L; METEOR and SPICE where they run.

CIDEr-D weighs words by the references of all rows that are scored, so a subset's value is not comparable with that
of the whole set, and a single row scores 0.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluationError
from ..tasks import Sample
from .metric import Metric, Pairs, Scores, lacks_answers, shares
from .normalise import is_unparsed
from .tokenisers import tokenise

Texts = dict[int, list[str]]
"""Row -> tokenised captions."""
Floats = NDArray[np.float64]
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def _score_captions(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    references = [caption for sample in samples for caption in sample.answers]
    tokenised = tokenise([*predictions, *references])
    captions = iter(tokenised.captions)
    given: Texts = {row: [next(captions)] for row in range(len(samples))}
    true: Texts = {row: [next(captions) for _ in sample.answers] for row, sample in enumerate(samples)}
    cider = _cider(true, given)
    values = {"cider_d": shares(cider), "bleu_4": _bleu(true, given), "rouge_l": shares(_rouge(true, given))}
    notes = [
        f"tokeniser: {tokenised.tokeniser}",
        f"CIDEr-D weighs words by the references of these {len(samples)} rows",
    ]
    if shutil.which("java"):
        values["meteor"] = _meteor(true, given)
    else:
        notes.append("METEOR is left out: it needs Java")
    if spice_runs():
        spice = _spice(true, given)
        values |= {"spice": shares(spice), "spider": shares((cider + spice) / 2)}
    else:
        notes.append("SPICE and SPIDEr are left out: they need Java and the models of Stanford CoreNLP 3.6.0")
    unparsed = np.array([is_unparsed(prediction) for prediction in predictions], dtype=bool)
    return Scores(values, unparsed, tuple(notes))


def _cider(true: Texts, given: Texts) -> Floats:
    """Compute CIDEr-D of each row, 0 to 10 (Vedantam et al. 2015, arXiv 1411.5726, section 6)."""
    from pycocoevalcap.cider.cider import Cider

    return np.asarray(Cider().compute_score(true, given)[1], dtype=np.float64)


def _rouge(true: Texts, given: Texts) -> Floats:
    """Compute ROUGE-L of each row (Lin 2004), F with beta = 1.2 as in the COCO captions."""
    from pycocoevalcap.rouge.rouge import Rouge

    return np.asarray(Rouge().compute_score(true, given)[1], dtype=np.float64)


def _bleu(true: Texts, given: Texts) -> Pairs:
    """Compute BLEU-4 of the corpus (Papineni et al. 2002), a product of ratios of sums, as a mean over rows.

    A row's numerator is the corpus value plus how far the row pulls it, to first order: d log BLEU of its counts,
    times the value and the number of rows. Pulls add up to 0, so the mean is the corpus value; a bootstrap of it is
    the delta method.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for row, (caption,) in given.items():
        scorer += (caption, true[row])
    value = scorer.compute_score(option="closest")[0][3]
    correct = np.array([counts["correct"] for counts in scorer.ctest], dtype=np.float64)  # (rows, 4)
    guessed = np.array([counts["guess"] for counts in scorer.ctest], dtype=np.float64)
    length = np.array([counts["testlen"] for counts in scorer.ctest], dtype=np.float64)
    nearest = np.array([_nearest_length(counts) for counts in scorer.ctest], dtype=np.float64)
    pulls = (_relative(correct) - _relative(guessed)).mean(axis=1)
    if 0 < length.sum() < nearest.sum():  # the brevity penalty exp(1 - nearest / length)
        pulls += nearest.sum() / length.sum() * (_relative(length) - _relative(nearest))
    return shares(value * (1 + len(pulls) * (pulls - pulls.mean())))


def _nearest_length(counts: dict) -> int:
    """Return the length of the reference whose length is nearest, the shorter of two."""
    return min(counts["reflen"], key=lambda length: (abs(length - counts["testlen"]), length))


def _relative(counts: Floats) -> Floats:
    """Return each row's part of the sum over rows; 0 where there is nothing."""
    return counts / np.maximum(counts.sum(axis=0), 1)


def _meteor(true: Texts, given: Texts) -> Pairs:
    """Compute METEOR of the corpus (Denkowski and Lavie 2014); rows differ from it as their scores from their mean.

    Raises:
        EvaluationError: If Java is there but does not run it.
    """
    from pycocoevalcap.meteor.meteor import Meteor

    try:
        corpus, rows = Meteor().compute_score(true, given)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"METEOR did not run in Java: {error}. Check `java -version`.") from error
    scores = np.asarray(rows, dtype=np.float64)
    return shares(corpus + scores - scores.mean())


def spice_runs() -> bool:
    """Tell whether SPICE's Java program has the models that it would otherwise download."""
    import pycocoevalcap.spice as spice

    library = Path(spice.__file__).parent / "lib"
    return bool(shutil.which("java")) and all((library / name).is_file() for name in _SPICE_MODELS)


def _spice(true: Texts, given: Texts) -> Floats:
    """Compute SPICE of each row (Anderson et al. 2016, arXiv 1607.08822)."""
    from pycocoevalcap.spice.spice import Spice

    rows = Spice().compute_score(true, given)[1]
    return np.nan_to_num([row["All"]["f"] for row in rows])


def _require() -> None:
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise EvaluationError('metric captions needs pycocoevalcap: pip install "unimoe[eval]"') from error


CAPTIONS = Metric(
    _score_captions, "a tokeniser of captions, named in the notes", lacks=lacks_answers, require=_require
)

__all__ = ["CAPTIONS", "spice_runs"]
