"""Texts before they are compared: case, punctuation, articles, spaces, and the thoughts of a model."""

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", flags=re.DOTALL)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and surplus spaces; a text of nothing else keeps what it has."""
    plain = " ".join(text.lower().translate(_WITHOUT_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain


def is_unparsed(prediction: str) -> bool:
    """Whether there is no answer to compare. Counted as wrong and reported, never guessed."""
    return not normalise(prediction)


def fold(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.lower().split())


def without_thoughts(prediction: str) -> str:
    """The answer alone: what stands in `<think>...</think>` is none, nor is a thought that was cut off.

    Some chat templates open the thought in the prompt, so what comes before a lone `</think>` is one too.
    """
    return _THOUGHTS.sub("", prediction).rpartition("</think>")[2].strip()


__all__ = ["fold", "is_unparsed", "normalise", "without_thoughts"]
