"""Reading of JSONL tasks: `{"id", "messages": [...]}` a line; errors name file and line.

Media paths are relative to the data file. The last assistant turn of a row is its reference answer; of a multiple
choice, the letter of the right option. A row may carry the other fields of `Sample`: `answers` (list of texts),
`choices` (list of texts), `group` (text), `categories` (`{"subject": "physics"}`), and `cluster` (text), without which
rows about the same media, or of the same group, are one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unimoe.modality import MEDIA
from unimoe.suggest import did_you_mean

from ..errors import EvaluationError
from .sample import Message, Sample, media_items, media_signature

_KINDS = [modality.key for modality in MEDIA]
_ROLES = ("system", "user", "assistant", "tool")


def read_task(path: Path, *, prompt: str | None = None) -> list[Sample]:
    """Read all rows of a task.

    Args:
        path: JSONL file.
        prompt: Text appended to the last user turn.

    Raises:
        EvaluationError: If the file or a row is not as expected; names file, line and cure.
    """
    samples: dict[str, Sample] = {}
    for number, line in _lines(path):
        where = f"{path}:{number}"
        sample = _parse_row(line, where=where, folder=path.parent, prompt=prompt, default_id=str(number))
        if sample.id in samples:
            raise EvaluationError(f"{where}: id {sample.id!r} appears twice; ids must be unique within a file")
        samples[sample.id] = sample
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: is not UTF-8 ({error}). Write it in UTF-8.") from error
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}). Check the task's data and train."
        ) from error


def _parse_row(line: str, *, where: str, folder: Path, prompt: str | None, default_id: str) -> Sample:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: not valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise EvaluationError(f"{where}: expected an object with a list 'messages'")
    if lost := [key for key, value in row.items() if value and key.removesuffix("s") in _KINDS]:
        raise EvaluationError(
            f"{where}: the media under {lost[0]!r} would not be read. Write them into the content of a message, such "
            'as {"type": "image", "path": "a.png"}'
        )
    messages = [_parse_message(message, where=where, folder=folder) for message in row["messages"]]
    if not messages or messages[-1]["role"] != "assistant":
        raise EvaluationError(f"{where}: the last message must be the assistant's reference answer")
    reference = "".join(item.get("text", "") for item in messages.pop()["content"]).strip()
    if not reference:
        raise EvaluationError(f"{where}: the reference answer (the last assistant message) is empty")
    _append_prompt(messages, prompt, where=where)
    asked = tuple(messages)
    sample_id = str(row.get("id", default_id))
    media = media_items(asked)
    group = _group(row, where=where)
    cluster = row.get("cluster", group or (media_signature(media) if media else sample_id))
    return Sample(
        id=sample_id,
        messages=asked,
        reference=reference,
        answers=_texts(row, "answers", where=where) or (reference,),
        cluster=str(cluster),
        where=where,
        choices=_texts(row, "choices", where=where),
        group=group,
        categories=_categories(row, where=where),
    )


def _texts(row: dict[str, Any], key: str, *, where: str) -> tuple[str, ...]:
    texts = row.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise EvaluationError(f"{where}: {key!r} must be a list of strings")
    return tuple(texts)


def _group(row: dict[str, Any], *, where: str) -> str:
    group = row.get("group", "")
    if not isinstance(group, str | int):
        raise EvaluationError(f"{where}: 'group' must be a string")
    return str(group)


def _categories(row: dict[str, Any], *, where: str) -> dict[str, str]:
    categories = row.get("categories", {})
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


def _parse_message(message: Any, *, where: str, folder: Path) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        raise EvaluationError(f"{where}: unknown role {role!r}.{did_you_mean(str(role), _ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise EvaluationError(f"{where}: 'content' of a {role} message must be a string or a list of typed items")
    return {"role": role, "content": [_parse_item(item, where=where, folder=folder) for item in content]}


def _parse_item(item: Any, *, where: str, folder: Path) -> Message:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind not in ("text", *_KINDS):
        raise EvaluationError(f"{where}: unknown item type {kind!r}.{did_you_mean(str(kind), ['text', *_KINDS])}")
    if kind == "text":
        if not isinstance(item.get("text"), str):
            raise EvaluationError(f"{where}: a text item needs 'text', a string")
        return dict(item)
    keys = [key for key in (kind, "path", "url") if item.get(key) is not None]
    if len(keys) != 1:
        raise EvaluationError(f"{where}: a {kind} item needs exactly one of {kind!r}, 'path', 'url'")
    return {"type": kind, keys[0]: _resolve(item[keys[0]], where=where, folder=folder)}


def _resolve(value: Any, *, where: str, folder: Path) -> Any:
    """Make a path, or each of a list of frame paths, absolute; leave addresses alone."""
    if isinstance(value, list):
        return [_resolve(part, where=where, folder=folder) for part in value]
    if not isinstance(value, str):
        raise EvaluationError(f"{where}: expected a path or a list of paths, found {type(value).__name__}")
    if value.startswith(("http://", "https://")):
        return value
    path = (folder / value).resolve()
    if not path.is_file():
        raise EvaluationError(
            f"{where}: file not found: {value} (looked for {path}; paths are relative to the data file)"
        )
    return str(path)


__all__ = ["read_task", "sample_rows"]
