"""Identity of what went into predictions: model folder and data files, so that stale predictions are never reused."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import EvaluationError
from .tasks import Message, Sample

_WEIGHTS = (".safetensors", ".bin", ".pt")
_SETTINGS = (".json", ".jinja", ".py", ".model", ".txt")


def model_fingerprint(folder: Path) -> str:
    """Hash of a model folder.

    Of its settings (config, processor, tokenizer, template) the contents count, of its weights name, size and time.

    Raises:
        EvaluationError: If there is no config.json.
    """
    if not (folder / "config.json").is_file():
        raise EvaluationError(f"{folder}: no config.json, so this is no model folder. Check --model and --baseline.")
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _SETTINGS:
            digest.update(f"{path.name}\0".encode() + path.read_bytes())
        elif path.suffix in _WEIGHTS:
            status = path.stat()
            digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def questions_hash(samples: Sequence[Sample]) -> str:
    """Hash of what is asked: every row's messages; of its media name, size and time count, wherever they are."""
    digest = hashlib.sha256()
    for sample in samples:
        asked = [(message["role"], list(map(_asked, message["content"]))) for message in sample.messages]
        digest.update(json.dumps([sample.id, asked], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()[:16]


def _asked(item: Message) -> str | list[Any]:
    if item["type"] == "text":
        return str(item["text"])
    (medium,) = (value for key, value in item.items() if key != "type")
    return [item["type"], *map(_identity, medium if isinstance(medium, list) else [medium])]


def _identity(medium: str) -> str | tuple[str, int, int]:
    path = Path(medium)
    if not path.is_file():  # an address
        return medium
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def file_hash(path: Path) -> str:
    """SHA-256 of a file's contents, hexadecimal.

    Raises:
        EvaluationError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}). Check the task's data and train."
        ) from error


__all__ = ["file_hash", "model_fingerprint", "questions_hash"]
