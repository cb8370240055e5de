"""Rows of .jsonl and .json files: what is kept in memory is where each row begins and ends."""

import json
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unimoe.errors import DataError

from .rows import Faults, shorten

BAD = object()
"""What stands for a row that is no JSON."""
_ENCODING = "Save the file as UTF-8, e.g. `iconv -f latin1 -t utf-8`."
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_UTF8_MARK = b"\xef\xbb\xbf"


class JsonFile:
    """Rows of one file, by number; each is read and parsed when it is asked for.

    Args:
        path: A .json file with one list, or a file with one object on each line.

    Raises:
        DataError: If there is no such file, or it is not of that form at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_list = Path(path).suffix == ".json"
        self.broken: DataError | None = None  # what ends a list before its end
        self._begins, self._ends, self._lines = array("q"), array("q"), array("q")
        if not Path(path).is_file():
            raise DataError(
                f"There is no data file {path!r} (looked in {os.getcwd()!r}). Correct its path in the mixture."
            )
        with open(path, "rb") as file:
            if (encoding := _BYTE_ORDER_MARKS.get(file.read(2))) is not None:
                raise DataError(path, f"the file is {encoding}.", "Save it as UTF-8.")
        if self.is_list:
            self._find_elements()
        else:
            self._find_lines()

    def __len__(self) -> int:
        return len(self._begins)

    def where(self, number: int) -> str:
        """File and line of a row; in a JSON list its number stands for the line."""
        return f"{self.path}: row {number}" if self.is_list else f"{self.path}:{self._lines[number]}"

    def values(self, number: int, faults: Faults) -> Any:
        """What a row holds; `BAD` if it is no JSON, which the faults then say."""
        with open(self.path, "rb") as file:
            file.seek(self._begins[number])
            raw = file.read(self._ends[number] - self._begins[number])
        return parse_json(raw, faults)

    def _find_lines(self) -> None:
        for begin, number, line in read_lines(self.path):
            self._add(begin, begin + len(line), number)

    def _find_elements(self) -> None:
        # Only ASCII has a meaning in JSON's structure: as latin-1, characters and bytes are counted alike.
        text = Path(self.path).read_bytes().decode("latin-1")
        scan = json.JSONDecoder().raw_decode
        at = _next(text, 3 if text.startswith(_UTF8_MARK.decode("latin-1")) else 0)
        if text[at : at + 1] != "[":
            raise DataError(*self._no_list(text, at))
        at = _next(text, at + 1)
        while text[at : at + 1] != "]":
            try:
                _, end = scan(text, at)
                self._add(at, end, 0)
                at = _next(text, end)
                if text[at : at + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
                at = _next(text, at + 1) if text[at] == "," else at
            except json.JSONDecodeError as error:
                self.broken = DataError(
                    f"{self.path}: row {len(self)}" if len(self) else self.path,
                    f"not valid JSON ({error}).",
                    "The file must hold one JSON list; rows from here on cannot be read.",
                )
                return

    def _no_list(self, text: str, at: int) -> tuple[str, str, str]:
        try:
            found = type(json.JSONDecoder().raw_decode(text, at)[0]).__name__
        except json.JSONDecodeError as error:
            return self.path, f"not valid JSON ({error}).", "The file must hold one JSON list."
        return self.path, f"expected a list of rows, got {found}.", "For JSON Lines, name it .jsonl."

    def _add(self, begin: int, end: int, line: int) -> None:
        self._begins.append(begin)
        self._ends.append(end)
        self._lines.append(line)


def _next(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def read_lines(path: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield offset, number and bytes of each line that is not blank.

    Raises:
        DataError: If the file is a JSON list over several lines.
    """
    begin = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            mark = len(_UTF8_MARK) if number == 1 and line.startswith(_UTF8_MARK) else 0
            if number == 1 and line[mark:].strip() in (b"[", b"[{"):
                raise DataError(path, "the file holds one JSON list.", "Name it .json.")
            if line[mark:].strip():
                yield begin + mark, number, line[mark:]
            begin += len(line)


def parse_json(raw: bytes, faults: Faults) -> Any:
    """Parse one row; `BAD` if it is no JSON or not UTF-8, which the faults then say."""
    try:
        values = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        faults.add("", f"not UTF-8: the byte 0x{raw[error.start]:02x} at position {error.start}.", _ENCODING)
        return BAD
    except json.JSONDecodeError as error:
        faults.add("", f"not valid JSON ({error}).", "Each row must be one JSON object.")
        return BAD
    except _DoubleKey as error:
        faults.add(str(error), "the key is given twice.", "Take one of the two out.")
        return BAD
    if (b"NaN" in raw or b"Infinity" in raw) and (key := _not_finite(values, "")):
        faults.add(key, "NaN and Infinity are not JSON.", "Write null, or leave the key out.")
        return BAD
    return values


class _DoubleKey(Exception):
    """A key that stands twice in one object, of which one value would be lost."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubleKey(next(name for name in names if names.count(name) > 1))
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles)


def _not_finite(value: Any, key: str) -> str | None:
    """Place of the first number that is NaN or infinite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else key or shorten(value)
    parts: Any = ()
    if isinstance(value, dict):
        parts = ((f"{key}.{name}" if key else name, part) for name, part in value.items())
    elif isinstance(value, list):
        parts = ((f"{key}[{number}]", part) for number, part in enumerate(value))
    return next((found for name, part in parts if (found := _not_finite(part, name))), None)


__all__ = ["BAD", "JsonFile", "parse_json", "read_lines"]
