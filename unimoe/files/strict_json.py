"""JSON as people and programs write it, read without losing or guessing anything: one reader for rows, indices and
answers of servers."""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import DataError
from ..media.limits import Limits, limits_or_default


def parse_json(raw: bytes | str, *, where: str, limits: Limits | None = None) -> Any:
    """Parse one JSON value.

    Args:
        raw: Its text, or the bytes of it in UTF-8.
        where: File and row, for errors.
        limits: Of depth and of numbers. None: those of the environment.

    Raises:
        DataError: If it is not UTF-8 or not JSON, an object has a key twice, or a number is not finite.
        LimitError: If it is too deep, or a number too long.
    """
    limits = limits_or_default(limits)
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            where,
            f"not UTF-8: the byte 0x{raw[error.start]:02x} at position {error.start}.",
            "Save the file as UTF-8, e.g. `iconv -f latin1 -t utf-8`.",
        ) from None
    depth = _depth(text, limits.json_depth)
    limits.check("json_depth", depth, f"lists and objects stand {depth} deep within each other", where=where)
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_int=lambda digits: _whole(digits, where, limits),
            parse_float=lambda digits: _fraction(digits, where, limits),
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        is_more = error.msg == "Extra data"
        cure = "Put each object on a line of its own." if is_more else "Each row must be one JSON object."
        raise DataError(where, f"not valid JSON ({error}).", cure) from None
    except RecursionError:
        raise DataError(where, "lists and objects stand too deep within each other.", "Flatten them.") from None
    except _DoubleKey as error:
        raise DataError(where, "the key is given twice.", "Take one of the two out.", key=error.args[0]) from None
    except _NotFinite as error:
        raise DataError(
            where,
            f"{error.args[0]} is not JSON: numbers are finite.",
            "Write null, or leave the key out.",
            key=_place_of_not_finite(text),
        ) from None


def _depth(text: str, limit: int) -> int:
    """How deep brackets stand within each other, outside of strings; counted no further than past the limit."""
    if text.count("[") + text.count("{") <= limit:
        return 0
    depth = deepest = 0
    for bracket in _brackets(text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
        if deepest > limit:
            break
    return deepest


def _brackets(text: str) -> Iterator[str]:
    """Brackets outside of strings."""
    for number, piece in enumerate(text.replace("\\\\", "").replace('\\"', "").split('"')):
        if number % 2 == 0:
            yield from (letter for letter in piece if letter in "[]{}")


class _DoubleKey(Exception):
    """A key that stands twice in one object, of which one value would be lost."""


class _NotFinite(Exception):
    """A number that JSON does not have."""


def _place_of_not_finite(text: str) -> str:
    try:
        return _not_finite(json.loads(text, parse_int=len), "")
    except ValueError:  # there is more wrong with it
        return ""


def _not_finite(value: Any, key: str) -> str:
    """Place of the first number that is NaN or infinite; "" if there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return key
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        parts = ((f"{key}.{name}" if key else name, part) for name, part in value.items())
    elif isinstance(value, list):
        parts = ((f"{key}[{number}]", part) for number, part in enumerate(value))
    return next((found for name, part in parts if (found := _not_finite(part, name))), "")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubleKey(next(name for name in names if names.count(name) > 1))
    return values


def _whole(digits: str, where: str, limits: Limits) -> int:
    _check_digits(digits, where, limits)
    return int(digits)


def _fraction(digits: str, where: str, limits: Limits) -> float:
    _check_digits(digits, where, limits)
    number = float(digits)
    if not math.isfinite(number):
        raise _NotFinite(digits[:40])
    return number


def _check_digits(digits: str, where: str, limits: Limits) -> None:
    count = len(digits)
    limits.check("number_digits", count, f"a number has {count} digits", where=where)
    most = sys.get_int_max_str_digits()
    if most and count > most:
        raise DataError(where, f"a number has {count} digits, and Python reads {most}.", "Write it as a text.")


def _refuse_constant(name: str) -> Any:
    raise _NotFinite(name)


__all__ = ["parse_json"]
