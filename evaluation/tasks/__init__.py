"""Tasks: local JSONL files of chat messages whose last turn is the reference answer, and published benchmarks.

Knows no model.
"""

from . import image, sound, video
from .benchmark import Average, Benchmark, Hub, Judge
from .hub import read_hub
from .jsonl import read_task, sample_rows
from .sample import Message, Sample, ask
from .shuffle import has_media, shuffle_media

_ALL = [
    *image.BENCHMARKS,
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
    "Judge",
    "Message",
    "Sample",
    "ask",
    "has_media",
    "read_hub",
    "read_task",
    "sample_rows",
    "shuffle_media",
]
