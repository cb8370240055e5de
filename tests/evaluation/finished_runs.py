"""Output folders of evaluations for tests, written by hand: rows, answers, and the results.json that fits them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from task_rows import write_rows

from evaluation.config import EvaluationConfig
from evaluation.fingerprint import file_hash

ROWS = 200


def write_task(folder: Path, rows: int = ROWS, *, cluster: int = 1) -> Path:
    """A task whose answer is always `yes`, with so many rows to a cluster."""
    folder.mkdir(parents=True, exist_ok=True)
    turns = [{"role": "user", "content": "is it?"}, {"role": "assistant", "content": "yes"}]
    lines = [{"id": f"r{row}", "messages": turns, "cluster": str(row // cluster)} for row in range(rows)]
    return write_rows(folder / "t.jsonl", lines)


def write_run(folder: Path, data: Path, right: Sequence[bool], **changes: Any) -> Path:
    """The output of an evaluation that was right in these rows; `changes` replace values of its one task `t`."""
    config = EvaluationConfig.model_validate(
        {"output": str(folder), "data_root": str(data.parent), "tasks": {"t": {"data": data.name}}}
    )
    task = {"metric": "exact_match", "value": sum(right) / len(right), "n": len(right), "data_hash": file_hash(data)}
    results: Mapping[str, Any] = {
        "tasks": {"t": {**task, "prompt": "is it?", "decoding": {"do_sample": False}, **changes}},
        "config": config.model_dump(mode="json"),
    }
    (folder / "predictions").mkdir(parents=True)
    answers = [{"id": f"r{row}", "prediction": "yes" if hit else "no"} for row, hit in enumerate(right)]
    write_rows(folder / "predictions" / "t.jsonl", [{"header": {}}, *answers])
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def first_right(share: float, rows: int = ROWS) -> list[bool]:
    return [row < share * rows for row in range(rows)]
