"""Values of a row that must be texts, lists or numbers, and media in one of several places or inside of the row."""

import ast
import hashlib
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from ..errors import EvaluationError, read_json
from .source import Row, Source, need

_PICTURE = re.compile(
    rb"(?P<png>\x89PNG)|(?P<jpg>\xff\xd8\xff)|(?P<gif>GIF8)|(?P<webp>RIFF....WEBP)|(?P<bmp>BM)", re.DOTALL
)
"""First bytes of a picture, named as the ending of its file."""
_LONGEST_LIST = 100_000
"""Of a text that is a list, characters; a longer one is cut, and so is none."""


def need_text(row: Row, where: str, key: str) -> str:
    """A text of a row, without space around it; a number is written out.

    Raises:
        EvaluationError: If it is missing, empty or no text; names it.
    """
    (value,) = need(row, where, key)
    return _text(value, where, repr(key))


def need_texts(row: Row, where: str, *keys: str) -> list[str]:
    """Several texts of a row, see `need_text`."""
    return [need_text(row, where, key) for key in keys]


def optional_text(row: Row, key: str) -> str:
    """A text of a row, empty if there is none, for which tables made by pandas have `nan`."""
    value = row.get(key)
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def need_list(row: Row, where: str, key: str, *, at_least: int = 1, may_be_empty: bool = False) -> tuple[str, ...]:
    """A list of texts of a row, such as its options, or a text that is such a list in JSON or Python.

    Args:
        row: With the list.
        where: Its place.
        key: Of the list.
        at_least: Shortest list that is right.
        may_be_empty: Whether a text of the list may have no characters.

    Raises:
        EvaluationError: If it is missing, no list of texts, or too short; names it.
    """
    (value,) = need(row, where, key)
    listed = _parsed(value) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or len(listed) < at_least:
        raise EvaluationError(
            f"{where}: {key!r} must be a list of at least {at_least} text(s), found {value!r}. "
            "Compare the row with the publisher's file."
        )
    return tuple(
        "" if may_be_empty and text == "" else _text(text, where, f"{key!r} number {number}")
        for number, text in enumerate(listed, start=1)
    )


def need_whole(row: Row, where: str, key: str) -> int:
    """A whole number of a row, such as the id of a picture of COCO; its digits as a text will do.

    Raises:
        EvaluationError: If it is missing or no whole number; names it.
    """
    (value,) = need(row, where, key)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise EvaluationError(
            f"{where}: {key!r} must be a whole number, found {value!r}. Compare the row with the publisher's file."
        )
    return number


def _text(value: Any, where: str, name: str) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not isinstance(value, str) and not number:
        raise EvaluationError(
            f"{where}: {name} must be a text, found {type(value).__name__} {value!r}. "
            "Compare the row with the publisher's file."
        )
    if not str(value).strip():
        raise EvaluationError(f"{where}: {name} is empty. Fill it in, or remove the row.")
    return str(value).strip()


def _parsed(text: str) -> Any:
    """What a text is in JSON or Python; None if it is neither."""
    parsers: tuple[Callable[[str], Any], ...] = (partial(read_json, where="list"), ast.literal_eval)
    for parse in parsers:
        try:
            return parse(text.strip()[:_LONGEST_LIST])
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # EvaluationError is a ValueError
            continue
    return None


def find_tail(source: Source, where: str, name: str) -> str:
    """The path of a medium whose annotation names a path of another machine: the longest end of it that is there.

    `/data/exam/audio/1.wav` is looked for as `data/exam/audio/1.wav`, `exam/audio/1.wav`, `audio/1.wav` and `1.wav`.

    Raises:
        EvaluationError: If no end is there; names the row and the path.
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")] or [name]
    return source.media(where, *("/".join(parts[start:]) for start in range(len(parts))))


def unpack_medium(source: Source, row: Row, where: str, key: str, *, name: str | None = None, ending: str = "") -> str:
    """The path of a medium that a row of a data set holds, `{"bytes", "path"}`.

    Bytes are written to a file. Without them, the path says where the file is, as in data sets of local folders.

    Args:
        source: Of the benchmark.
        row: With the medium.
        where: Its place.
        key: Of the medium.
        name: For its file, without ending, see `Source.unpack`. None: a hash of the content, equal for equal media.
        ending: Used where neither the content, which tells pictures, nor the path says one, such as `.wav`.

    Raises:
        EvaluationError: If there is no such medium, such as one that was decoded already; names the row.
    """
    (value,) = need(row, where, key)
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if not content and isinstance(path, str) and path:
        return source.media(where, path)
    if not isinstance(content, bytes) or not content:
        raise EvaluationError(
            f"{where}: {key!r} must be a medium as {{'bytes': ..., 'path': ...}}, found {type(value).__name__}. "
            "Load the data set with this column not decoded, such as Image(decode=False) or Audio(decode=False)."
        )
    picture = _PICTURE.match(content)
    suffix = f".{picture.lastgroup}" if picture else PurePosixPath(str(path or "")).suffix or ending
    return source.unpack((name or hashlib.sha256(content).hexdigest()[:20]) + suffix, content)


__all__ = [
    "find_tail",
    "need_list",
    "need_text",
    "need_texts",
    "need_whole",
    "optional_text",
    "unpack_medium",
]
