"""The files of the encoder cache: tokens written once before a training, and read while it runs, medium by medium."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unimoe import Modality
from unimoe.media import CachedMedium, Measures

from ..data.schema import DataError

FILE_BYTES = 2**28
"""Tokens that are gathered before a file of them is written, bytes: what a stage that is stopped computes again."""

_KEY_BYTES = 16


class CacheEntry(NamedTuple):
    """What is cached of a medium for one modality: its tokens (units, tokens, C), and numbers that measure it."""

    measures: Sequence[float]
    states: Tensor


class CacheStore:
    """Encoder states of one modality by the key of their medium: a folder of safetensors files.

    A file has the tokens of many media, `states` (units, tokens, C), their `keys` (media, 16) and `measures`, and
    where those of each end: `unit_ends` and `measure_ends` (media,). It appears under its name when it is whole. Only
    the keys are kept in memory.

    Args:
        folder: Made if it is missing. Several processes may write to it.
        file_bytes: Largest size of the states of a file, but for the last medium's.
    """

    def __init__(self, folder: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self.folder, self.file_bytes = folder, file_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._paths: list[Path] = []
        self._entries: dict[bytes, tuple[int, int]] = {}  # number of the file, and of the medium in it
        self._open: dict[int, Any] = {}
        self._waiting: list[tuple[bytes, CacheEntry]] = []
        self._waiting_bytes = 0
        self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """Give a worker process what it needs to open the files itself."""
        return {**self.__dict__, "_open": {}}

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def refresh(self) -> None:
        """Take notice of files that were written meanwhile.

        Raises:
            DataError: If one is damaged.
        """
        for path in sorted(set(self.folder.glob("*.safetensors")) - set(self._paths)):
            try:
                with safe_open(path, framework="np") as file:
                    keys = file.get_tensor("keys")
            except (OSError, SafetensorError) as error:
                raise DataError(
                    str(path), f"is damaged ({error}).", "Remove it: its media are encoded anew."
                ) from None
            for index, key in enumerate(keys):
                self._entries[key.tobytes()] = (len(self._paths), index)
            self._paths.append(path)

    def __getitem__(self, key: bytes) -> CacheEntry:
        number, index = self._entries[key]
        if number not in self._open:
            self._open[number] = safe_open(self._paths[number], framework="pt")
        file = self._open[number]
        measures, states = (
            file.get_slice(name)[slice(*_bounds(file.get_slice(f"{unit}_ends"), index))]
            for name, unit in (("measures", "measure"), ("states", "unit"))
        )
        return CacheEntry(measures.tolist(), states)

    def add(self, key: bytes, medium: CacheEntry) -> None:
        """Cache a medium; it can be read after `flush` and `refresh`."""
        self._waiting.append((key, medium))
        self._waiting_bytes += medium.states.nbytes
        if self._waiting_bytes >= self.file_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits to a file."""
        if not self._waiting:
            return
        keys, media = zip(*self._waiting, strict=True)
        tensors = {
            "keys": torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, _KEY_BYTES).copy()),
            "states": torch.cat([medium.states for medium in media]),
            "unit_ends": torch.tensor([len(medium.states) for medium in media]).cumsum(0),
            "measures": torch.tensor([value for medium in media for value in medium.measures], dtype=torch.float64),
            "measure_ends": torch.tensor([len(medium.measures) for medium in media]).cumsum(0),
        }
        name = uuid4().hex
        save_file(tensors, self.folder / f"{name}.partial")
        os.replace(self.folder / f"{name}.partial", self.folder / f"{name}.safetensors")
        self._waiting, self._waiting_bytes = [], 0


def _bounds(ends: Any, index: int) -> tuple[int, int]:
    """First and last of the entries of a medium, by the running sums (media,)."""
    start, end = [0, *ends[:1].tolist()] if index == 0 else ends[index - 1 : index + 1].tolist()
    return start, end


class CachedMedia:
    """The media of a mixture whose encoders have run, as its data set looks them up.

    Args:
        stores: By modality key.
        video_sound: Modality key of the sound track of clips. None: it is not heard.
    """

    def __init__(self, stores: dict[str, CacheStore], *, video_sound: str | None) -> None:
        self.stores, self.video_sound = stores, video_sound

    def parts(self, kind: str) -> list[str]:
        """Modalities of a medium of this kind: its own, and of a clip that of its sound track."""
        return [kind, self.video_sound] if kind == Modality.VIDEO.key and self.video_sound else [kind]

    def missing(self, kind: str, key: bytes) -> list[str]:
        """Modalities of a medium that ought to be here and are not."""
        return [part for part in self.parts(kind) if part in self.stores and key not in self.stores[part]]

    def find(self, kind: str, medium: Any, *, where: str) -> CachedMedium | None:
        """Read what is cached of a medium.

        Args:
            kind: Type of the item that holds it.
            medium: Its path, frames or bytes.
            where: Row and id, for the error.

        Returns:
            The cached medium; None if media of this kind are not cached.

        Raises:
            DataError: If it was not there, or was another, when the media were encoded.
        """
        parts = [part for part in self.parts(kind) if part in self.stores]
        if not parts:
            return None
        key = medium_key(kind, medium, where=where)
        if self.missing(kind, key):
            raise DataError(
                f"{where}: its {kind} has changed since the media of this stage were encoded. Begin again, or go on "
                "with --resume: it is then encoded anew."
            )
        found = {part: self.stores[part][key] for part in parts}
        return CachedMedium(
            _measures(kind, {part: entry.measures for part, entry in found.items()}),
            {part: entry.states for part, entry in found.items()},
            medium=None if parts == self.parts(kind) else medium,
        )


def measure_numbers(part: str, measures: Measures) -> Sequence[float]:
    """Return the numbers by which a medium is measured as one modality."""
    return {Modality.IMAGE.key: measures.size, Modality.VIDEO.key: measures.times.tolist()}.get(
        part, [measures.samples]
    )


def _measures(kind: str, numbers: dict[str, Sequence[float]]) -> Measures:
    """Undo `measure_numbers`, for all modalities of a medium."""
    if kind == Modality.IMAGE.key:
        width, height = numbers[kind]
        return Measures(size=(int(width), int(height)))
    sounds = [int(values[0]) for part, values in numbers.items() if part != Modality.VIDEO.key]
    times = np.array(numbers.get(Modality.VIDEO.key, ()), dtype=np.float64)
    return Measures(times=times, samples=sounds[0] if sounds else 0)


def medium_key(kind: str, medium: Any, *, where: str) -> bytes:
    """Name a medium: by kind, and path, size and time of change of its file or files, or by its bytes.

    Args:
        kind: Type of the item that holds it.
        medium: Path, list of paths, bytes or {"bytes", "path"}.
        where: Row and id, for the error.

    Raises:
        DataError: If there is no such file, or the medium is neither file nor bytes.
    """
    digest = hashlib.blake2b(kind.encode(), digest_size=_KEY_BYTES)
    for part in medium if isinstance(medium, list) else [medium]:
        digest.update(_identity(part, where))
    return digest.digest()


def _identity(medium: Any, where: str) -> bytes:
    if isinstance(medium, dict):
        medium = medium["path"] if medium.get("bytes") is None else medium["bytes"]
    if isinstance(medium, bytes):
        return hashlib.blake2b(medium).digest()
    if not isinstance(medium, str | os.PathLike):
        raise DataError(
            f"{where}: a {type(medium).__name__} cannot be found again. Give the path of a file, or bytes."
        )
    try:
        found = os.stat(medium)
    except OSError as error:
        raise DataError(f"{where}: {os.fspath(medium)!r} cannot be read ({error.strerror}). Correct it.") from error
    return repr((os.path.abspath(medium), found.st_size, found.st_mtime_ns)).encode()


__all__ = ["CacheEntry", "CacheStore", "CachedMedia", "measure_numbers", "medium_key"]
