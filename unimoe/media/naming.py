"""What names a medium: one reader of paths, addresses of local files, base64 and bytes, for every door.

In: what a row, a message or a call holds. Out: the path of a file that is there, {"bytes", "path"}, a list of these
(the frames of a clip), or the decoded medium as it came (image, array, tensor, decoder). Nothing is decoded here, and
nothing is fetched.
"""

import base64
import binascii
import os
import re
import reprlib
import stat
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from ..errors import LimitError, MediaError
from .limits import Limits, limits_or_default
from .sniff import HEAD, what_is

_DATA = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_LONGEST_PATH = 4096
"""Characters; no file system has longer paths."""
_SHORTEST_BASE64 = 40
"""Characters; no file with a medium is smaller."""
_DEEPEST = 8
"""Lists and objects within each other: a clip of frames that are lists of numbers has fewer."""
_MANY = 5000
"""Files of a folder among which similar names are searched."""
_MEDIA = ("a picture", "a sound", "a film")
WAYS: dict[str, tuple[str, bool]] = {
    "path": ("`a.png`, a `Path`; from the data file's folder on, in calls from the working directory on", True),
    "address of a local file": ("`file:///data/a%20b.png`", True),
    "data URI": ("`data:image/png;base64,...`, of any size", True),
    "base64": ("`iVBORw0KG...`, of a file that is known by its beginning; or under the key `base64`", True),
    "bytes": ("of the file; in tables and calls", True),
    "dict of `datasets`": ('`{"bytes": ..., "path": ...}`; in JSON, bytes are base64', True),
    "frames": ("a list of these, for a clip", True),
    "decoded": ("PIL image, array, tensor, samples with their rate, decoder of torchcodec", False),
}
"""How a medium may be named, with an example, and whether files of rows can hold it; calls take all."""
FORMS = (
    "Pass a path, an address of a local file (file://), a data URI, base64, bytes, an array or tensor, a PIL image, a "
    "dict of datasets or a torchcodec decoder."
)


def is_absent(value: Any) -> bool:
    """Whether a value stands for no medium: tables fill what a row lacks with None, other exports with ""."""
    if isinstance(value, dict):
        return all(part is None for part in value.values())
    return value is None or (isinstance(value, str | list | tuple) and not value)


def find_medium(
    value: Any,
    *,
    where: str,
    key: str = "",
    folder: str | Path | None = None,
    limits: Limits | None = None,
) -> Any:
    """Find what a value names.

    Args:
        value: A path; the address of a local file (`file://`); a data URI; base64; bytes; {"bytes", "path"} of
            `datasets`; a list of these, the frames of a clip; or a medium that is decoded already, which comes back
            as it is.
        where: File and row, or the place in a call, for errors.
        key: Place within the row, for errors.
        folder: Where relative paths start from. None: the working directory.
        limits: Of the size of files. None: those of the environment.

    Returns:
        The path of a regular file as a string; {"bytes": bytes, "path": str | None}; a list of these; or the value.

    Raises:
        MediaError: If nothing is there, or it is not told what the value is; it names the cure.
        LimitError: If the file is too large.
    """
    return _find(value, where, key, folder, limits_or_default(limits), 0)


def _find(value: Any, where: str, key: str, folder: str | Path | None, limits: Limits, depth: int) -> Any:
    if depth > _DEEPEST:
        raise MediaError(where, "lists or objects stand too deep within each other for a medium.", FORMS, key=key)
    value = _own(value)
    if isinstance(value, list | tuple) and value and not _is_number(value[0]):
        return [_find(part, where, f"{key}[{number}]", folder, limits, depth + 1) for number, part in enumerate(value)]
    if isinstance(value, dict):
        value = {name: _own(part) for name, part in value.items()}
        return _from_dict(value, where, key, folder, limits, depth)
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(bytes(value), None, where, key, limits)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
        return _existing(value, value, where, key, folder, limits)
    return _from_text(value, where, key, folder, limits) if isinstance(value, str) else value


def _own(value: Any) -> Any:
    """Return a scalar of pyarrow as Python's own; all else as it is."""
    as_py = None if isinstance(value, type) else getattr(value, "as_py", None)
    return as_py() if callable(as_py) else value


def _from_dict(
    value: dict[Any, Any], where: str, key: str, folder: str | Path | None, limits: Limits, depth: int
) -> Any:
    if not any(value.get(part) is not None for part in ("array", "frames")):
        check_keys(value, ("bytes", "path"), where, key=key)
    if value.get("bytes") is not None and value.get("array") is None:
        return _from_bytes(_decoded_bytes(value["bytes"], where, key, limits), value.get("path"), where, key, limits)
    if set(value) <= {"bytes", "path"} and value.get("path") is not None:
        return _find(value["path"], where, key, folder, limits, depth + 1)
    return value


def check_keys(medium: dict[Any, Any], allowed: tuple[str, ...], where: str, *, key: str = "") -> None:
    """Refuse a dict that holds more than is read: what it asks for would be lost.

    Args:
        medium: The dict.
        allowed: Its keys, the usual ones first.
        where: File and row, for errors.
        key: Its key within the row, for errors.

    Raises:
        MediaError: If it does; names the key.
    """
    if lost := [name for name, value in medium.items() if name not in allowed and not is_absent(value)]:
        known = " and ".join(map(repr, allowed[:2]))
        raise MediaError(
            where,
            f"{shown(lost[0])} of a medium would not be read.",
            f"A dict of a medium has {known}: leave the others out.",
            key=key,
        )


class _Shown(reprlib.Repr):
    """Short, whatever the size or depth of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 3, 12, 12
        self.maxstring = self.maxother = self.maxlong = 160


def shown(value: Any, length: int = 80) -> str:
    """How a value is quoted in a message: its first `length` characters, on one line, however large or deep it is."""
    is_text = isinstance(value, str | bytes)
    try:
        text = repr(value[: 2 * length]) if is_text else " ".join(_Shown().repr(value).split())
    except ValueError:  # a number of more digits than Python writes
        text = f"a long {type(value).__name__}"
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _from_text(value: str, where: str, key: str, folder: str | Path | None, limits: Limits) -> Any:
    if not value:
        raise MediaError(where, "an empty text names no medium.", FORMS, key=key)
    if match := _DATA.match(value):
        head, body = match.group().lower(), value[match.end() :]
        is_base64 = head.rstrip(",").rstrip().endswith(";base64")
        data = decode_base64(body, where=where, key=key, limits=limits) if is_base64 else unquote_to_bytes(body)
        return _from_bytes(data, None, where, key, limits)
    if value[:5].lower() == "file:":
        return _from_address(value, where, key, folder, limits)
    if _ADDRESS.match(value):
        cure = "Nothing is downloaded here: save the file, and pass its path."
        raise MediaError(where, f"{shown(value)} is a remote address.", cure, key=key)
    if not _is_there(value, folder) and (found := _bare_base64(value, where, key, limits)) is not None:
        return _from_bytes(found, None, where, key, limits)
    return _existing(value, value, where, key, folder, limits)


def _from_address(value: str, where: str, key: str, folder: str | Path | None, limits: Limits) -> str:
    parts = urlsplit(value)
    if parts.netloc not in ("", "localhost"):
        cure = "Nothing is downloaded here: save the file, and pass its path."
        raise MediaError(where, f"{shown(value)} is the address of another machine.", cure, key=key)
    raw = value[5:].removeprefix("//").removeprefix(parts.netloc)  # as many write it, # and ? are part of the name
    path = raw if not _is_there(unquote(raw), folder) and _is_there(raw, folder) else unquote(raw)
    return _existing(path, value, where, key, folder, limits)


def decode_base64(text: Any, *, where: str, key: str = "", limits: Limits | None = None) -> bytes:
    """Decode base64, also of the alphabet for addresses, with line breaks or without padding; or a data URI.

    Args:
        text: The base64.
        where: File and row, for errors.
        key: Its key within the row, for errors.
        limits: Of what it holds. None: those of the environment.

    Raises:
        MediaError: If it is neither.
        LimitError: If it holds more than `file_bytes`.
    """
    limits = limits_or_default(limits)
    if not isinstance(text, str):
        raise MediaError(
            where, f"expected a text in base64, got {shown(text)}.", "Encode the bytes of the file.", key=key
        )
    if match := _DATA.match(text):
        text = text[match.end() :]
    limits.check("file_bytes", 3 * len(text) // 4, f"the base64 has {len(text)} characters", where=where, key=key)
    text = "".join(unquote(text).split()).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            where,
            f"not valid base64 ({error}).",
            "Encode the bytes of the file again, or write its `path` instead.",
            key=key,
        ) from None


def _bare_base64(value: str, where: str, key: str, limits: Limits) -> bytes | None:
    """Return the bytes of a text that is base64 of a file that is known by its beginning; None if it is none."""
    if len(value) < _SHORTEST_BASE64:
        return None
    try:
        head = decode_base64(value[: 4 * (HEAD // 3)], where=where, key=key, limits=limits)
        return decode_base64(value, where=where, key=key, limits=limits) if what_is(head) in _MEDIA else None
    except LimitError:
        raise
    except MediaError:
        return None


def _decoded_bytes(value: Any, where: str, key: str, limits: Limits) -> bytes:
    """Return the value of "bytes": bytes, base64 of them as JSON has it, or a list of numbers as tables give it."""
    if isinstance(value, str):
        return decode_base64(value, where=where, key=key, limits=limits)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return bytes(list(value))  # numbers of 0..255
    except (TypeError, ValueError):
        raise MediaError(where, f"expected the bytes of a file, got {shown(value)}.", FORMS, key=key) from None


def _from_bytes(data: bytes, name: Any, where: str, key: str, limits: Limits) -> dict[str, Any]:
    if not data:
        raise MediaError(where, "0 bytes hold no medium.", "Read the file again, or leave it out.", key=key)
    limits.check("file_bytes", len(data), f"the medium has {len(data)} bytes", where=where, key=key)
    return {"bytes": data, "path": str(name) if isinstance(name, str | os.PathLike) else None}


def _is_there(path: str, folder: str | Path | None) -> bool:
    """Whether something stands under a path; a text that can be no path is nowhere."""
    try:
        return len(path) <= _LONGEST_PATH and os.path.lexists(os.path.join(folder or "", path))
    except (OSError, ValueError):  # ValueError: a NUL within
        return False


def _existing(path: str, value: str, where: str, key: str, folder: str | Path | None, limits: Limits) -> str:
    """Return a path, if a regular file that is not empty stands there."""
    whole = os.path.join(folder or "", path)
    try:
        found = os.stat(whole)
    except (OSError, ValueError) as error:
        raise _missing(whole, value, where, key, folder, error) from None
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(where, f"{shown(whole)} is a folder, no file.", "Pass the path of a file.", key=key)
    if not stat.S_ISREG(found.st_mode):  # which would be waited for, or never end
        cure = "Save what it gives as a file, and pass its path."
        raise MediaError(where, f"{shown(whole)} is a pipe or a device, no file.", cure, key=key)
    if not found.st_size:
        cure = "Replace it, or leave it out."
        raise MediaError(where, f"the file {shown(whole)} is empty (0 bytes).", cure, key=key)
    limits.check("file_bytes", found.st_size, f"{shown(whole)} has {found.st_size} bytes", where=where, key=key)
    return whole


def _missing(whole: str, value: str, where: str, key: str, folder: str | Path | None, error: Exception) -> MediaError:
    if len(value) >= _SHORTEST_BASE64 and (len(value) > 255 or "\n" in value):
        return MediaError(
            where,
            f"{shown(value)} ({len(value)} characters) is neither the path of a file nor base64 of a medium.",
            "Encode the bytes of the file again, or pass its path.",
            key=key,
        )
    if isinstance(error, PermissionError):
        return MediaError(where, f"the file {shown(whole)} may not be read.", "Change its permissions.", key=key)
    root = Path(folder or "")
    cure = "Correct the path; relative ones start from " + (f"{str(root)!r}." if folder else f"{os.getcwd()!r}.")
    if isinstance(error, OSError) and "\\" in value and _is_there(value.replace("\\", "/"), folder):
        cure = f"Write it with slashes: {value.replace(chr(92), '/')!r}."
    elif isinstance(error, OSError) and (similar := similar_file(Path(whole))) is not None:
        near = similar if Path(value).is_absolute() else os.path.relpath(similar, root)
        cure = f"Did you mean {str(near)!r}?"
    elif folder and _is_there(value, None):
        cure = f"{cure} There is such a file in {os.getcwd()!r}."
    return MediaError(where, f"there is no file {shown(whole, 300)}.", cure, key=key)


def similar_file(path: Path) -> Path | None:
    """Return the file that was probably meant by a path that leads nowhere: in other case, or with a similar name."""
    parent = path
    missing: list[str] = []
    while not parent.is_dir():
        if parent == parent.parent:
            return None
        missing.insert(0, parent.name)
        parent = parent.parent
    if not missing:
        return None
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
    try:
        return {name.lower(): name for name in sorted(os.listdir(folder))}
    except OSError:
        return {}


__all__ = ["FORMS", "WAYS", "check_keys", "decode_base64", "find_medium", "is_absent", "shown", "similar_file"]
