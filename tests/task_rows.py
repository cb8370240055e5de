"""Rows of evaluation tasks for tests: one picture, one question, one answer."""

import json
from pathlib import Path
from typing import Any


def colour_row(index: int, colour: str, question: str = "what colour is it?") -> dict[str, Any]:
    content = [{"type": "image", "path": f"media/{colour}_{index % 2}.png"}, {"type": "text", "text": question}]
    return {
        "id": f"row{index}",
        "task": "colour",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": colour}],
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
