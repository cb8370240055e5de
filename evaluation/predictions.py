"""predictions.jsonl: a header that says what was asked of which model, then one line for each answered row.

Kept apart from scores, so that a metric can be changed without generating again, and a stopped run goes on. Several
processes write a file each while they answer, NAME.jsonl and NAME.part-N.jsonl; in the end there is one, in the order
of the rows.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unimoe.files.writing import write_whole

from .errors import EvaluationError, read_json
from .processes import rank, wait
from .tasks import Sample

Header = dict[str, Any]
_OVERWRITE = "Add --overwrite to replace them, or choose another --output."


def open_predictions(path: Path, header: Header, *, overwrite: bool = False) -> dict[str, str]:
    """Start a predictions file, or go on with one that was made with the same header; all processes must call this.

    Args:
        path: The file; its folder is created.
        header: Everything that the answers depend on; values must be JSON.
        overwrite: Start anew, whatever is there.

    Returns:
        Predictions that are already there, by row id.

    Raises:
        EvaluationError: If the file was made with another header; names what differs and the cure.
    """
    if rank() == 0:
        for file in _files(path) if overwrite else ():
            file.unlink()
    wait()
    found: dict[str, str] = {}
    for file in _files(path):
        found |= _read(file, header)
    wait()  # nobody writes before all have read
    return found | resume_file(_own(path), header)


def resume_file(path: Path, header: Header, *, overwrite: bool = False, cure: str = _OVERWRITE) -> dict[str, str]:
    """Start a file that this process alone writes, or go on with it, see `open_predictions`.

    A last line that was cut off by a kill is removed. `cure` ends what is said of a file of another header.
    """
    if overwrite or not path.is_file():
        write_whole(path, _line({"header": header}))
    found = _read(path, header, cure=cure)
    os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    return found


def append_predictions(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows that this process has answered."""
    with _own(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
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
        write_whole(path, "".join(map(_line, lines)))
        for file in _files(path):
            if file != path:
                file.unlink()
    wait()
    return [found[sample.id] for sample in samples]


def read_predictions(path: Path, data_hash: str | None = None) -> dict[str, str]:
    """Read predictions by row id: lines `{"id", "prediction"}`, perhaps after a header.

    Args:
        path: The file.
        data_hash: Of the rows that are to be scored. None: it is not compared with that of a header.

    Raises:
        EvaluationError: If there is no such file, a line is no prediction, a row is answered twice, or the header
            names other data.
    """
    try:
        lines = _lines(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationError(f"{path}: predictions cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: predictions cannot be read: not UTF-8 ({error})") from error
    found: dict[str, str] = {}
    for number, text in lines:
        line = _parse(text, f"{path}:{number}")
        if "header" in line:
            _refuse_other_data(line["header"], data_hash, path)
            continue
        key, prediction = line.get("id"), line.get("prediction")
        if key is None or not isinstance(prediction, str):
            raise EvaluationError(f"{path}:{number}: expected 'id' and 'prediction', a text; found {', '.join(line)}")
        if str(key) in found:
            raise EvaluationError(f"{path}:{number}: row {str(key)!r} is answered a second time. Remove one of them.")
        found[str(key)] = prediction
    return found


def _refuse_other_data(header: Any, data_hash: str | None, path: Path) -> None:
    answered = header.get("data") if isinstance(header, dict) else None
    if answered is not None and data_hash is not None and answered != data_hash:
        raise EvaluationError(
            f"{path} answers other data than those of the task (SHA-256 {str(answered)[:12]} then, {data_hash[:12]} "
            "now). Restore them, or let the model answer again."
        )


def match_predictions(path: Path, samples: Sequence[Sample], data_hash: str | None = None) -> list[str]:
    """Read the predictions for the rows of a task, in their order; see `read_predictions`.

    Raises:
        EvaluationError: If a row has none, or there are some for other rows.
    """
    found = read_predictions(path, data_hash)
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
    """Name the file that this process writes."""
    return path if rank() == 0 else path.with_name(f"{path.stem}.part-{rank()}.jsonl")


def _files(path: Path) -> list[Path]:
    """Find what all processes have written, of an earlier run with more of them too."""
    return [file for file in (path, *sorted(path.parent.glob(f"{path.stem}.part-*.jsonl"))) if file.is_file()]


def _read(path: Path, header: Header, cure: str = _OVERWRITE) -> dict[str, str]:
    """Read the predictions of a file that was made with a header; a cut-off last line does not count."""
    text = path.read_bytes()
    try:
        whole = text[: text.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: damaged ({error}). {cure}") from None
    lines = [_parse(line, f"{path}:{number}", f". {cure}") for number, line in _lines(whole)]
    found = lines[0].get("header") if lines else None
    if found != json.loads(json.dumps(header)):
        raise EvaluationError(f"{path} holds answers of another run ({_difference(found, header)}). {cure}")
    if any(not isinstance(line.get(key), str) for line in lines[1:] for key in ("id", "prediction")):
        raise EvaluationError(f"{path}: damaged (a line without 'id' or 'prediction'). {cure}")
    return {line["id"]: line["prediction"] for line in lines[1:]}


def _lines(text: str) -> list[tuple[int, str]]:
    """Enumerate the lines; `str.splitlines` would also cut answers at their U+2028, U+2029 and U+0085."""
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parse(text: str, where: str, cure: str = "") -> dict[str, Any]:
    try:
        line = read_json(text, where=where)
    except EvaluationError as error:
        raise EvaluationError(f"{where}: damaged ({error.problem}){cure}", key=error.key) from None
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
    "resume_file",
]
