"""predictions.jsonl: a header that says what was asked of which model, then one line for each answered row.

Kept apart from scores, so that a metric can be changed without generating again, and a stopped run goes on.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import EvaluationError

Header = dict[str, Any]


def open_predictions(path: Path, header: Header, *, overwrite: bool = False) -> dict[str, str]:
    """Start a predictions file, or go on with one that was made with the same header.

    A last line that was cut off by a kill is removed.

    Args:
        path: The file; its folder is created.
        header: Everything that the answers depend on; values must be JSON.
        overwrite: Start anew, whatever is there.

    Returns:
        Predictions that are already there, by row id.

    Raises:
        EvaluationError: If the file was made with another header; names what differs and the cure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite or not path.is_file():
        path.write_text(_line({"header": header}), encoding="utf-8")
        return {}
    lines = _complete_lines(path)
    found = lines[0].get("header") if lines else None
    if found != json.loads(json.dumps(header)):
        raise EvaluationError(
            f"{path} holds predictions of another run ({_difference(found, header)}). "
            "Add --overwrite to replace them, or choose another --output."
        )
    return {line["id"]: line["prediction"] for line in lines[1:]}


def read_predictions(path: Path) -> dict[str, str]:
    """Read the predictions of a finished run, by row id.

    Raises:
        EvaluationError: If there is no such file, or it is damaged.
    """
    try:
        _, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {line["id"]: line["prediction"] for line in lines}
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror}). Run its evaluation again.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path}: damaged ({error}). Run its evaluation again with --overwrite.") from error


def append_predictions(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add answered rows to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of the file; an unfinished last line is cut off the file too."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        path.write_bytes(whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path}: damaged ({error.msg}). Add --overwrite to replace it.") from error


def _difference(found: Any, header: Header) -> str:
    if not isinstance(found, dict):
        return "it has no header"
    names = [key for key in sorted({*found, *header}) if found.get(key) != json.loads(json.dumps(header.get(key)))]
    return f"different: {', '.join(names)}"


__all__ = ["Header", "append_predictions", "open_predictions", "read_predictions"]
