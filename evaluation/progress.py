"""Progress of a loop: a bar in a terminal, plain lines elsewhere, with the time left."""

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unimoe.errors.visible import visible

Batch = TypeVar("Batch")
_EVERY = 60.0
"""Without a terminal there is a line at each quarter, and at least so often, s."""


def track(batches: Sequence[list[Batch]], description: str, *, console: Console) -> Iterator[list[Batch]]:
    """Yield the batches, showing how many of their rows are done."""
    return _bar(batches, description, console) if console.is_terminal else _lines(batches, description, console)


def _bar(batches: Sequence[list[Batch]], description: str, console: Console) -> Iterator[list[Batch]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task(escape(visible(description)), total=sum(map(len, batches)))
        for batch in batches:
            yield batch
            progress.advance(task, len(batch))


def _lines(batches: Sequence[list[Batch]], description: str, console: Console) -> Iterator[list[Batch]]:
    total, done, said = sum(map(len, batches)), 0, 0
    start = spoke = time.monotonic()
    for batch in batches:
        yield batch
        done += len(batch)
        now = time.monotonic()
        if done == total or 4 * (done - said) >= total or now - spoke >= _EVERY:
            said, spoke = done, now
            left = (now - start) * (total - done) / done
            rest = f", about {left:.0f} s left" if done < total else ""
            console.print(
                f"{description}  {done}/{total} rows  {now - start:.0f} s{rest}", highlight=False, markup=False
            )


__all__ = ["track"]
