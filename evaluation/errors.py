"""The one kind of error that a user can cure: shown as one line, exit code 2."""

from typing import Any

from unimoe.errors import UniMoEError
from unimoe.files.strict_json import parse_json


class EvaluationError(UniMoEError):
    """A configuration, data file or earlier run does not fit; the message says what, where and the cure."""


def read_json(raw: str | bytes, *, where: str) -> Any:
    """Parse JSON that others wrote, see `parse_json`.

    Args:
        raw: Its text.
        where: File and row, for errors.

    Raises:
        EvaluationError: If it is not JSON, or has a key twice, or is too deep.
    """
    try:
        return parse_json(raw, where=where)
    except UniMoEError as error:
        raise EvaluationError(error.where, error.problem, error.cure, key=error.key) from None
