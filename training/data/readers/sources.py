"""Where rows come from: a file or table that is read at random, or a stream that is read in order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from unimoe.errors import DataError
from unimoe.errors.suggest import did_you_mean
from unimoe.files.json_lines import read_lines
from unimoe.files.json_rows import check_first

from ...config.data import SourceConfig
from ..formats import RowForm, parse_row
from ..media_digest import MediaDigest
from ..rows import Faults, Row
from .json_files import BAD, JsonFile, check_exists, has_lines, parse_line
from .tables import Table, is_table, stream_table


class Rows(Sequence[Row]):
    """Rows of one source by number, each parsed when it is asked for.

    Args:
        config: The source. Its rows are not looked at before they are asked for; see `check`, which also counts
            modalities in `kinds` and takes notice of media in `media`.

    Raises:
        DataError: If there is no such file or table, or it has no rows.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = config.path
        self.root = media_root(config)
        self.form = row_form(config)
        self.media = MediaDigest(self.root)
        self.kinds: Counter[str] = Counter()
        self.file: JsonFile | Table = Table(config) if is_table(config.path) else JsonFile(config.path)
        if isinstance(self.file, Table):
            check_columns(self.path, self.form, self.file.columns)
        if not len(self.file) and self.broken is None:
            raise DataError(self.path, "the file has no rows.", "Leave it out of the mixture.")

    @property
    def broken(self) -> DataError | None:
        """What makes the rest of the file unreadable, behind the rows that there are."""
        return self.file.broken if isinstance(self.file, JsonFile) else None

    def __len__(self) -> int:
        return len(self.file)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} rows, there is no row {index}.")
        row, _ = self.read(index % len(self), Faults(self.file.where(index % len(self))))
        assert row is not None
        return row

    def read(self, number: int, faults: Faults) -> tuple[Row | None, Any]:
        """Return a row, and the values that it was made of; where faults are kept, what of the row is without one.

        Raises:
            DataError: If there is a fault, unless faults are kept.
        """
        values = self.file.values(number) if isinstance(self.file, Table) else self.file.values(number, faults)
        if values is BAD:
            return None, None
        return parse_row(values, where=faults.where, root=self.root, form=self.form, faults=faults), values

    def where(self, number: int) -> str:
        """File and place of a row, for people."""
        return self.file.where(number)

    def check(self) -> None:
        """Read all rows once, and take notice of their media.

        Raises:
            DataError: At the first fault.
        """
        seen: set[str] = set()
        for number in range(len(self)):
            row, values = self.read(number, Faults(self.where(number)))
            assert row is not None
            self.media.add(row)
            self.kinds.update(row.kinds)
            seen.update(values)
        if self.broken is not None:
            raise self.broken
        check_columns(self.path, self.form, sorted(seen))


class RowStream:
    """Rows of a source in their order; each iteration begins anew, and nothing is read ahead.

    Raises:
        DataError: If there is no such file.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.config = config
        self.path = config.path
        if not is_table(config.path):
            check_exists(config.path)

    def __iter__(self) -> Iterator[Row]:
        root, form = media_root(self.config), row_form(self.config)
        for where, values in self._values():
            row = parse_row(values, where=where, root=root, form=form)
            assert row is not None
            yield row

    def _values(self) -> Iterator[tuple[str, Any]]:
        if is_table(self.path):
            for number, (where, values) in enumerate(stream_table(self.config)):
                if number == 0:
                    check_columns(self.path, row_form(self.config), list(values))
                yield where, values
        elif not has_lines(self.path):  # one value, which has no first part
            file = JsonFile(self.path)
            for number in range(len(file)):
                yield file.where(number), file.values(number, Faults(file.where(number)))
            if file.broken is not None:
                raise file.broken
        else:
            for _, number, line in read_lines(self.path):
                if number == 1:
                    check_first(line, self.path, is_line=True)
                where = f"{self.path}:{number}"
                yield where, parse_line(line, Faults(where))


def media_root(config: SourceConfig) -> Path:
    """Folder that relative media paths of a source start from: the data file's own, if none is given."""
    if config.media_root is not None:
        return Path(config.media_root)
    path = Path(config.path)
    return path if path.is_dir() else path.parent if path.exists() or not is_table(config.path) else Path()


def row_form(config: SourceConfig) -> RowForm:
    """Describe a source by its rows."""
    return RowForm(None if config.format == "auto" else config.format, config.columns)


def check_columns(path: str, form: RowForm, names: Sequence[str]) -> None:
    """Refuse columns that are mapped and do not exist.

    Args:
        path: The source.
        form: What is said of its rows.
        names: Columns that exist.

    Raises:
        DataError: If one does not.
    """
    for name in form.columns:
        if name not in names:
            cure = did_you_mean(name, names).strip()
            raise DataError(path, f"no row has the column {name!r}.", cure, key=f"columns.{name}")


def open_source(config: SourceConfig) -> Rows:
    """Open a source for access at random; every row is checked.

    Raises:
        DataError: If a row does not fit.
    """
    rows = Rows(config)
    rows.check()
    return rows


def open_stream(config: SourceConfig) -> RowStream:
    """Open a source that is read in order.

    Raises:
        DataError: If there is no such source.
    """
    return RowStream(config)


__all__ = ["RowStream", "Rows", "open_source", "open_stream"]
