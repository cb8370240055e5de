"""Word and character error rates of transcripts: errors and lengths summed over the corpus before dividing."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from ..errors import EvaluationError
from ..tasks import Sample
from .metric import Metric, Scores
from .normalise import is_unparsed

Counts = tuple[float, float]
"""Errors, and words or characters of the reference."""


def word_errors(prediction: str, reference: str) -> Counts:
    """Count substitutions + deletions + insertions, and words of the reference, after Whisper's English normaliser.

    It also removes marks such as `<|en|>`.

    Raises:
        EvaluationError: If jiwer or whisper-normalizer is not installed.
    """
    normaliser = _english_normaliser()
    import jiwer

    return _counts(jiwer.process_words(normaliser(reference), normaliser(prediction)))


def character_errors(prediction: str, reference: str) -> Counts:
    """Count errors as `word_errors`, of characters, after Whisper's basic normaliser, which belongs to no language.

    Spaces between words are characters.

    Raises:
        EvaluationError: If jiwer or whisper-normalizer is not installed.
    """
    normaliser = _basic_normaliser()
    import jiwer

    return _counts(jiwer.process_characters(normaliser(reference).strip(), normaliser(prediction).strip()))


def _counts(output: Any) -> Counts:
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


@cache
def _basic_normaliser() -> Callable[[str], str]:
    try:
        import jiwer  # noqa: F401
        from whisper_normalizer.basic import BasicTextNormalizer
    except ImportError as error:
        raise EvaluationError('metric cer needs jiwer and whisper-normalizer: pip install "unimoe[eval]"') from error
    return BasicTextNormalizer()


def _score(
    name: str, count: Callable[[str, str], Counts], samples: Sequence[Sample], predictions: Sequence[str]
) -> Scores:
    pairs = [count(prediction, sample.reference) for sample, prediction in zip(samples, predictions, strict=True)]
    unparsed = np.array([is_unparsed(prediction) for prediction in predictions], dtype=bool)
    return Scores({name: np.array(pairs, dtype=np.float64).reshape(-1, 2)}, unparsed)


def _score_wer(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    return _score("wer", word_errors, samples, predictions)


def _score_cer(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    return _score("cer", character_errors, samples, predictions)


WER = Metric(_score_wer, "Whisper English", higher_is_better=False, require=_english_normaliser)
CER = Metric(_score_cer, "Whisper basic", higher_is_better=False, require=_basic_normaliser)

__all__ = ["CER", "WER", "character_errors", "word_errors"]
