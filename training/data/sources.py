"""Where rows come from: a file that is read at random, or a stream that is read in order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config_data import SourceConfig
from .schema import DataError, Row, _objects, parse_row, read_rows


class RowStream:
    """Rows of a .jsonl file in their order; each iteration begins anew, and nothing is read ahead."""

    def __init__(self, config: SourceConfig) -> None:
        self.path = config.path
        self.root = Path(config.media_root) if config.media_root is not None else Path(config.path).parent
        if not Path(self.path).is_file():
            raise DataError(f"There is no data file {self.path!r}. Correct its path in the mixture.")

    def __iter__(self) -> Iterator[Row]:
        for where, values in _objects(Path(self.path)):
            yield parse_row(values, where=where, root=self.root)


def open_source(config: SourceConfig) -> Sequence[Row]:
    """Open a source for access at random; every row is checked.

    Raises:
        DataError: If a row does not fit.
    """
    return read_rows(config.path, media_root=config.media_root)


def open_stream(config: SourceConfig) -> RowStream:
    """Open a source that is read in order.

    Raises:
        DataError: If there is no such source.
    """
    return RowStream(config)


__all__ = ["RowStream", "open_source", "open_stream"]
