"""The options of a multiple choice as publishers write them, and the letter of the right one."""

import re
from collections.abc import Sequence

from ..errors import EvaluationError
from .benchmark import LETTERS

_LABEL = re.compile(r"\(?([A-Z])[.):]\s*")
_LINE = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def without_labels(options: Sequence[str], where: str) -> tuple[str, ...]:
    """Texts of options that carry their letters, such as `A. red` or `(A) red`.

    Raises:
        EvaluationError: If an option does not begin with the letter of its place.
    """
    texts = []
    for letter, option in zip(LETTERS, options, strict=False):
        label = _LABEL.match(option)
        if label is None or label[1] != letter:
            raise EvaluationError(f"{where}: option {option!r} should begin with '{letter}.'. Correct the row.")
        texts.append(option[label.end() :].strip())
    return tuple(texts)


def options_in(text: str) -> tuple[str, ...]:
    """Texts of the options that stand in a question, a line each from `A.` on; none if there are fewer than two."""
    found = _LINE.findall(text)
    in_order = "".join(letter for letter, _ in found) == LETTERS[: len(found)]
    return tuple(option for _, option in found) if in_order and len(found) > 1 else ()


def letter_of_text(answer: str, choices: Sequence[str], where: str) -> str:
    """The letter of the option whose text is the answer, whatever its case and spaces; of equal options, the first.

    Raises:
        EvaluationError: If the answer is no option; names both.
    """
    texts = [_fold(choice) for choice in choices]
    if _fold(answer) not in texts:
        raise EvaluationError(
            f"{where}: the answer {answer!r} is none of the options {list(choices)}. Correct the row."
        )
    return LETTERS[texts.index(_fold(answer))]


def letter_of(answer: str, choices: Sequence[str], where: str) -> str:
    """The letter that an answer is, such as `B`, `(B)` or `B.`.

    Raises:
        EvaluationError: If it is none of the letters of the options; names them.
    """
    letters = LETTERS[: len(choices)]
    letter = answer.strip().strip("().:").strip()
    if len(letter) != 1 or letter not in letters:
        raise EvaluationError(f"{where}: the answer {answer!r} is none of the letters {', '.join(letters)}")
    return letter


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


__all__ = ["letter_of", "letter_of_text", "options_in", "without_labels"]
