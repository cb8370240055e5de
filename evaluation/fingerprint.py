"""Identity of what went into predictions: model folder and data files, so that stale predictions are never reused.

checksums.json beside a benchmark's files says what they were when they were first used, so that a change is noticed.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unimoe.files.writing import write_whole

from .errors import EvaluationError, read_json
from .processes import rank
from .tasks import Message, Sample

CHECKSUMS = "checksums.json"
_WEIGHTS = (".safetensors", ".bin", ".pt")
_SETTINGS = (".json", ".jinja", ".py", ".model", ".txt")


def model_fingerprint(folder: Path) -> str:
    """Hash a model folder.

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
    """Hash what is asked: every row's messages; of its media name, size and time count, wherever they are."""
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
    """Hash a file's contents: SHA-256, hexadecimal.

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


def check_files(root: Path, read: dict[str, str]) -> None:
    """Compare annotation files with what they were before; note those that are read for the first time.

    Args:
        root: Folder of a benchmark. If it cannot be written to, nothing is noted.
        read: Path below it -> SHA-256.

    Raises:
        EvaluationError: If a file has changed; names it and the cure.
    """
    path = root / CHECKSUMS
    try:
        known = read_json(path.read_bytes(), where=str(path)) if path.is_file() else {}
    except EvaluationError as error:
        raise EvaluationError(f"{path} is damaged ({error.problem}) Remove it to note the files anew.") from None
    if not isinstance(known, dict) or not all(isinstance(digest, str) for digest in known.values()):
        raise EvaluationError(f"{path} is damaged (no object of texts). Remove it to note the files anew.")
    for name, digest in read.items():
        if known.get(name, digest) != digest:
            raise EvaluationError(
                f"{root / name} is not what it was when it was first used (SHA-256 {known[name][:12]} then, "
                f"{digest[:12]} now): scores would not be comparable. Bring it back, or remove {path}."
            )
    if rank() == 0 and read.keys() - known.keys():
        try:
            write_whole(path, json.dumps({**known, **read}, indent=1, sort_keys=True) + "\n")
        except OSError:  # a data root that is shared and read-only; results.json has the hashes too
            return


__all__ = ["CHECKSUMS", "check_files", "file_hash", "model_fingerprint", "questions_hash"]
