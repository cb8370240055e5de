"""Values as JSON, tables and other libraries give them: what holds nothing, what is an object, a list or a scalar."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..media.naming import shown

_ABSENT = ("NAType", "NaTType")
"""Types of pandas' NA and NaT, without importing pandas."""
_DEPTH = 4


def holds_nothing(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a value says nothing: None, NaN and their like, an empty text, list or object, or one of these alone.

    Tables fill what a row lacks so, and clients dump what was not said.

    Args:
        value: Of any type.
        depth: Lists and objects within each other that are looked into.
    """
    value = plain(value)
    if value is None or type(value).__name__ in _ABSENT or (isinstance(value, float) and value != value):
        return True
    if isinstance(value, str | bytes | bytearray):
        return not value
    if isinstance(value, dict | list | set | frozenset):
        parts = value.values() if isinstance(value, dict) else value
        return not value or (depth > 0 and all(holds_nothing(part, depth - 1) for part in parts))
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple) and 0 in shape


def plain(value: Any) -> Any:
    """Return a scalar, list or object of numpy, pyarrow, pydantic or a dataclass as Python's own; media as they are.

    What stands within is not looked at: arrays of numbers are media, those of objects and texts are lists.
    """
    if value is None or isinstance(value, type) or type(value) in (str, int, float, bool, dict, list, bytes):
        return value
    if isinstance(value, np.generic):
        is_absent = isinstance(value, np.inexact | np.datetime64 | np.timedelta64) and value != value
        return None if is_absent else value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUS":
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    if callable(getattr(value, "as_py", None)):  # of pyarrow
        return value.as_py()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # of pydantic, as clients of servers have it
        return value.model_dump()
    return value


def name_of(value: Any) -> str:
    """Return a key or word as text of bounded length, whatever it is."""
    return value[:80] if isinstance(value, str) else shown(value)


__all__ = ["holds_nothing", "name_of", "plain"]
