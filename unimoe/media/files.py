"""What a medium is called, where its bytes are, and what is said when it cannot be read."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch


def name_of(medium: Any) -> str:
    """How a medium is called in messages: its path, or its type."""
    if isinstance(medium, dict):
        return name_of(medium["path"]) if medium.get("path") else f"a dict with {sorted(map(str, medium))}"
    return repr(str(medium)) if isinstance(medium, (str, os.PathLike)) else f"a {type(medium).__name__}"


def unreadable(medium: Any, where: str, kind: str, error: Exception) -> ValueError:
    """Say that a medium cannot be read, and why."""
    return ValueError(
        f"{where}: {name_of(medium)} cannot be read as a {kind} ({' '.join(str(error).split())}). Replace the file, "
        "or leave it out."
    )


def file_of(medium: Any, where: str) -> str | io.BytesIO:
    """A path that exists, or the bytes in memory, of a path, bytes or {"bytes", "path"}."""
    if isinstance(medium, dict):
        medium = next((medium[key] for key in ("bytes", "path") if medium.get(key) is not None), medium)
    if isinstance(medium, (bytes, bytearray, memoryview)):
        return io.BytesIO(medium)
    if not isinstance(medium, (str, os.PathLike)):
        raise ValueError(
            f"{where}: cannot load {name_of(medium)}. Pass a path, bytes, an array or tensor, a PIL image, a dict of "
            "datasets or a torchcodec decoder."
        )
    path = os.fspath(medium)
    if "://" in path:
        raise ValueError(f"{where}: {path!r} is an address. Nothing is downloaded here: save the file, pass its path.")
    if not Path(path).is_file():
        raise ValueError(f"{where}: there is no file {path!r} (looked in {os.getcwd()!r}). Correct the path.")
    return path


def to_numpy(array: Any) -> np.ndarray:
    """An array or tensor, on any device, as an array."""
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


__all__ = ["file_of", "name_of", "to_numpy", "unreadable"]
