"""predictions.jsonl: a header that says what was asked of which model, then one line for each answered row.

Kept apart from scores, so that a metric can be changed without generating again, and a stopped run goes on. Several
processes write a file each while they answer, NAME.jsonl and NAME.part-N.jsonl; in the end there is one, in the order
of the rows.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .errors import EvaluationError
from .processes import rank, wait
from .tasks import Sample

Header = dict[str, Any]


def open_predictions(path: Path, header: Header, *, overwrite: bool = False) -> dict[str, str]:
    """Start a predictions file, or go on with one that was made with the same header; all processes must call this.

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
    if rank() == 0:
        for file in _files(path) if overwrite else ():
            file.unlink()
    wait()
    found: dict[str, str] = {}
    for file in _files(path):
        found |= _read(file, header, repair=file == _own(path))
    wait()  # nobody writes before all have read
    if not _own(path).is_file():
        _own(path).write_text(_line({"header": header}), encoding="utf-8")
    return found


def append_predictions(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows that this process has answered."""
    with _own(path).open("a", encoding="utf-8") as file:
        file.writelines(_line(row) for row in rows)


def close_predictions(path: Path, header: Header, samples: Sequence[Sample]) -> list[str]:
    """Put what all processes have answered into one file, in the order of the rows; all must call this.

    Returns:
        Predictions in that order.
    """
    wait()
    found: dict[str, str] = {}
    for file in _files(path):
        found |= _read(file, header)
    wait()
    if rank() == 0:
        lines: list[dict[str, Any]] = [{"header": header}]
        lines += ({"id": row.id, "prediction": found[row.id], "reference": row.reference} for row in samples)
        partial = path.with_suffix(".jsonl.partial")
        partial.write_text("".join(map(_line, lines)), encoding="utf-8")
        partial.replace(path)
        for file in _files(path):
            if file != path:
                file.unlink()
    wait()
    return [found[sample.id] for sample in samples]


def read_predictions(path: Path) -> dict[str, str]:
    """Read recorded predictions by row id: lines `{"id", "prediction"}`, perhaps after a header.

    Raises:
        EvaluationError: If there is no such file, a line is no prediction, or a row is answered twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvaluationError(f"{path}: predictions cannot be read ({error.strerror})") from error
    found: dict[str, str] = {}
    for number, text in enumerate(lines, start=1):
        line = _parse(text, f"{path}:{number}")
        if "header" in line:
            continue
        key, prediction = line.get("id"), line.get("prediction")
        if key is None or not isinstance(prediction, str):
            raise EvaluationError(f"{path}:{number}: expected 'id' and 'prediction', a text; found {', '.join(line)}")
        if str(key) in found:
            raise EvaluationError(f"{path}:{number}: row {str(key)!r} is answered a second time. Remove one of them.")
        found[str(key)] = prediction
    return found


def match_predictions(path: Path, samples: Sequence[Sample]) -> list[str]:
    """Recorded predictions for the rows of a task, in their order.

    Raises:
        EvaluationError: If a row has none, or there are some for other rows.
    """
    found = read_predictions(path)
    rows = {sample.id for sample in samples}
    for wrong, what in (
        (sorted(rows - found.keys()), "no prediction for"),
        (sorted(found.keys() - rows), "a prediction for"),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            end = "" if what.startswith("no") else ", which the task does not have"
            raise EvaluationError(f"{path}: {what} row {wrong[0]!r}{more}{end}. The task has {len(rows)} rows.")
    return [found[sample.id] for sample in samples]


def _own(path: Path) -> Path:
    """Where this process writes."""
    return path if rank() == 0 else path.with_name(f"{path.stem}.part-{rank()}.jsonl")


def _files(path: Path) -> list[Path]:
    """What all processes have written, of an earlier run with more of them too."""
    return [file for file in (path, *sorted(path.parent.glob(f"{path.stem}.part-*.jsonl"))) if file.is_file()]


def _read(path: Path, header: Header, *, repair: bool = False) -> dict[str, str]:
    """Predictions of a file that was made with a header; a cut-off last line does not count, and is cut off."""
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if repair and len(whole) < len(text):
        path.write_bytes(whole)
    lines = [
        _parse(line, f"{path}:{n}", ". Add --overwrite to replace it.")
        for n, line in enumerate(whole.decode().splitlines(), 1)
    ]
    found = lines[0].get("header") if lines else None
    if found != json.loads(json.dumps(header)):
        raise EvaluationError(
            f"{path} holds predictions of another run ({_difference(found, header)}). "
            "Add --overwrite to replace them, or choose another --output."
        )
    return {line["id"]: line["prediction"] for line in lines[1:]}


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parse(text: str, where: str, cure: str = "") -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: damaged ({error.msg}){cure}") from error
    if not isinstance(line, dict):
        raise EvaluationError(f"{where}: expected an object{cure}")
    return line


def _difference(found: Any, header: Header) -> str:
    if not isinstance(found, dict):
        return "it has no header"
    names = [key for key in sorted({*found, *header}) if found.get(key) != json.loads(json.dumps(header.get(key)))]
    return f"different: {', '.join(names)}"


__all__ = [
    "Header",
    "append_predictions",
    "close_predictions",
    "match_predictions",
    "open_predictions",
    "read_predictions",
]
