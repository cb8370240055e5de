"""How rows share batches: packed whole into a number of tokens, grouped by length, and shared out among processes.

Pure functions and generators; a row here is anything, with its length beside it.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from typing import TypeVar

import torch

T = TypeVar("T")


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack things of these lengths, the longest first, each into the first bin that has room for it.

    Johnson 1973, Near-optimal bin packing algorithms; it needs at most 11/9 of the fewest bins and 6/9 of a bin more
    (Dosa 2007).

    Args:
        lengths: Of each thing.
        capacity: Of a bin.

    Returns:
        Bins with the indices of what is in them, rising.

    Raises:
        ValueError: If a thing is longer than a bin.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(
                f"A length of {length} does not fit into {capacity}. Raise the capacity, or leave it out."
            )
        fitting = next((number for number, left in enumerate(room) if left >= length), None)
        if fitting is None:
            bins.append([index])
            room.append(capacity - length)
        else:
            bins[fitting].append(index)
            room[fitting] -= length
    return [sorted(held) for held in bins]


def chunk(things: Iterable[T], size: int, *, key: Callable[[T], Hashable] | None = None) -> Iterator[list[T]]:
    """Cut a flow into lists of `size`; the last ones may be shorter. With a key, a list holds things of one key."""
    waiting: dict[Hashable, list[T]] = {}
    for thing in things:
        held = waiting.setdefault(key(thing) if key else None, [])
        held.append(thing)
        if len(held) == size:
            yield list(held)
            held.clear()
    yield from (held for held in waiting.values() if held)


def packs(
    rows: Iterable[tuple[T, int]], *, capacity: int, buffer: int, seeds: Iterator[torch.Generator]
) -> Iterator[list[T]]:
    """Pack rows whole, those of a buffer together; a buffer's packs come in random order, full and less full mixed.

    Args:
        rows: Rows with their tokens.
        capacity: Tokens of a pack.
        buffer: Rows that are packed together.
        seeds: A source of chance for each buffer.
    """
    for held in chunk(rows, buffer):
        bins = first_fit_decreasing([length for _, length in held], capacity)
        yield from shuffle([[held[index][0] for index in indices] for indices in bins], next(seeds))


def groups(
    rows: Iterable[tuple[T, int]], *, size: int, buffer: int, seeds: Iterator[torch.Generator]
) -> Iterator[list[T]]:
    """Put rows of like length together, `size` at a time; a buffer's groups come in random order.

    Args:
        rows: Rows with their tokens.
        size: Rows of a group.
        buffer: Rows that are sorted together; at least `size`.
        seeds: A source of chance for each buffer.
    """
    buffer = max(buffer // size, 1) * size  # only the very last group may be short
    for held in chunk(rows, buffer):
        ordered = sorted(held, key=lambda row: -row[1])
        yield from shuffle(list(chunk((row for row, _ in ordered), size)), next(seeds))


def shuffle(things: Sequence[T], generator: torch.Generator) -> list[T]:
    """Return the same things in random order."""
    return [things[index] for index in torch.randperm(len(things), generator=generator).tolist()]


def share_out(things: Sequence[T], processes: int) -> list[list[T]]:
    """Share things out among processes, as evenly as can be; if there are fewer, some are given more than once.

    A process without any would leave the others waiting for it.
    """
    if len(things) < processes:
        things = list(islice(cycle(things), processes))
    return [list(things[process::processes]) for process in range(processes)]


__all__ = ["chunk", "first_fit_decreasing", "groups", "packs", "share_out", "shuffle"]
