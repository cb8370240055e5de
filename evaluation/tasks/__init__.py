"""Tasks: local JSONL files of chat messages whose last assistant turn is the reference answer. Knows no model."""

from .jsonl import read_task, sample_rows
from .sample import Sample
from .shuffle import has_media, shuffle_media

__all__ = ["Sample", "has_media", "read_task", "sample_rows", "shuffle_media"]
