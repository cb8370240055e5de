"""Checks data without training on it: every row and every medium, all faults at once, and counts of what there is."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from unimoe.errors import DataError, UniMoEError
from unimoe.processing.lengths import TokenCounter

from ...config.data import SourceConfig
from ..batching.windows import WindowFill
from ..formats import row_format
from ..readers.json_files import BAD
from ..readers.sources import Rows, check_columns
from ..rows import Faults, Row
from .census import Census
from .media_check import MediaCheck


@dataclass
class Report:
    """What was found in one source."""

    path: str
    problems: list[DataError] = field(default_factory=list)
    census: Census = field(default_factory=Census)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        problems = [
            {"row": error.where, "key": error.key, "problem": error.problem, "cure": error.cure}
            for error in self.problems
        ]
        return {"path": self.path, "problems": problems, "notes": self.notes, **self.census.as_json()}


@dataclass
class Checker:
    """Checks sources, one after the other.

    Args:
        decode: Decode media as training would, instead of reading their headers.
        counter: Counts tokens. None: rows are measured in words.
        max_length: Most tokens of a row, if there is a counter.
        refuse_long: Whether a longer row is a fault; otherwise it is counted.
        track: Wraps the numbers of the rows, to show how far it is.
    """

    decode: bool = False
    counter: TokenCounter | None = None
    max_length: int | None = None
    refuse_long: bool = True
    track: Callable[[range], Iterable[int]] = iter

    def __call__(self, config: SourceConfig) -> Report:
        """Check all rows of a source; nothing stops at a fault."""
        report = Report(config.path)
        try:
            rows = Rows(config)
        except DataError as error:
            report.problems.append(error)
            return report
        self._check_rows(rows, report)
        if rows.broken is not None:
            report.problems.append(rows.broken)
        elif not len(rows):
            report.problems.append(DataError(config.path, "the file has no rows.", "Leave it out of the mixture."))
        if report.census.duplicates:
            report.notes.append(f"{report.census.duplicates} row(s) say the same as a row before them.")
        return report

    def _check_rows(self, rows: Rows, report: Report) -> None:
        media = MediaCheck(decode=self.decode)
        first_with: dict[str, str] = {}  # id -> where
        seen: set[bytes] = set()
        columns: set[str] = set()
        fill = WindowFill(self.counter) if self.counter is not None else None
        for number in self.track(range(len(rows))):
            faults = Faults(rows.where(number), keep=True)
            row, values = rows.read(number, faults)
            columns.update(values if isinstance(values, dict) else ())
            faults.found += _bad_media(faults, media)
            if row is not None and row.id != row.where:
                self._check_id(row, first_with, faults)
            report.census.rows += 1
            if row is not None and not faults:
                self._measure(row, faults, report.census)
            if row is not None and not faults and values is not BAD:
                report.census.add(row, row_format(values, rows.form) or "")
                if fill is not None:
                    fill.add(row)
                digest = blake2b(repr(row.messages).encode("utf-8", "surrogatepass"), digest_size=16).digest()
                report.census.duplicates += digest in seen
                seen.add(digest)
            report.problems += faults.found
        report.problems += _unknown_columns(rows, columns)
        report.notes += fill.warnings() if fill is not None else []
        report.notes += [f"{count} media not opened: {reason}" for reason, count in media.unchecked.items()]

    def _check_id(self, row: Row, first_with: dict[str, str], faults: Faults) -> None:
        if row.id in first_with:
            faults.add(
                "id", f"{row.id!r} names another row too: {first_with[row.id]}.", "Give each row a name of its own."
            )
        else:
            first_with[row.id] = row.where

    def _measure(self, row: Row, faults: Faults, census: Census) -> None:
        """Count the tokens of a row; what the model's processor refuses is a fault."""
        if self.counter is None:
            return
        try:
            tokens = self.counter(row.messages)
        except (ImportError, OSError, ValueError) as error:
            problem, cure = " ".join(str(error).split()), ""
            if isinstance(error, UniMoEError):
                problem, cure = error.problem, error.cure
            faults.add("", problem, cure)
            return
        if self.max_length is not None and tokens > self.max_length:
            census.too_long += 1
            if self.refuse_long:
                problem = f"{tokens} tokens, more than max_length {self.max_length}."
                faults.add("", problem, "Raise max_length, take the row out, or set data.too_long to drop or cut.")
                return
        census.tokens.append(tokens)


def _bad_media(faults: Faults, media: MediaCheck) -> Iterator[DataError]:
    for key, item in faults.media:
        if (finding := media(item)) is not None:
            yield DataError(faults.where, finding.problem, finding.cure, key=key)


def _unknown_columns(rows: Rows, columns: set[str]) -> Iterator[DataError]:
    try:
        check_columns(rows.path, rows.form, sorted(columns))
    except DataError as error:
        yield error


__all__ = ["Checker", "Report"]
