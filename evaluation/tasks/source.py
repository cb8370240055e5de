"""The files of a benchmark in its publisher's layout, below `DATA_ROOT/NAME`: each read names what is missing."""

import csv
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimoe.files.writing import write_whole
from unimoe.media.naming import shown

from ..errors import EvaluationError, read_json

Row = dict[str, Any]
UNPACKED = "unpacked"
"""Folder for media that a publisher keeps inside of annotation files."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
"""What a row may call a file."""
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


@dataclass
class Source:
    """Reads files below a folder, and remembers which.

    Args:
        name: Of the benchmark.
        root: Its folder.
        help: What is expected there and where to get it; ends the error of a missing file.
        read: Paths of the annotation files that were read, relative to `root` -> SHA-256.
        caches: Folders of libraries, whose absolute paths rows may name too.
        unpacked: Names of media that were written, in small letters -> hash of their content.
    """

    name: str
    root: Path
    help: str
    read: dict[str, str] = field(default_factory=dict)
    caches: tuple[Path, ...] = ()
    unpacked: dict[str, str] = field(default_factory=dict)

    def first(self, *names: str) -> str:
        """The first of these names that is there; patterns such as `*.parquet` too.

        Raises:
            EvaluationError: If none is.
        """
        for name in names:
            for path in sorted(self.root.glob(name)):
                return path.relative_to(self.root).as_posix()
        raise EvaluationError(self._missing(" or ".join(str(self.root / name) for name in names)))

    def all(self, pattern: str) -> list[str]:
        """Names of all files that fit a pattern such as `LibriSpeech/test-clean/*/*/*.trans.txt`; no hidden ones.

        Raises:
            EvaluationError: If there is none.
        """
        there = (path for path in sorted(self.root.glob(pattern)) if not path.name.startswith("."))
        found = [path.relative_to(self.root).as_posix() for path in there]
        if not found:
            raise EvaluationError(self._missing(str(self.root / pattern)))
        return found

    def text(self, name: str) -> str:
        """A whole annotation file.

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
        """A JSON file.

        Raises:
            EvaluationError: If it is missing or damaged, or an object in it has a key twice.
        """
        return read_json(self.text(name), where=str(self.root / name))

    def rows(self, name: str, *, delimiter: str | None = None) -> Iterator[tuple[str, Row]]:
        """Rows of an annotation file with the place of each, by the file's ending: jsonl, json, csv, tsv, parquet.

        Raises:
            EvaluationError: If it is missing or damaged.
        """
        path, ending = self.root / name, Path(name).suffix
        if ending == ".parquet":
            yield from self._parquet(name)
        elif ending == ".json":
            listed = self.json(name)
            if not isinstance(listed, list):
                raise EvaluationError(f"{path}: expected a list of rows, found {type(listed).__name__}")
            yield from ((f"{path}[{number}]", as_row(row, f"{path}[{number}]")) for number, row in enumerate(listed))
        elif ending == ".jsonl":
            yield from self.lines(name)
        else:
            csv.field_size_limit(sys.maxsize)  # pictures in base64
            file = io.StringIO(self.text(name), newline="")
            reader = csv.DictReader(file, delimiter=delimiter or ("\t" if ending == ".tsv" else ","))
            try:
                for row in reader:
                    where = f"{path}:{reader.line_num}"
                    if None in row or None in row.values():
                        raise EvaluationError(f"{where}: has not as many cells as the first line")
                    yield where, row
            except csv.Error as error:
                raise EvaluationError(f"{path}:{reader.line_num + 1}: not a table of cells: {error}") from None

    def lines(self, name: str) -> Iterator[tuple[str, Row]]:
        """Rows of a file with a JSON object a line, whatever its ending, with the place of each.

        Raises:
            EvaluationError: If it is missing or damaged.
        """
        # not splitlines(): it also cuts at U+2028 and others that JSON texts may hold
        for number, line in enumerate(self.text(name).split("\n"), start=1):
            if line.strip():
                where = f"{self.root / name}:{number}"
                yield where, as_row(read_json(line, where=where), where)

    def listed(self, name: str, key: str) -> Iterator[tuple[str, Row]]:
        """Rows of a list in a JSON object, such as `{"questions": [...]}`, with the place of each.

        Raises:
            EvaluationError: If the file is missing or damaged, or has no such list.
        """
        path, content = self.root / name, self.json(name)
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            found = f"keys {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
            raise EvaluationError(f"{path}: expected an object with a list {key!r}, found {found}")
        for number, row in enumerate(rows):
            where = f"{path}: {key}[{number}]"
            yield where, as_row(row, where)

    def keyed(self, name: str) -> Iterator[tuple[str, str, Row]]:
        """Rows of a JSON object of objects, `{"id": {...}}`: the place, id and row of each.

        Raises:
            EvaluationError: If the file is missing or damaged, or an id comes twice.
        """
        path = self.root / name
        content = self.json(name)
        if not isinstance(content, dict):
            raise EvaluationError(f"{path}: expected an object of rows by id, found {type(content).__name__}")
        for key, row in content.items():
            where = f"{path}: {key!r}"
            yield where, key, as_row(row, where)

    def _parquet(self, name: str) -> Iterator[tuple[str, Row]]:
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

    def media(self, where: str, *names: str) -> str:
        """The path of a picture, clip or sound of a row, which is stored under the first of these names that is there.

        Raises:
            EvaluationError: If there is none, or a name leads out of the folder; names the row and the first name.
        """
        for name in names:
            path = self.root / self._within(name, where)
            try:
                if path.is_file():
                    return str(path.resolve())
            except OSError:  # a name that is too long for a file
                continue
        raise EvaluationError(f"{where}: {self._missing(str(self.root / names[0]))}")

    def _within(self, name: str, where: str) -> str:
        """A name that comes from a row, if it stays in the folder; links in the folder are its owner's own.

        Raises:
            EvaluationError: If it is the place of something else.
        """
        absolute = name.startswith(("/", "\\")) or _DRIVE.match(name) is not None
        roots = (self.root.absolute(), self.root.resolve(), *self.caches)
        own = absolute and any(Path(name).is_relative_to(root) for root in roots)
        if "\0" in name or ".." in re.split(r"[/\\]", name) or (absolute and not own):
            raise EvaluationError(
                where,
                f"the path {shown(name)} is none below {self.root}, where media of {self.name} are.",
                "Put the file there, and name it by its place below.",
            )
        return name

    def unpack(self, name: str, content: bytes) -> str:
        """Write a medium that came inside of an annotation file, once, and return its path.

        Args:
            name: With an ending. What cannot be the name of a file, or is that of another medium but for its case, is
                replaced by a hash of the content.
            content: Of the file.

        Raises:
            EvaluationError: If the folder cannot be written to, or is a link to another place.
        """
        digest = hashlib.sha256(content).hexdigest()[:20]
        if not _FILE_NAME.fullmatch(name) or self.unpacked.setdefault(name.casefold(), digest) != digest:
            ending = Path(name.replace("\0", "")).suffix
            name = digest + (ending if _FILE_NAME.fullmatch(f"a{ending}") else "")
        folder = self.root / UNPACKED
        path = folder / name
        try:
            if not folder.resolve().is_relative_to(self.root.resolve()):
                raise EvaluationError(
                    f"{folder} is a link to {folder.resolve()}. Remove it: media are unpacked there."
                )
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                write_whole(path, content)
        except OSError as error:
            raise EvaluationError(
                f"{path} cannot be written ({error.strerror}): media in annotation files of {self.name} are unpacked "
                "beside them. Make the folder writable."
            ) from error
        return str(path.resolve())

    def _missing(self, what: str) -> str:
        return f"{what} is missing.\n{self.help}"


def as_row(value: Any, where: str) -> Row:
    """A value that must be an object of JSON.

    Raises:
        EvaluationError: If it is something else.
    """
    if not isinstance(value, dict):
        raise EvaluationError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def need(row: Row, where: str, *keys: str) -> list[Any]:
    """Values of a row by their keys.

    Raises:
        EvaluationError: If the row lacks one; names it, and what there is.
    """
    if lacking := [key for key in keys if row.get(key) is None]:
        raise EvaluationError(f"{where}: {lacking[0]!r} is missing; the row has {', '.join(map(str, row))}")
    return [row[key] for key in keys]


__all__ = ["UNPACKED", "Row", "Source", "as_row", "need"]
