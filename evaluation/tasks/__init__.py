"""Tasks: local JSONL files of chat messages whose last assistant turn is the reference answer. Knows no model."""

from .benchmark import Average, Benchmark, Hub, Judge
from .jsonl import read_task, sample_rows
from .sample import Sample, ask
from .shuffle import has_media, shuffle_media

__all__ = [
    "Average",
    "Benchmark",
    "Hub",
    "Judge",
    "Sample",
    "ask",
    "has_media",
    "read_task",
    "sample_rows",
    "shuffle_media",
]
