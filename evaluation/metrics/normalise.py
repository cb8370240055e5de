"""Texts before they are compared: case, punctuation, articles, spaces, and the thoughts of a model."""

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_MARK = re.compile(
    rf"""
    (?P<of_number> \.(?=\d) | (?<=\d)[:/](?=\d) | (?<![\w.)\]])-(?=\.?\d) )  # 3.5, 10:30, 5/8, -5
    | [{re.escape(string.punctuation)}]
    """,
    flags=re.VERBOSE,
)
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", flags=re.DOTALL)


def normalise(text: str) -> str:
    """Write in lower case, without punctuation, articles, surplus spaces; a text of nothing else keeps what it has.

    What belongs to a number stays: its point, its minus, and what stands within 10:30 and 5/8. 1,000 becomes 1000.
    """
    plain = " ".join(_MARK.sub(lambda mark: mark["of_number"] or "", text.lower()).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or fold(text)


def is_unparsed(prediction: str) -> bool:
    """Tell whether there is no answer to compare. Such a row is counted as wrong and told, never guessed."""
    return not prediction.strip()


def fold(text: str) -> str:
    """Write in lower case, with single spaces."""
    return " ".join(text.lower().split())


def without_thoughts(prediction: str) -> str:
    """Return the answer alone: `<think>...</think>` is none of it, nor is a thought that was cut off.

    Some chat templates open the thought in the prompt, so what comes before a lone `</think>` is one too.
    """
    return _THOUGHTS.sub("", prediction).rpartition("</think>")[2].strip()


__all__ = ["fold", "is_unparsed", "normalise", "without_thoughts"]
