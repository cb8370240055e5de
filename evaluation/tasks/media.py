"""Media of a benchmark: files below its folder, and those that come inside of annotation files."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator

from unimoe.files.writing import write_whole
from unimoe.media.naming import shown

from ..errors import EvaluationError
from .row import misfit

UNPACKED = "unpacked"
"""Folder for media that a publisher keeps inside of annotation files."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
"""What a row may call a file."""
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")
_PICTURE = re.compile(
    rb"(?P<png>\x89PNG)|(?P<jpg>\xff\xd8\xff)|(?P<gif>GIF8)|(?P<webp>RIFF....WEBP)|(?P<bmp>BM)", re.DOTALL
)
"""First bytes of a picture, named as the ending of its file."""


@dataclass(frozen=True)
class Packed:
    """A medium that a row of a data set holds, `{"bytes", "path"}`; without bytes, the path says where the file is."""

    content: bytes
    path: str = ""


def _packed(value: Any) -> Packed:
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, None)
    content, path = content or b"", path if isinstance(path, str) else ""
    if isinstance(content, bytes) and (content or path):
        return Packed(content, path)
    raise misfit(
        f"must be a medium as {{'bytes': ..., 'path': ...}}, found {type(value).__name__}. Load the data set with "
        "this column not decoded, such as Image(decode=False) or Audio(decode=False)."
    )


Medium = Annotated[Packed, BeforeValidator(_packed)]
"""A medium inside of a row."""


@dataclass
class MediaFolder:
    """Finds media below the folder of a benchmark, and writes those there that rows hold.

    Args:
        name: Of the benchmark.
        root: Its folder.
        help: What is expected there and where to get it; ends the error of a missing file.
        caches: Folders of libraries, whose absolute paths rows may name too.
        unpacked: Names of media that were written, in small letters -> hash of their content.
    """

    name: str
    root: Path
    help: str
    caches: tuple[Path, ...] = ()
    unpacked: dict[str, str] = field(default_factory=dict)

    def media(self, where: str, *names: str) -> str:
        """Find a picture, clip or sound of a row, which is stored under the first of these names that is there.

        Raises:
            EvaluationError: If there is none, or a name leads out of the folder; names the row and the first name.
        """
        for name in names:
            path = self.root / self._within(name, where)
            try:
                if path.is_file():
                    return str(path.resolve())
            except OSError:  # a name that is too long for a file
                continue
        raise EvaluationError(f"{where}: {self._missing(str(self.root / names[0]))}")

    def _within(self, name: str, where: str) -> str:
        """Accept a name that comes from a row, if it stays in the folder; links in the folder are its owner's own.

        Raises:
            EvaluationError: If it leads out of the folder.
        """
        absolute = name.startswith(("/", "\\")) or _DRIVE.match(name) is not None
        roots = (self.root.absolute(), self.root.resolve(), *self.caches)
        own = absolute and any(Path(name).is_relative_to(root) for root in roots)
        if "\0" in name or ".." in re.split(r"[/\\]", name) or (absolute and not own):
            raise EvaluationError(
                where,
                f"the path {shown(name)} is none below {self.root}, where media of {self.name} are.",
                "Put the file there, and name it by its path below that.",
            )
        return name

    def tail(self, where: str, name: str) -> str:
        """Find a medium whose annotation names a path of another machine: the longest end of it that is there.

        `/data/exam/audio/1.wav` is looked for as `data/exam/audio/1.wav`, `exam/audio/1.wav`, `audio/1.wav`, `1.wav`.

        Raises:
            EvaluationError: If no end is there; names the row and the path.
        """
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")] or [name]
        return self.media(where, *("/".join(parts[start:]) for start in range(len(parts))))

    def medium(self, packed: Packed, where: str, *, name: str | None = None, ending: str = "") -> str:
        """Find or write the file of a medium that a row holds.

        Args:
            packed: The medium.
            where: File and row.
            name: For its file, without ending, see `unpack`. None: a hash of the content, equal for equal media.
            ending: Used where neither the content, which tells pictures, nor the path says one, such as `.wav`.

        Raises:
            EvaluationError: If the file is missing, or is none below the folder; names the row.
        """
        if not packed.content:
            return self.media(where, packed.path)
        picture = _PICTURE.match(packed.content)
        suffix = f".{picture.lastgroup}" if picture else PurePosixPath(packed.path).suffix or ending
        return self.unpack((name or hashlib.sha256(packed.content).hexdigest()[:20]) + suffix, packed.content)

    def unpack(self, name: str, content: bytes) -> str:
        """Write a medium that came inside of an annotation file, once, and return its path.

        Args:
            name: With an ending. What cannot be the name of a file, or is that of another medium but for its case, is
                replaced by a hash of the content.
            content: Of the file.

        Raises:
            EvaluationError: If the folder cannot be written to, or is a link to another place.
        """
        digest = hashlib.sha256(content).hexdigest()[:20]
        if not _FILE_NAME.fullmatch(name) or self.unpacked.setdefault(name.casefold(), digest) != digest:
            ending = Path(name.replace("\0", "")).suffix
            name = digest + (ending if _FILE_NAME.fullmatch(f"a{ending}") else "")
        folder = self.root / UNPACKED
        path = folder / name
        try:
            if not folder.resolve().is_relative_to(self.root.resolve()):
                raise EvaluationError(
                    f"{folder} is a link to {folder.resolve()}. Remove it: media are unpacked there."
                )
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                write_whole(path, content)
        except OSError as error:
            raise EvaluationError(
                f"{path} cannot be written ({error.strerror}): media in annotation files of {self.name} are unpacked "
                "beside them. Make the folder writable."
            ) from error
        return str(path.resolve())

    def _missing(self, what: str) -> str:
        return f"{what} is missing.\n{self.help}"


__all__ = ["UNPACKED", "MediaFolder", "Medium", "Packed"]
