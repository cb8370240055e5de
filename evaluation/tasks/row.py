"""A row of a published file: one model for each layout, the types of its values, and one error for what does not fit.

    class Question(Row):
        question_id: Text
        choices: Options

    Question.parse({"question_id": 7, "choices": ["red", "blue"]}, "rows.json[0]")

Nothing is coerced but what publishers mix: a number where a text is expected, digits where a whole number is, and a
list that is written as a text.
"""

import ast
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ..errors import EvaluationError, read_json

COMPARE = "Compare the row with the publisher's file."
"""What to do about a row that does not fit."""
_LONGEST_LIST = 100_000
"""Of a text that is a list, characters; a longer one is cut, and so is none."""


class Row(BaseModel):
    """A row; layouts are subclasses with a field for each column that is used. A column that is null is missing."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", arbitrary_types_allowed=True)

    _where: str = PrivateAttr(default="")
    _values: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def where(self) -> str:
        """File and row, for errors."""
        return self._where

    @property
    def values(self) -> dict[str, Any]:
        """All columns as they were read."""
        return self._values

    @classmethod
    def parse(cls, values: Any, where: str, **known: Any) -> Self:
        """Read a row.

        Args:
            values: Its columns.
            where: File and row.
            known: Columns that are known from elsewhere, such as the key of a row.

        Raises:
            EvaluationError: If a column is missing or does not fit; names file, row and column.
        """
        if not isinstance(values, dict):
            raise EvaluationError(f"{where}: expected an object, found {type(values).__name__}")
        values = {**values, **known}
        try:
            row = cls.model_validate({key: value for key, value in values.items() if value is not None})
        except ValidationError as error:
            raise EvaluationError(f"{where}: {_problem(error.errors()[0], values)}") from None
        row._where, row._values = where, values
        return row

    def read_as(self, layout: "type[R]") -> "R":
        """Read the same columns by another layout."""
        return layout.parse(self._values, self._where)

    def need(self, key: str) -> Any:
        """Return a value that only some rows need.

        Raises:
            EvaluationError: If it is missing.
        """
        if (value := getattr(self, key, None)) is None:
            raise EvaluationError(f"{self._where}: {_missing(key, self._values)}")
        return value


R = TypeVar("R", bound=Row)


def _problem(error: ErrorDetails, values: dict[str, Any]) -> str:
    """Say what is wrong with a row, beginning with the column."""
    column = ": ".join(map(repr, error["loc"]))
    if error["type"] == "missing":
        found = values if len(error["loc"]) == 1 else error["input"]
        return f"{column[: column.rfind(repr(error['loc'][-1]))]}{_missing(error['loc'][-1], found)}"
    if error["type"] == "misfit":
        return f"{column} {error['msg']}"
    return f"{column}: {error['msg']}, found {error['input']!r}. {COMPARE}"


def _missing(key: object, found: Iterable[object]) -> str:
    return f"{key!r} is missing; the row has {', '.join(map(str, found))}"


def misfit(why: str) -> PydanticCustomError:
    """Refuse a value, in words that follow the name of its column: `must be ..., found ...`."""
    return PydanticCustomError("misfit", "{why}", {"why": why})


def _text(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not number:
        raise misfit(f"must be a text, found {type(value).__name__} {value!r}. {COMPARE}")
    if not str(value).strip():
        raise misfit("is empty. Fill it in, or remove the row.")
    return str(value).strip()


def _cell(value: Any) -> str:
    text = str(value).strip()
    return "" if text.lower() == "nan" else text


def _whole(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise misfit(f"must be a whole number, found {value!r}. {COMPARE}")
    return number


def _texts(value: Any, *, at_least: int, may_be_empty: bool = False) -> tuple[str, ...]:
    listed = _parsed(value) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or len(listed) < at_least:
        raise misfit(f"must be a list of at least {at_least} text(s), found {value!r}. {COMPARE}")
    texts = []
    for number, text in enumerate(listed, start=1):
        try:
            texts.append("" if may_be_empty and text == "" else _text(text))
        except PydanticCustomError as error:
            raise misfit(f"number {number} {error.message()}") from None
    return tuple(texts)


def _parsed(text: str) -> Any:
    """Parse a text as JSON or Python; None if it is neither."""
    parsers: tuple[Callable[[str], Any], ...] = (partial(read_json, where="list"), ast.literal_eval)
    for parse in parsers:
        try:
            return parse(text.strip()[:_LONGEST_LIST])
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # EvaluationError is a ValueError
            continue
    return None


Text = Annotated[str, BeforeValidator(_text)]
"""A text without space around it, not empty; a number is written out."""
Cell = Annotated[str, BeforeValidator(_cell)]
"""Anything as a text that may be empty; so is `nan`, which pandas writes for no text."""
Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number, or its digits."""
Texts = Annotated[tuple[str, ...], BeforeValidator(partial(_texts, at_least=1))]
"""A list of texts, or a text that is such a list in JSON or Python."""
Options = Annotated[tuple[str, ...], BeforeValidator(partial(_texts, at_least=2))]
"""The same with two texts or more."""
BlankOptions = Annotated[tuple[str, ...], BeforeValidator(partial(_texts, at_least=2, may_be_empty=True))]
"""The same, in which a text may have no characters."""


def join(
    first: Iterable[Row], second: Iterable[Row], layout: type[R], *, key: str, files: tuple[object, object]
) -> Iterator[R]:
    """Put the rows of two files together that have the same key, in the order of the first file.

    Args:
        first: Rows of the first file.
        second: Rows of the second file.
        layout: Of the joined rows; a column that both have is that of the first.
        key: Name of the column that says which belong together.
        files: Paths of both, for errors.

    Raises:
        EvaluationError: If a key comes twice, or one file has a row that the other lacks; names it.
    """
    others = unique(second, key)
    for name, row in unique(first, key).items():
        if (other := others.pop(name, None)) is None:
            raise EvaluationError(f"{row.where}: {files[1]} has no {key} {name!r}. {_ONE_RELEASE}")
        yield layout.parse({**other.values, **row.values}, f"{row.where} with {other.where}")
    for name, other in others.items():
        raise EvaluationError(f"{other.where}: {files[0]} has no {key} {name!r}. {_ONE_RELEASE}")


_ONE_RELEASE = "Both files must be of one split and release."


def unique(rows: Iterable[R], key: str) -> dict[str, R]:
    """Sort rows by a column, in which each value must come once.

    Raises:
        EvaluationError: If a value comes twice; names both rows.
    """
    found: dict[str, R] = {}
    for row in rows:
        name = getattr(row, key)
        if found.setdefault(name, row) is not row:
            raise EvaluationError(f"{row.where}: {key} {name!r} appears twice, before at {found[name].where}")
    return found


__all__ = [
    "COMPARE",
    "BlankOptions",
    "Cell",
    "Options",
    "R",
    "Row",
    "Text",
    "Texts",
    "Whole",
    "join",
    "misfit",
    "unique",
]
