"""The files of a folder, looked at before transformers reads them: files, and no pipes; JSON that says one thing; an
index that stays inside its folder.

`from_pretrained` of our models and of our processor does so for every local folder, also below transformers' Auto
classes. What transformers does not read may be whatever it is.
"""

import stat
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import LimitError, UniMoEError
from .strict_json import parse_json

AGAIN = "Copy or download the folder again, whole."
_OBJECTS = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "vocab.json",
)
_INDICES = ("*.safetensors.index.json", "*.bin.index.json")
_TEMPLATES = ("chat_template.jinja", "merges.txt", "vocab.txt", "*.model")
_OTHERS = ("*.safetensors", "pytorch_model*.bin", *_TEMPLATES)
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class CheckpointError(UniMoEError):
    """A model folder that cannot be used; one line that names the folder, what is wrong in it, and the cure."""

    def __init__(self, source: str | Path, problem: str) -> None:
        super().__init__(f"{source} cannot be loaded: {problem}")
        self.problem = problem


def local_folder(name: str | PathLike | None, subfolder: str | None = None) -> Path | None:
    """Return the folder that `from_pretrained` was given; None if it was given an id of the Hub or nothing.

    Args:
        name: Of the folder or of a model on the Hub.
        subfolder: Of it, as transformers takes it.
    """
    folder = Path(name or "", subfolder or "")
    return folder if name and folder.is_dir() else None


def check_folder(folder: Path) -> None:
    """Refuse a folder with a JSON file that is none or says two things, or whose index names what is not in it.

    Raises:
        CheckpointError: Naming the file, and the key or shard.
    """
    for path in _found(folder, _OTHERS):
        _require_file(folder, path)
    for path in _found(folder, _OBJECTS):
        read_object(folder, path.name)
    for path in _found(folder, _INDICES):
        _check_index(folder, path, _read(folder, path))


def setting_files(folder: Path) -> list[Path]:
    """List the files that stand beside a model and its configuration: of its processor, tokenizer and generation."""
    names = (*(name for name in _OBJECTS if name != "config.json"), *_TEMPLATES)
    return list(_found(folder, names))


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a folder that holds an object.

    Args:
        folder: Where it lies.
        name: Of the file.

    Raises:
        CheckpointError: If it cannot be read, or holds anything else; it is named.
    """
    values = _read(folder, folder / name)
    if not isinstance(values, dict):
        raise CheckpointError(folder, f"{name} holds no object of keys. {AGAIN}")
    return values


def _found(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


def _require_file(folder: Path, path: Path) -> None:
    """Refuse a pipe, socket or device, which could be read for ever, and a link to nothing."""
    try:
        kind = path.stat().st_mode
    except OSError as error:
        raise CheckpointError(folder, f"{path.name} cannot be read ({error.strerror}). {AGAIN}") from None
    if not stat.S_ISREG(kind):
        what = _KINDS.get(stat.S_IFMT(kind), "a device")
        raise CheckpointError(folder, f"{path.name} is no file, but {what}. {AGAIN}")


def _read(folder: Path, path: Path) -> Any:
    _require_file(folder, path)
    try:
        return parse_json(path.read_bytes(), where=path.name)
    except OSError as error:
        raise CheckpointError(folder, f"{path.name} cannot be read ({error.strerror}). {AGAIN}") from None
    except UniMoEError as error:
        is_other = bool(error.key) or isinstance(error, LimitError)  # than text that is no JSON
        place = ": ".join(filter(None, (path.name, error.key))) + ":" if is_other else f"{path.name} is"
        cure = error.cure if is_other else AGAIN
        raise CheckpointError(folder, f"{place} {error.problem} {cure}") from None


def _check_index(folder: Path, path: Path, values: Any) -> None:
    """Refuse an index that is none, or names a file that is not there or lies elsewhere."""
    weights = values.get("weight_map", {}) if isinstance(values, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(shard, str) for shard in weights.values()):
        raise CheckpointError(folder, f"{path.name} has no weight_map of tensors to files. {AGAIN}")
    if not isinstance(values.get("metadata"), dict):
        raise CheckpointError(folder, f"{path.name} has no metadata. {AGAIN}")
    for shard in sorted(set(weights.values())):
        if not _is_inside(folder, shard):
            raise CheckpointError(
                folder, f"{path.name} names {shard[:200]!r}, which lies outside of the folder. Put the shard into it."
            )
        if not (folder / shard).is_file():
            raise CheckpointError(folder, f"{shard}, which {path.name} names, is missing. {AGAIN}")


def _is_inside(folder: Path, shard: str) -> bool:
    """Whether a file lies in its folder, links followed; the files of transformers' cache are links to its blobs."""
    if Path(shard).is_absolute() or ".." in Path(shard).parts or "\\" in shard or "\0" in shard:
        return False
    home, target = folder.resolve(), (folder / shard).resolve()
    blobs = home.parent.parent / "blobs"
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.is_relative_to(blobs))


__all__ = ["AGAIN", "CheckpointError", "check_folder", "local_folder", "read_object", "setting_files"]
