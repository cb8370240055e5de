"""Which row comes when: the order of a mixture as pure functions of its seed.

A mixture of files has passes: one permutation of all rows, each as often as its file's weight says. A mixture with a
stream has no end: every row is drawn from a file or stream by its share, files are shuffled anew for each pass over
them, streams within a buffer.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

import torch

from ..readers.sources import RowStream
from ..schema import DataError, Row
from .augment import sample_generator
from .fitting import Cut

_SHARES, _LAPS = 1, 2
_DRAWN_AT_ONCE = 1024


class Streamed(NamedTuple):
    """A row that came from a stream, which cannot be asked for it again, and the number of its source."""

    source: int
    row: Row


class SampleIndex(NamedTuple):
    """Which row to take, and where in the training: the key of a sample.

    Args:
        epoch: Pass over the mixture; 0 in a mixture with streams.
        position: Number of the row within the pass.
        row: Number of the row in the mixture; -1 if it is `streamed`.
        streamed: The row itself.
        cut: What is kept of a row that is too long. None: all.
    """

    epoch: int
    position: int
    row: int
    streamed: Streamed | None = None
    cut: Cut | None = None


def pass_order(sizes: Sequence[int], weights: Sequence[float], *, seed: int, epoch: int) -> list[int]:
    """Row numbers in the order in which one pass shows them.

    Args:
        sizes: Rows of each source; they are numbered one source after the other.
        weights: How often each source is shown; a fraction is a random part of it, drawn anew for each pass.
        seed: Of the order.
        epoch: Number of the pass, from 0.
    """
    generator = sample_generator(seed, epoch)
    chosen, first = [], 0
    for size, weight in zip(sizes, weights, strict=True):
        rows = torch.arange(first, first + size)
        part = rows[torch.randperm(size, generator=generator)[: fractional_rows(size, weight)]]
        chosen += [rows.repeat(int(weight)), part]
        first += size
    together = torch.cat(chosen)
    return together[torch.randperm(len(together), generator=generator)].tolist()


def fractional_rows(size: int, weight: float) -> int:
    """Rows that the fraction in a source's weight adds to a pass."""
    return round((weight - int(weight)) * size)


def endless_order(
    sources: Sequence[int | RowStream], weights: Sequence[float], *, seed: int, buffer: int
) -> Iterator[SampleIndex]:
    """Sample indices of a mixture with streams; it does not end.

    Args:
        sources: Each a number of rows that can be read at random, or a stream.
        weights: Shares of the sources, in any unit.
        seed: What the order follows from.
        buffer: Rows of a stream among which the next one is drawn.

    Raises:
        DataError: If a stream has no rows.
    """
    flows: list[Iterator[int | Row]] = []
    first = 0
    for number, source in enumerate(sources):
        if isinstance(source, int):
            flows.append(_laps(first, source, seed, number))
            first += source
        else:
            flows.append(_stream_laps(source, seed, number, buffer))
    for position, number in enumerate(_draws(weights, seed)):
        drawn = next(flows[number])
        if isinstance(drawn, int):
            yield SampleIndex(0, position, drawn)
        else:
            yield SampleIndex(0, position, -1, Streamed(number, drawn))


def _draws(weights: Sequence[float], seed: int) -> Iterator[int]:
    """Numbers of sources, each drawn by its weight."""
    shares = torch.tensor(weights, dtype=torch.double)
    generator = sample_generator(seed, 0, _SHARES)
    while True:
        yield from torch.multinomial(shares, _DRAWN_AT_ONCE, replacement=True, generator=generator).tolist()


def _laps(first: int, size: int, seed: int, source: int) -> Iterator[int]:
    """All rows of a source again and again, each time in another order."""
    for lap in count():
        yield from (first + torch.randperm(size, generator=sample_generator(seed, lap, _LAPS, source))).tolist()


def _stream_laps(stream: RowStream, seed: int, source: int, buffer: int) -> Iterator[Row]:
    """Repeat a stream again and again, each time shuffled otherwise."""
    for lap in count():
        rows = 0
        for row in shuffled(stream, buffer=buffer, generator=sample_generator(seed, lap, _LAPS, source)):
            rows += 1
            yield row
        if not rows:
            raise DataError(f"{stream.path}: the stream has no rows. Leave it out of the mixture.")


def shuffled(rows: Iterable[Row], *, buffer: int, generator: torch.Generator) -> Iterator[Row]:
    """Shuffle rows within a buffer: each comes at random out of the next `buffer` that have not come."""
    held: list[Row] = []
    for row in rows:
        if len(held) < buffer:
            held.append(row)
            continue
        index = int(torch.randint(buffer, (), generator=generator))
        yield held[index]
        held[index] = row
    yield from (held[index] for index in torch.randperm(len(held), generator=generator).tolist())


__all__ = ["SampleIndex", "Streamed", "endless_order", "fractional_rows", "pass_order", "shuffled"]
