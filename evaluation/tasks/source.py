"""The annotation files of a benchmark in its publisher's layout, below `DATA_ROOT/NAME`: what is missing is named."""

import csv
import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EvaluationError, read_json
from .media import MediaFolder
from .row import R


@dataclass
class Source(MediaFolder):
    """Reads files below a folder, and remembers which.

    Args:
        read: Paths of the annotation files that were read, relative to `root` -> SHA-256.
    """

    read: dict[str, str] = field(default_factory=dict)

    def first(self, *names: str) -> str:
        """Find the first of these names that is there; patterns such as `*.parquet` too.

        Raises:
            EvaluationError: If none is.
        """
        for name in names:
            for path in sorted(self.root.glob(name)):
                return path.relative_to(self.root).as_posix()
        raise EvaluationError(self._missing(" or ".join(str(self.root / name) for name in names)))

    def all(self, pattern: str) -> list[str]:
        """Find all files that fit a pattern such as `LibriSpeech/test-clean/*/*/*.trans.txt`; no hidden ones.

        Raises:
            EvaluationError: If there is none.
        """
        there = (path for path in sorted(self.root.glob(pattern)) if not path.name.startswith("."))
        found = [path.relative_to(self.root).as_posix() for path in there]
        if not found:
            raise EvaluationError(self._missing(str(self.root / pattern)))
        return found

    def text(self, name: str) -> str:
        """Read a whole annotation file.

        Raises:
            EvaluationError: If it is missing, or no UTF-8.
        """
        try:
            content = (self.root / name).read_bytes()
        except OSError as error:
            raise EvaluationError(self._missing(str(self.root / name))) from error
        self.read[name] = hashlib.sha256(content).hexdigest()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise EvaluationError(f"{self.root / name}: not UTF-8 at byte {error.start}") from error

    def json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            EvaluationError: If it is missing or damaged, or an object in it has a key twice.
        """
        return read_json(self.text(name), where=str(self.root / name))

    def rows(self, name: str, layout: type[R], **known: Any) -> Iterator[R]:
        """Read the rows of an annotation file, by the file's ending: jsonl, json, csv, tsv, parquet.

        Args:
            name: Of the file.
            layout: Of its rows.
            known: Columns that all rows have besides.

        Raises:
            EvaluationError: If the file is missing or damaged, or a row does not fit.
        """
        read = _READERS.get(Path(name).suffix, Source._table)
        return (layout.parse(values, where, **known) for where, values in read(self, name))

    def lines(self, name: str, layout: type[R], **known: Any) -> Iterator[R]:
        """Read the rows of a file with a JSON object a line, whatever its ending; see `rows`."""
        return (layout.parse(values, where, **known) for where, values in self._json_lines(name))

    def listed(self, name: str, key: str, layout: type[R]) -> Iterator[R]:
        """Read the rows of a list in a JSON object, such as `{"questions": [...]}`.

        Raises:
            EvaluationError: If the file is missing or damaged, has no such list, or a row does not fit.
        """
        path, content = self.root / name, self.json(name)
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            found = f"keys {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
            raise EvaluationError(f"{path}: expected an object with a list {key!r}, found {found}")
        return (layout.parse(row, f"{path}: {key}[{number}]") for number, row in enumerate(rows))

    def keyed(self, name: str, layout: type[R], column: str, **known: Any) -> Iterator[R]:
        """Read the rows of a JSON object of objects, `{"id": {...}}`.

        Args:
            name: Of the file.
            layout: Of its rows.
            column: What the layout calls the key of a row.
            known: Columns that all rows have besides.

        Raises:
            EvaluationError: If the file is missing or damaged, an id comes twice, or a row does not fit.
        """
        path, content = self.root / name, self.json(name)
        if not isinstance(content, dict):
            raise EvaluationError(f"{path}: expected an object of rows by id, found {type(content).__name__}")
        for key, row in content.items():
            yield layout.parse(row, f"{path}: {key!r}", **{column: key}, **known)

    def _json_list(self, name: str) -> Iterator[tuple[str, Any]]:
        path, listed = self.root / name, self.json(name)
        if not isinstance(listed, list):
            raise EvaluationError(f"{path}: expected a list of rows, found {type(listed).__name__}")
        return ((f"{path}[{number}]", row) for number, row in enumerate(listed))

    def _json_lines(self, name: str) -> Iterator[tuple[str, Any]]:
        # not splitlines(): it also cuts at U+2028 and others that JSON texts may hold
        for number, line in enumerate(self.text(name).split("\n"), start=1):
            if line.strip():
                where = f"{self.root / name}:{number}"
                yield where, read_json(line, where=where)

    def _table(self, name: str) -> Iterator[tuple[str, Any]]:
        path = self.root / name
        csv.field_size_limit(sys.maxsize)  # pictures in base64
        file = io.StringIO(self.text(name), newline="")
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise EvaluationError(f"{where}: has not as many cells as the first line")
                yield where, row
        except csv.Error as error:
            raise EvaluationError(f"{path}:{reader.line_num + 1}: not a table of cells: {error}") from None

    def _parquet(self, name: str) -> Iterator[tuple[str, Any]]:
        import pyarrow
        import pyarrow.parquet as parquet

        path = self.root / name
        try:
            with path.open("rb") as file:
                self.read[name] = hashlib.file_digest(file, "sha256").hexdigest()
            for start, batch in enumerate(parquet.ParquetFile(path).iter_batches(batch_size=1)):
                yield f"{path}[{start}]", batch.to_pylist()[0]
        except FileNotFoundError as error:
            raise EvaluationError(self._missing(str(path))) from error
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise EvaluationError(f"{path}: not a parquet file: {error}") from error


_READERS: dict[str, Callable[[Source, str], Iterator[tuple[str, Any]]]] = {
    ".parquet": Source._parquet,
    ".json": Source._json_list,
    ".jsonl": Source._json_lines,
}
"""By the ending of a file; tables of cells have any other."""

__all__ = ["Source"]
