"""One medium as rows write it: a path, the address of a local file, base64, or bytes of a table; nothing is decoded
here.
"""

import base64
import binascii
import os
import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from unimoe import MEDIA, Modality

from .rows import Faults, shorten

KINDS = tuple(modality.key for modality in MEDIA)
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of files that are frames where they are listed as one video; a GIF is a clip of its own."""

_DATA_ADDRESS = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.+-]+)*;base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_MANY = 5000
"""Files of a folder among which similar names are searched."""

Item = dict[str, Any]


def is_absent(value: Any) -> bool:
    """Whether a value stands for no medium: tables fill what a row lacks with None, other exports with ""."""
    if isinstance(value, dict):
        return all(part is None for part in value.values())
    return value is None or (isinstance(value, str | list) and not value)


def read_medium(value: Any, kind: str, *, key: str, root: Path, faults: Faults) -> Item | None:
    """Make an item of a medium.

    Args:
        value: A path, the address of a local file (`file://`), an address with the data in it (`data:...;base64,`),
            bytes, or {"bytes", "path"} of a table. For a video also the list of its frames, each one of these.
        kind: `image`, `video`, `audio` or `speech`.
        key: Its place in the row.
        root: Folder that relative paths start from.
        faults: Takes what is wrong.

    Returns:
        {"type", "path"} of a file that exists, or {"type", KIND: ...}; None if something is wrong.
    """
    if isinstance(value, list) and kind == Modality.VIDEO.key:
        return _read_frames(value, key=key, root=root, faults=faults)
    if isinstance(value, dict) and not set(value) - {"bytes", "path"} and not is_absent(value):
        name = value.get("path")
        if value.get("bytes") is None:
            return read_medium(name, kind, key=key, root=root, faults=faults)
        return _from_bytes(value["bytes"], kind, key=key, name=name, faults=faults)
    if isinstance(value, bytes):
        return _from_bytes(value, kind, key=key, name=None, faults=faults)
    if not isinstance(value, str) or not value:
        frames = ", or the list of its frames" if kind == Modality.VIDEO.key else ""
        faults.add(key, f"expected the path of a file{frames}, got {shorten(value)}.", _path_cure(kind))
        return None
    if match := _DATA_ADDRESS.match(value):
        return read_base64(value[match.end() :], kind, key=key, faults=faults)
    path = _local_address(value, key=key, faults=faults) if _ADDRESS.match(value) else root / value
    return None if path is None else _existing(path, value, kind, key=key, root=root, faults=faults)


def read_base64(value: Any, kind: str, *, key: str, faults: Faults) -> Item | None:
    """Make an item of a medium whose file is written in base64; None if something is wrong."""
    if not isinstance(value, str):
        faults.add(key, f"expected a text in base64, got {shorten(value)}.", "Encode the bytes of the file.")
        return None
    text = value
    if match := _DATA_ADDRESS.match(text):
        text = text[match.end() :]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        faults.add(
            key, f"not valid base64 ({error}).", "Encode the bytes of the file again, or write its `path` instead."
        )
        return None
    return _from_bytes(data, kind, key=key, name=None, faults=faults)


def _from_bytes(data: Any, kind: str, *, key: str, name: Any, faults: Faults) -> Item | None:
    if not isinstance(data, bytes):
        faults.add(key, f"expected the bytes of a file, got {shorten(data)}.", _path_cure(kind))
    elif not data:
        faults.add(key, "0 bytes hold no medium.", "Read the file again, or leave it out.")
    else:
        item = {"type": kind, kind: {"bytes": data, "path": name}}
        faults.note(key, item)
        return item
    return None


def _read_frames(frames: list[Any], *, key: str, root: Path, faults: Faults) -> Item | None:
    kind = Modality.VIDEO.key
    if not frames:
        faults.add(key, "the list of frames is empty.", "List the pictures of the clip, or leave the video out.")
        return None
    items = [
        read_medium(frame, Modality.IMAGE.key, key=f"{key}[{number}]", root=root, faults=faults)
        for number, frame in enumerate(frames)
    ]
    found = [item for item in items if item is not None]
    if len(found) < len(frames):
        return None
    if all("path" in item for item in found):
        return {"type": kind, "path": [item["path"] for item in found]}
    return {"type": kind, kind: [item["path"] if "path" in item else item[Modality.IMAGE.key] for item in found]}


def _local_address(value: str, *, key: str, faults: Faults) -> Path | None:
    parts = urlsplit(value)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    faults.add(
        key,
        f"{shorten(value)} is a remote address, and nothing is downloaded while training.",
        "Save the file and write its path.",
    )
    return None


def _existing(path: Path, value: str, kind: str, *, key: str, root: Path, faults: Faults) -> Item | None:
    if path.is_file():
        item = {"type": kind, "path": str(path)}
        faults.note(key, item)
        return item
    if path.is_dir():
        faults.add(key, f"{str(path)!r} is a folder, no file.", _path_cure(kind))
        return None
    cure = "Media paths are relative to the data file, or to the `media_root` given."
    if "\\" in value and (root / value.replace("\\", "/")).is_file():
        cure = f"Write it with slashes: {value.replace(chr(92), '/')!r}."
    elif (similar := similar_file(path)) is not None:
        shown = similar if Path(value).is_absolute() else os.path.relpath(similar, root)
        cure = f"Did you mean {str(shown)!r}?"
    elif Path(value).is_file():
        cure = f"{cure} There is such a file in {os.getcwd()!r}: give this folder as `media_root`."
    faults.add(key, f"there is no file {str(path)!r}.", cure)
    return None


def _path_cure(kind: str) -> str:
    if kind == Modality.VIDEO.key:
        return "Write the path of the clip, or a list of the paths of its frames."
    return f"Write the path of one {'picture' if kind == Modality.IMAGE.key else 'sound'}."


def similar_file(path: Path) -> Path | None:
    """The file that was probably meant by a path that leads nowhere: in other case, or with a similar name."""
    parent = path
    missing: list[str] = []
    while not parent.is_dir():
        if parent == parent.parent:
            return None
        missing.insert(0, parent.name)
        parent = parent.parent
    by_case = _names(parent).get(missing[0].lower())
    names = [by_case] if by_case is not None else []
    if not names and len(_names(parent)) <= _MANY:
        names = get_close_matches(missing[0], _names(parent).values(), n=1, cutoff=0.8)
    for name in names:
        found = parent.joinpath(name, *missing[1:])
        if found.is_file():
            return found
        if len(missing) > 1 and found.parent != path.parent:
            return similar_file(found)
    return None


@lru_cache(maxsize=16)
def _names(folder: Path) -> dict[str, str]:
    """Names in a folder by their lower case."""
    return {name.lower(): name for name in sorted(os.listdir(folder))}


__all__ = ["KINDS", "PICTURE_ENDINGS", "Item", "is_absent", "read_base64", "read_medium", "similar_file"]
