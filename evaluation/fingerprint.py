"""Identity of what went into predictions: model folder and data files, so that stale predictions are never reused."""

import hashlib
from pathlib import Path

from .errors import EvaluationError

_WEIGHTS = (".safetensors", ".bin", ".pt")
_SETTINGS = (".json", ".jinja", ".py")


def model_fingerprint(folder: Path) -> str:
    """Hash of a model folder.

    Of its settings (config, processor, chat template) the contents count, of its weights name, size and time.

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


__all__ = ["file_hash", "model_fingerprint"]
