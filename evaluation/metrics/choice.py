"""Multiple choice: which option an answer names, accuracy, and CircularEval.

An answer that names no option is unparsed: there is no default letter and no random one.
"""

import re
from collections.abc import Sequence

import numpy as np

from ..tasks import Sample
from ..tasks.choices import LETTERS
from .metric import Flags, Metric, Scores, group_shares, shares
from .normalise import normalise, without_thoughts

_OPENING = r"""[\s(\[{*"'$]*"""
_CLOSING = r"""[\s.:)\]}*"'$]*"""


def read_choice(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that an answer names; None if it names none.

    In this order, thoughts removed: the text of one option and nothing else; the letter at the start, followed by a
    delimiter or by nothing (`A dog` begins with an article); the letter at the end; "answer is X"; "(X)"; "X."; "X:";
    "X)", the last of each; the text of exactly one option somewhere in the answer. Letters within a text are capitals.

    Args:
        prediction: What the model said.
        choices: Texts of the options A, B, ...
    """
    text = without_thoughts(prediction)
    texts = [normalise(choice) for choice in choices]
    given = normalise(text)
    if len(given) > 1 and texts.count(given) == 1:
        return LETTERS[texts.index(given)]
    return _read_letter(text, LETTERS[: len(choices)]) or _find_option(given, texts)


def _read_letter(text: str, letters: str) -> str | None:
    """The letter that stands in the place of highest priority, the last of those."""
    letter = f"([{letters}])"
    alone = rf"(?<![\w.']){letter}"
    either_case = f"([{letters}{letters.lower()}])"
    patterns = (
        rf"\A{_OPENING}{either_case}(?=[:),\]}}*\"\n]|\.(?!\w)|\s*\Z)",
        rf"""(?:\A|(?<=[\s(\[{{*"':$])){letter}{_CLOSING}\Z""",
        rf"(?i:\banswer\s+is\b\s*:?){_OPENING}{letter}(?!\w)",
        rf"\({letter}\)",
        rf"{alone}\.(?!\w)",
        rf"{alone}:",
        rf"{alone}\)",
    )
    for pattern in patterns:
        if found := re.findall(pattern, text):
            return found[-1].upper()
    return None


def _find_option(given: str, texts: Sequence[str]) -> str | None:
    """The only option whose text occurs in the answer as whole words, an option within a longer one not counted."""
    rest = f" {given} "
    found = set()
    for text in sorted({*texts} - {""}, key=len, reverse=True):
        if f" {text} " in rest:
            found.add(text)
            rest = rest.replace(f" {text} ", " \0 ")
    named = [letter for letter, text in zip(LETTERS, texts, strict=False) if text in found]
    return named[0] if len(named) == 1 else None


def _read(samples: Sequence[Sample], predictions: Sequence[str]) -> tuple[Flags, Flags]:
    """Hits and unparsed rows, both (rows,)."""
    rows = zip(samples, predictions, strict=True)
    letters = [read_choice(prediction, sample.choices) for sample, prediction in rows]
    hits = [letter == sample.reference.strip().upper() for letter, sample in zip(letters, samples, strict=True)]
    return np.array(hits, dtype=bool), np.array([letter is None for letter in letters], dtype=bool)


def _score_multiple_choice(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    hits, unparsed = _read(samples, predictions)
    return Scores({"accuracy": shares(hits)}, unparsed)


def _score_circular(samples: Sequence[Sample], predictions: Sequence[str]) -> Scores:
    """CircularEval (Liu et al. 2023, MMBench, arXiv 2307.06281): a question is right if all its rotations are."""
    hits, unparsed = _read(samples, predictions)
    return Scores({"circular": group_shares(samples, hits), "accuracy": shares(hits)}, unparsed)


def _lacks_choice(sample: Sample) -> str | None:
    count = len(sample.choices)
    if not 2 <= count <= len(LETTERS):
        return f"'choices', a list of the options' texts; found {count}, expected 2 to {len(LETTERS)}."
    if sample.reference.strip().upper() not in list(LETTERS[:count]):
        return (
            f"the letter of the right option, A to {LETTERS[count - 1]}, as the reference; found {sample.reference!r}."
        )
    return None


def _lacks_rotation(sample: Sample) -> str | None:
    if not sample.group:
        return "'group', the same text in all rotations of a question. Add it, or use metric multiple_choice."
    return _lacks_choice(sample)


_READING = "thoughts removed; the option's letter, otherwise its text in lower case, no punctuation, no articles"
MULTIPLE_CHOICE = Metric(_score_multiple_choice, _READING, lacks=_lacks_choice)
CIRCULAR = Metric(_score_circular, _READING, lacks=_lacks_rotation)

__all__ = ["CIRCULAR", "MULTIPLE_CHOICE", "read_choice"]
