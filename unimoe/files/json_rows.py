"""Rows of .jsonl and .json files at every door: what is kept in memory is where each row begins and ends."""

import json
import os
import re
from array import array
from pathlib import Path
from typing import Any

from ..errors import DataError, UniMoEError
from ..media.limits import Limits
from . import json_lines
from .strict_json import parse_json

_SPACE = " \t\r\n"
_MARK = json_lines.MARK.decode("latin-1")
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)  # numbers of any length are passed over
_DIALOGUES = {"messages", "conversations"}
_BEGUN = re.compile(rb'\{\s*("[^"]*"\s*:\s*[\[{])?')
"""The first line of an object that is written over several."""
_OF_ROWS = {*_DIALOGUES, "question", "instruction", "prompt"}
"""Keys by which an object is known as a row, and not as a turn or an entry of one."""


class JsonRows:
    """Where the rows of one file stand, by number; the bytes of each are read when they are asked for.

    Args:
        path: A file with one list, or one object after the other: JSON Lines, or over several lines each.

    Raises:
        DataError: If there is no such file, or it is not of that form at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.broken: DataError | None = None  # what ends a list before its end
        self._begins, self._ends, self._lines = array("q"), array("q"), array("q")
        self.has_lines = has_lines(path)
        if self.has_lines:
            for begin, number, line in json_lines.read_lines(path):
                self._add(begin, begin + len(line), number)
        is_list = not self.has_lines and self._find_values()
        if len(self) and not is_list and (self.has_lines or len(self) == 1):
            check_first(self.raw(0), self.path, is_line=self.has_lines)

    def __len__(self) -> int:
        return len(self._begins)

    def where(self, number: int) -> str:
        """File and line of a row; in a file without lines its number stands for the line."""
        return f"{self.path}:{self._lines[number]}" if self.has_lines else f"{self.path}: row {number}"

    def name(self, number: int) -> str:
        """Name a row that has no name: its line, or its number."""
        return str(self._lines[number] if self.has_lines else number)

    def raw(self, number: int) -> bytes:
        """Return the bytes of a row, which need not be JSON."""
        with open(self.path, "rb") as file:
            file.seek(self._begins[number])
            return file.read(self._ends[number] - self._begins[number])

    def _find_values(self) -> bool:
        """Find rows that are no lines; whether they are a list."""
        limits = Limits.from_environment()
        json_lines.check_bytes(os.stat(self.path).st_size, "the file", where=self.path, limits=limits)
        # Only ASCII has a meaning in JSON's structure: as latin-1, characters and bytes are counted alike.
        text = Path(self.path).read_bytes().decode("latin-1")
        at = _next(text, 0)
        is_list = text[at : at + 1] == "["
        begin = at
        at = _next(text, at + 1) if is_list else at
        try:
            while at < len(text) and not (is_list and text[at] == "]"):
                _, end = _SCANNER.raw_decode(text, at)
                self._add(at, end, 0)
                at = _next(text, end)
                if is_list and text[at : at + 1] not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
                at = _next(text, at + 1) if is_list and text[at] == "," else at
            if is_list and _next(text, at + 1) < len(text):
                raise json.JSONDecodeError("Something stands behind the list", text, at + 1)
            if is_list and at >= len(text):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
        except json.JSONDecodeError as error:
            self._break(
                f"not valid JSON ({error}).",
                "The file must hold one JSON list, or one object after the other; rows from here on cannot be read.",
            )
        except RecursionError:
            self._break(*_why_too_deep(text[at:] if len(self) else text[begin:], self.path))
        return is_list

    def _break(self, problem: str, cure: str) -> None:
        self.broken = DataError(f"{self.path}: row {len(self)}" if len(self) else self.path, problem, cure)

    def _add(self, begin: int, end: int, line: int) -> None:
        self._begins.append(begin)
        self._ends.append(end)
        self._lines.append(line)


def has_lines(path: str) -> bool:
    """Whether the rows of a file are its lines; otherwise it is a list, a .json file of objects, or one whose first
    line ends within an object.

    Raises:
        DataError: If there is no such file, or it holds no JSON.
    """
    head = json_lines.open_text_file(path)
    if head.startswith(b"[") or Path(path).suffix == ".json":
        return False
    _, _, line = next(json_lines.read_lines(path), (0, 0, b""))
    return _BEGUN.fullmatch(line.strip()) is None


def check_first(raw: bytes, path: str, *, is_line: bool) -> None:
    """Refuse a first value that is no row, as far as it tells where the rows are.

    Args:
        raw: Its bytes.
        path: Of the file.
        is_line: Further lines may follow; otherwise it is the only value.

    Raises:
        DataError: If it holds the rows, or can be none.
    """
    try:
        value = parse_json(raw, where=path)
    except UniMoEError:  # which is said when it is read
        return
    if not isinstance(value, dict):
        if is_line:
            return
        problem = f"expected a list of rows, got {type(value).__name__}."
        raise DataError(path, problem, "For JSON Lines, name it .jsonl.")
    lists = [name for name, part in value.items() if _holds_rows(part, surely=is_line)]
    if not _DIALOGUES.isdisjoint(value) or (not lists and (value or is_line)):
        return
    if is_line and not _OF_ROWS.isdisjoint(value):
        return
    inside = f"The rows seem to be under {lists[0]!r}: write that list alone, " if lists else ""
    command = f"`jq '.{lists[0]}' {path} > rows.json`." if lists else "For JSON Lines, name it .jsonl."
    problem = f"expected a list of rows, got an object with {sorted(value)[:9]}."
    raise DataError(path, problem, f"{inside}{'e.g. ' if inside else ''}{command}")


def _holds_rows(value: Any, *, surely: bool) -> bool:
    objects = [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
    return any(not surely or not _OF_ROWS.isdisjoint(part) for part in objects)


def _next(text: str, at: int) -> int:
    """Where the next value or sign begins; byte order marks of joined files are passed over."""
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if not text.startswith(_MARK, at):
            return at
        at += len(_MARK)


def _why_too_deep(text: str, where: str) -> tuple[str, str]:
    """Problem and cure of what the scanner gave up: the limit of depth, unless it was raised that far."""
    try:
        parse_json(text, where=where)
    except UniMoEError as error:
        return error.problem, error.cure
    return "lists and objects stand too deep within each other.", "Flatten them."


__all__ = ["JsonRows", "check_first", "has_lines"]
