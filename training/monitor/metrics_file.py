"""Reads `metrics.jsonl`, the file of a stage's logs: one JSON object for each, with its step."""

import json
from pathlib import Path
from typing import Any

from unimoe.errors import ConfigError

METRICS_FILE = "metrics.jsonl"
_CURE = "Take this line out of the file."


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the logs of a stage; none if there is no file. A last line that was cut off, by a kill or a loss of power,
    is left out.

    Raises:
        ConfigError: If the file cannot be read, or another line is damaged; it is named.
    """
    try:
        raw = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror}).", "Correct its rights, or remove it."
        ) from None
    *whole, last = raw.split(b"\n")
    logs = [_parse(line) for line in whole]
    for number, log in enumerate(logs, start=1):
        if log is None:
            raise ConfigError(f"{path}:{number}", "is damaged.", _CURE)
    if (log := _parse(last)) is None and last.strip(b"\0") and not last.startswith(b"{"):
        raise ConfigError(f"{path}:{len(whole) + 1}", "is damaged.", _CURE)
    return [log for log in (*logs, log) if log is not None]


def _parse(line: bytes) -> dict[str, Any] | None:
    """Parse a log; None of what is none. Losses may be NaN, which is no JSON."""
    try:
        log = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return log if isinstance(log, dict) and type(log.get("step")) is int else None


__all__ = ["METRICS_FILE", "read_metrics"]
