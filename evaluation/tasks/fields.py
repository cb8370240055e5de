"""Values of a row that must be texts, and media that lie in one of several places or inside of the row itself."""

import hashlib
from pathlib import PurePosixPath
from typing import Any

from ..errors import EvaluationError
from .source import Row, Source, need


def need_text(row: Row, where: str, *keys: str) -> list[str]:
    """Texts of a row by their keys, without space around them; numbers are written out.

    Raises:
        EvaluationError: If the row lacks one, or one is empty or no text; names it.
    """
    return [_text(value, where, repr(key)) for key, value in zip(keys, need(row, where, *keys), strict=True)]


def need_texts(row: Row, where: str, key: str, *, at_least: int = 1) -> tuple[str, ...]:
    """A list of texts of a row, such as its options.

    Raises:
        EvaluationError: If it is missing, no list, or shorter than `at_least`; names it.
    """
    (values,) = need(row, where, key)
    if not isinstance(values, list | tuple) or len(values) < at_least:
        raise EvaluationError(f"{where}: {key!r} must be a list of at least {at_least} text(s), found {values!r}")
    return tuple(_text(value, where, f"{key!r} number {number}") for number, value in enumerate(values, start=1))


def _text(value: Any, where: str, name: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise EvaluationError(f"{where}: {name} must be a text, found {type(value).__name__}")
    if not str(value).strip():
        raise EvaluationError(f"{where}: {name} is empty. Fill it in, or remove the row.")
    return str(value).strip()


def find_medium(source: Source, where: str, *names: str) -> str:
    """The path of a medium that is stored under the first of these names that is there.

    Raises:
        EvaluationError: If there is none; names the row and the first name.
    """
    for name in names:
        if (source.root / name).is_file():
            return source.media(name, where)
    return source.media(names[0], where)


def find_tail(source: Source, where: str, name: str) -> str:
    """The path of a medium whose annotation names a path of another machine: the longest end of it that is there.

    `/data/exam/audio/1.wav` is looked for as `data/exam/audio/1.wav`, `exam/audio/1.wav`, `audio/1.wav` and `1.wav`.

    Raises:
        EvaluationError: If no end is there; names the row and the path.
    """
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")]
    return find_medium(source, where, *("/".join(parts[start:]) for start in range(len(parts))))


def unpack_medium(source: Source, where: str, value: Any, name: str | None, *, ending: str) -> str:
    """Write a medium that a row of a data set holds, `{"bytes", "path"}`, and return its path.

    Args:
        source: Of the benchmark.
        where: Place of the row, for errors.
        value: What the row holds.
        name: Unique in the benchmark, without ending. None: a hash of the content, equal for equal media.
        ending: Used where the row names none, such as `.wav`.

    Raises:
        EvaluationError: If the row holds no bytes, such as a medium that was decoded already.
    """
    content = value.get("bytes") if isinstance(value, dict) else None
    if not content:
        raise EvaluationError(
            f"{where}: expected a medium as {{'bytes': ..., 'path': ...}}, found {type(value).__name__}. "
            "Load the data set with this column not decoded, such as Audio(decode=False)."
        )
    name = hashlib.sha256(content).hexdigest()[:16] if name is None else name
    return source.unpack(name + (PurePosixPath(value.get("path") or "").suffix or ending), content)


__all__ = ["find_medium", "find_tail", "need_text", "need_texts", "unpack_medium"]
