"""The options of a multiple choice as publishers write them, and the letter of the right one."""

import re
from collections.abc import Sequence

from ..errors import EvaluationError
from .row import COMPARE, Cell, Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of the options, in order."""
_LABEL = re.compile(r"\(?([A-Z])[.):]\s*")
_LINE = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(\S.*?)[ \t]*$", re.MULTILINE)


def options(choices: Sequence[str], label: str = "{}. ") -> str:
    """Write the options of a multiple choice, a line each: `A. first`."""
    return "\n".join(label.format(letter) + text for letter, text in zip(LETTERS, choices, strict=False))


def without_labels(labelled: Sequence[str], where: str) -> tuple[str, ...]:
    """Remove the letters of options that carry them, such as `A. red` or `(A) red`.

    Raises:
        EvaluationError: If an option does not begin with its letter.
    """
    texts = []
    for letter, option in zip(LETTERS, labelled, strict=False):
        label = _LABEL.match(option)
        if label is None or label[1] != letter:
            raise EvaluationError(f"{where}: option {option!r} should begin with '{letter}.'. Correct the row.")
        texts.append(option[label.end() :].strip())
    return tuple(texts)


def options_in(text: str) -> tuple[str, ...]:
    """Find the options that stand in a question, a line each from `A.` on; none if there are fewer than two."""
    found = _LINE.findall(text)
    in_order = "".join(letter for letter, _ in found) == LETTERS[: len(found)]
    return tuple(option for _, option in found) if in_order and len(found) > 1 else ()


class Lettered(Row):
    """A row that has a column for each option."""

    A: Cell = ""
    B: Cell = ""
    C: Cell = ""
    D: Cell = ""
    E: Cell = ""

    def in_columns(self) -> tuple[str, ...]:
        """Read the texts of the options, whose columns are filled from A on.

        Raises:
            EvaluationError: If there are fewer than two, or one comes after an empty one; names the row.
        """
        cells = [self.A, self.B, self.C, self.D, self.E]
        count = next((number for number, cell in enumerate(cells) if not cell), len(cells))
        if count < 2 or any(cells[count:]):
            raise EvaluationError(
                f"{self.where}: expected at least two options in the columns A to E, filled from A on, found {cells}. "
                f"{COMPARE}"
            )
        return tuple(cells[:count])


def letter_at(index: int, choices: Sequence[str], where: str) -> str:
    """Return the letter of an option by its index, from 0.

    Raises:
        EvaluationError: If there is no such option; names the indices.
    """
    letters = LETTERS[: len(choices)]
    if not 0 <= index < len(letters):
        raise EvaluationError(
            f"{where}: the answer {index} is none of the indices 0 to {len(letters) - 1} of its options. {COMPARE}"
        )
    return letters[index]


def letter_of_text(answer: str, choices: Sequence[str], where: str) -> str:
    """Find the option whose text is the answer, whatever its case and spaces; of equal options, the first.

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
    """Read the letter that an answer is, such as `B`, `(B)` or `B.`.

    Raises:
        EvaluationError: If it is none of the letters of the options; names them.
    """
    letters = LETTERS[: len(choices)]
    letter = answer.strip().strip("().:").strip()
    if len(letter) != 1 or letter not in letters:
        raise EvaluationError(
            f"{where}: the answer {answer!r} is none of the letters {', '.join(letters)} of its options. {COMPARE}"
        )
    return letter


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


__all__ = [
    "LETTERS",
    "Lettered",
    "letter_at",
    "letter_of",
    "letter_of_text",
    "options",
    "options_in",
    "without_labels",
]
