"""Measure peers fairly: interleaved round by round, so that whatever else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Peers that do the same work, or work whose sizes are to be compared.

    Args:
        name: What is measured.
        peers: Name -> what runs; the first is what the others are divided by.
        facts: Name of a peer -> what was counted of it, e.g. FLOPs.
    """

    name: str
    peers: dict[str, Callable[[], Any]]
    facts: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Measurement:
    """Times of one peer in one case.

    Args:
        median, low, high: Median and quartiles of the rounds, in seconds.
        ratio: Median of the peer's time over the first peer's, round by round.
        facts: What was counted.
    """

    case: str
    peer: str
    median: float
    low: float
    high: float
    ratio: float
    facts: dict[str, float]

    def as_row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(case: Case, *, rounds: int, warm_up: int = 2) -> list[Measurement]:
    """Time the peers of a case in turn, `rounds` times each.

    Args:
        case: What to measure.
        rounds: Of which the median is taken; at least 3.
        warm_up: Rounds before, which do not count.

    Raises:
        ValueError: If there are fewer than 3 rounds.
    """
    if rounds < 3:
        raise ValueError(f"rounds is {rounds}; a median with quartiles needs at least 3.")
    times: dict[str, list[float]] = {name: [] for name in case.peers}
    for number in range(warm_up + rounds):
        for name, run in case.peers.items():
            started = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(time.perf_counter() - started)
    first = next(iter(times.values()))
    return [
        Measurement(
            case=case.name,
            peer=name,
            median=statistics.median(own),
            low=statistics.quantiles(own)[0],
            high=statistics.quantiles(own)[2],
            ratio=statistics.median(mine / theirs for mine, theirs in zip(own, first, strict=True)),
            facts=case.facts.get(name, {}),
        )
        for name, own in times.items()
    ]


__all__ = ["Case", "Measurement", "measure"]
