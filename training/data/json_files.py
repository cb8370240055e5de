"""Rows of .jsonl and .json files: what is kept in memory is where each row begins and ends."""

import json
import os
from array import array
from pathlib import Path
from typing import Any

from unimoe import json_lines
from unimoe.errors import DataError, UniMoEError
from unimoe.strict_json import parse_json

from .rows import Faults

BAD = object()
"""What stands for a row that is no JSON."""
_SPACE = " \t\r\n"
_MARK = json_lines.MARK.decode("latin-1")
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)  # numbers of any length are passed over


class JsonFile:
    """Rows of one file, by number; each is read and parsed when it is asked for.

    Args:
        path: A file with one list, or one object after the other: JSON Lines, or in a .json file anyhow.

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
        else:
            self._find_values()

    def __len__(self) -> int:
        return len(self._begins)

    def where(self, number: int) -> str:
        """File and line of a row; in a file without lines its number stands for the line."""
        return f"{self.path}:{self._lines[number]}" if self.has_lines else f"{self.path}: row {number}"

    def values(self, number: int, faults: Faults) -> Any:
        """What a row holds; `BAD` if it is no JSON, which the faults then say."""
        with open(self.path, "rb") as file:
            file.seek(self._begins[number])
            raw = file.read(self._ends[number] - self._begins[number])
        return parse_line(raw, faults)

    def _find_values(self) -> None:
        # Only ASCII has a meaning in JSON's structure: as latin-1, characters and bytes are counted alike.
        text = Path(self.path).read_bytes().decode("latin-1")
        at = _next(text, 0)
        is_list = text[at : at + 1] == "["
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
        except (json.JSONDecodeError, RecursionError) as error:
            self.broken = DataError(
                f"{self.path}: row {len(self)}" if len(self) else self.path,
                f"not valid JSON ({error}).",
                "The file must hold one JSON list, or one object after the other; rows from here on cannot be read.",
            )
        if not is_list and len(self) <= 1:
            self._check_object()

    def _check_object(self) -> None:
        """Refuse a single value that is no row, as far as it tells where the rows are."""
        if not len(self):
            return
        value = self.values(0, Faults(self.path))
        if not isinstance(value, dict):
            problem = f"expected a list of rows, got {type(value).__name__}."
            raise DataError(self.path, problem, "For JSON Lines, name it .jsonl.")
        lists = [
            name for name, part in value.items() if isinstance(part, list) and any(isinstance(p, dict) for p in part)
        ]
        if not value or (lists and not {"messages", "conversations"}.intersection(value)):
            inside = f"The rows seem to be under {lists[0]!r}: write that list alone, " if lists else ""
            command = f"`jq '.{lists[0]}' {self.path} > rows.json`." if lists else "For JSON Lines, name it .jsonl."
            problem = f"expected a list of rows, got an object with {sorted(value)[:9]}."
            raise DataError(self.path, problem, f"{inside}{'e.g. ' if inside else ''}{command}")

    def _add(self, begin: int, end: int, line: int) -> None:
        self._begins.append(begin)
        self._ends.append(end)
        self._lines.append(line)


def has_lines(path: str) -> bool:
    """Whether the rows of a file are its lines; otherwise it is a list, or a .json file of objects.

    Raises:
        DataError: If there is no such file, or it holds no JSON.
    """
    if not Path(path).is_file():
        raise DataError(
            f"There is no data file {path!r} (looked in {os.getcwd()!r}). Correct its path in the mixture."
        )
    head = json_lines.open_text_file(path)
    return not (head.startswith(b"[") or Path(path).suffix == ".json")


def _next(text: str, at: int) -> int:
    """Where the next value or sign begins; byte order marks of joined files are passed over."""
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if not text.startswith(_MARK, at):
            return at
        at += len(_MARK)


def parse_line(raw: bytes, faults: Faults) -> Any:
    """Parse one row; `BAD` if it is no JSON, which the faults then say."""
    try:
        return parse_json(raw, where=faults.where)
    except UniMoEError as error:
        faults.take(error)
        return BAD


__all__ = ["BAD", "JsonFile", "has_lines", "parse_line"]
