"""Reading of tasks: `{"id", "messages": [...]}` a line, or a list of these; errors name file and line or row.

Media paths are relative to the data file. The last assistant turn of a row is its reference answer; of a multiple
choice, the letter of the right option, or its text. A row may carry the other fields of `Sample`: `answers` (list of
texts), `choices` (list of texts), `group` (text), `categories` (`{"subject": "physics"}`), and `cluster` (text),
without which rows about the same media, or of the same group, are one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from unimoe.errors import UniMoEError
from unimoe.files.json_rows import JsonRows
from unimoe.files.strict_json import parse_json
from unimoe.processing.messages import ReadMessage
from unimoe.processing.rows import find_item, read_id, read_row
from unimoe.processing.values import holds_nothing

from ..errors import EvaluationError
from .sample import Message, Sample, media_items, media_signature

_OWN = ("answers", "choices", "group", "categories", "cluster")
"""Keys that a row may have besides its messages."""


def read_task(path: Path, *, prompt: str | None = None) -> list[Sample]:
    """Read all rows of a task.

    Args:
        path: JSON Lines, or a file with one list.
        prompt: Text appended to the last user turn.

    Raises:
        EvaluationError: If the file or a row is not as expected; names file, line and cure.
    """
    samples: dict[str, Sample] = {}
    try:
        rows = JsonRows(str(path))
        for number in range(len(rows)):
            where, name = rows.where(number), rows.name(number)
            sample = _parse_row(rows.raw(number), where=where, folder=path.parent, prompt=prompt, default_id=name)
            if sample.id in samples:
                raise EvaluationError(f"{where}: id {sample.id!r} appears twice; ids must be unique within a file")
            samples[sample.id] = sample
        if rows.broken is not None:
            raise rows.broken
    except EvaluationError:
        raise
    except UniMoEError as error:
        raise EvaluationError(error.where, error.problem, error.cure, key=error.key) from None
    if not samples:
        raise EvaluationError(f"{path}: no rows")
    return list(samples.values())


def sample_rows(samples: list[Sample], limit: int | None, *, seed: int) -> list[Sample]:
    """Keep a random sample of `limit` rows in their order; all if there are no more.

    Rows of one group stay together, so where rows have groups a few more are kept, up to the end of the last group.
    """
    if limit is None or limit >= len(samples):
        return samples
    generator = np.random.default_rng(seed)
    if not any(sample.group for sample in samples):
        chosen = generator.choice(len(samples), size=limit, replace=False)
        return [samples[index] for index in sorted(chosen)]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault((sample.group, "" if sample.group else sample.id), []).append(index)
    together = list(groups.values())
    kept: list[int] = []
    for group in generator.permutation(len(together)):
        if len(kept) >= limit:
            break
        kept.extend(together[group])
    return [samples[index] for index in sorted(kept)]


def _parse_row(line: bytes, *, where: str, folder: Path, prompt: str | None, default_id: str) -> Sample:
    row: Any = parse_json(line, where=where)
    read = read_row(row, where=where, own=_OWN)
    messages = [_find_media(message, where=where, folder=folder) for message in read]
    if not messages or messages[-1]["role"] != "assistant":
        raise EvaluationError(f"{where}: the last message must be the assistant's reference answer")
    reference = "".join(item.get("text", "") for item in messages.pop()["content"]).strip()
    if not reference:
        raise EvaluationError(f"{where}: the reference answer (the last assistant message) is empty")
    _append_prompt(messages, prompt, where=where)
    asked = tuple(messages)
    sample_id = read_id(row.get("id"), where=where) or default_id
    media = media_items(asked)
    group = _name(row, "group", where=where)
    cluster = _name(row, "cluster", where=where) or group or (media_signature(media) if media else sample_id)
    return Sample(
        id=sample_id,
        messages=asked,
        reference=reference,
        answers=_texts(row, "answers", where=where) or (reference,),
        cluster=cluster,
        where=where,
        choices=_texts(row, "choices", where=where),
        group=group,
        categories=_categories(row, where=where),
    )


def _texts(row: dict[str, Any], key: str, *, where: str) -> tuple[str, ...]:
    texts = [] if holds_nothing(row.get(key)) else row[key]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise EvaluationError(f"{where}: {key!r} must be a list of strings")
    return tuple(texts)


def _name(row: dict[str, Any], key: str, *, where: str) -> str:
    name = "" if holds_nothing(row.get(key)) else row[key]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise EvaluationError(f"{where}: {key!r} must be a string")
    return str(name)


def _categories(row: dict[str, Any], *, where: str) -> dict[str, str]:
    categories = {} if holds_nothing(row.get("categories")) else row["categories"]
    if not isinstance(categories, dict) or not all(isinstance(name, str) for name in categories.values()):
        raise EvaluationError(
            f'{where}: \'categories\' must be an object of strings, such as {{"subject": "physics"}}'
        )
    return categories


def _append_prompt(messages: list[Message], prompt: str | None, *, where: str) -> None:
    users = [message for message in messages if message["role"] == "user"]
    if not users:
        raise EvaluationError(f"{where}: no user message before the reference answer")
    if prompt:
        users[-1]["content"].append({"type": "text", "text": prompt})


def _find_media(message: ReadMessage, *, where: str, folder: Path) -> Message:
    """Find the media of a message: files that exist, or bytes."""
    items = [find_item(item, where=where, folder=folder.resolve()) for item in message.items]
    return {"role": message.role, "content": items}


__all__ = ["read_task", "sample_rows"]
