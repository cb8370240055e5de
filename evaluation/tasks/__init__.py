"""Tasks: local JSONL files of chat messages whose last turn is the reference answer, and published benchmarks.

Knows no model.
"""

from . import sound, video
from .benchmark import Average, Benchmark, Hub
from .jsonl import read_task, sample_rows
from .sample import Sample, ask
from .shuffle import has_media, shuffle_media

_ALL = [
    *sound.BENCHMARKS,
    *video.BENCHMARKS,
]
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""Name -> published benchmark."""

__all__ = [
    "BENCHMARKS",
    "Average",
    "Benchmark",
    "Hub",
    "Sample",
    "ask",
    "has_media",
    "read_task",
    "sample_rows",
    "shuffle_media",
]
