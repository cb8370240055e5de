"""What the readers of image benchmarks share: texts, annotators' answers and pictures of rows, checked."""

import hashlib
from collections import Counter
from typing import Any

from ...errors import EvaluationError
from ..sample import Message
from ..source import Row, Source, need

ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
"""First bytes of a picture -> ending of its file."""


def text(row: Row, where: str, key: str) -> str:
    """A text of a row.

    Raises:
        EvaluationError: If it is missing, empty or no text; names the row.
    """
    (value,) = need(row, where, key)
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(f"{where}: {key!r} must be a text, found {value!r}")
    return value.strip()


def whole(row: Row, where: str, key: str) -> int:
    """A whole number of a row, such as the id of a picture of COCO.

    Raises:
        EvaluationError: If it is missing or no whole number; names the row.
    """
    (value,) = need(row, where, key)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: {key!r} must be a whole number, found {value!r}") from error


def texts(row: Row, where: str, key: str) -> list[str]:
    """A list of texts of a row.

    Raises:
        EvaluationError: If it is missing, empty or something else; names the row.
    """
    (listed,) = need(row, where, key)
    if not isinstance(listed, list) or not listed or not all(isinstance(item, str) for item in listed):
        raise EvaluationError(f"{where}: {key!r} must be a list of texts, found {listed!r}")
    return listed


def annotators(row: Row, where: str, key: str = "answers") -> tuple[str, ...]:
    """Answers of the annotators, each a text or `{"answer": text}`.

    Raises:
        EvaluationError: If the list is missing or not as expected; names the row.
    """
    (listed,) = need(row, where, key)
    given = listed if isinstance(listed, list) else []
    answers = [item.get("answer") if isinstance(item, dict) else item for item in given]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise EvaluationError(f"{where}: {key!r} must list the annotators' answers, found {listed!r}")
    return tuple(map(str, answers))


def consensus(answers: tuple[str, ...]) -> str:
    """The answer of most annotators; of equally frequent ones the first."""
    return Counter(answers).most_common(1)[0][0]


def picture(source: Source, name: str, where: str) -> Message:
    """A picture in a file of its own.

    Raises:
        EvaluationError: If the file is missing; names the row.
    """
    return {"type": "image", "path": source.media(name, where)}


def embedded(source: Source, content: bytes) -> Message:
    """A picture that came inside of a row, written to a file named by its content: equal pictures are one file."""
    ending = next((ending for start, ending in ENDINGS.items() if content.startswith(start)), ".picture")
    name = hashlib.sha256(content).hexdigest()[:20] + ending
    return {"type": "image", "path": source.unpack(name, content)}


def column(source: Source, row: Row, where: str, key: str = "image") -> Message:
    """A picture in a column of the Hub's kind, `{"bytes": ..., "path": ...}`; without bytes, the file at its path.

    Raises:
        EvaluationError: If there is none; names the row.
    """
    value: Any = row.get(key)
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    if isinstance(content, bytes):
        return embedded(source, content)
    if isinstance(path, str):
        return picture(source, path, where)
    raise EvaluationError(
        f"{where}: no picture in {key!r}. Expected {{'bytes': ..., 'path': ...}}, as datasets.Image(decode=False) "
        "gives it."
    )


__all__ = ["annotators", "column", "consensus", "embedded", "picture", "text", "texts", "whole"]
