"""Opens media to see whether they are what rows say, and says of those that are not what they are instead."""

import os
from collections import OrderedDict
from typing import Any, NamedTuple

from unimoe import Modality
from unimoe.errors import LimitError, MediaError, UniMoEError
from unimoe.media import FrameSampling, clip_times, load_clip, load_picture, load_sound, picture_size, sound_length
from unimoe.media.sniff import HEAD, what_is

from ..mixture.dataset import SAMPLING_RATE, medium_of

_REMEMBERED = 100_000
_PICTURE, _SOUND, _FILM = "a picture", "a sound", "a film"
_CURES = {
    _PICTURE: "It is a picture: write it as an image.",
    _SOUND: "It is a sound: write it as audio or speech.",
    _FILM: "It is a film: write it as a video.",
    "a web page": "It is a web page, so its download failed: fetch the file again.",
    "a pointer": "It is a pointer of Git LFS: fetch the file with `git lfs pull`.",
    "text": "It is a text: replace the file, or leave it out.",
}
_KINDS = {Modality.IMAGE.key: _PICTURE, Modality.VIDEO.key: _FILM, Modality.AUDIO.key: _SOUND}


class Finding(NamedTuple):
    """What is wrong with a medium, and the cure."""

    problem: str
    cure: str


class MediaCheck:
    """Opens each medium once, as far as memory of what was found goes.

    Args:
        decode: Decode it as training would; otherwise only as much is read as tells its size or length.
    """

    def __init__(self, *, decode: bool) -> None:
        self.decode = decode
        self.unchecked: dict[str, int] = {}
        """Media that could not be opened here, by the reason: a package that is not installed."""
        self._found: OrderedDict[tuple[str, str], Finding | None] = OrderedDict()

    def __call__(self, item: dict[str, Any]) -> Finding | None:
        """Say what is wrong with the medium of an item; None if nothing is."""
        medium, kind = medium_of(item), item["type"]
        if not isinstance(medium, str):
            return self._open(medium, kind)
        key = (kind, medium)
        if key not in self._found:
            self._found[key] = self._open(medium, kind)
            if len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return self._found[key]

    def _open(self, medium: Any, kind: str) -> Finding | None:
        try:
            (_decode if self.decode else _measure)(medium, kind)
        except ImportError as error:
            reason = str(error).rpartition(": ")[2] or str(error)
            self.unchecked[reason] = self.unchecked.get(reason, 0) + 1
        except UniMoEError as error:
            return explain(error, medium, kind)
        return None


def _decode(medium: Any, kind: str) -> None:
    if kind == Modality.IMAGE.key:
        load_picture(medium, where="medium")
    elif kind == Modality.VIDEO.key:
        load_clip(medium, sampling=FrameSampling(), where="medium")
    else:
        load_sound(medium, sampling_rate=SAMPLING_RATE, where="medium")


def _measure(medium: Any, kind: str) -> None:
    if kind == Modality.IMAGE.key:
        if 0 in (size := picture_size(medium, where="medium")):
            raise MediaError("medium", f"the picture has {size[0]} x {size[1]} pixels.", "Replace the file.")
    elif kind == Modality.VIDEO.key:
        clip_times(medium, sampling=FrameSampling(), where="medium")
    else:
        sound_length(medium, sampling_rate=SAMPLING_RATE, where="medium")


def explain(error: UniMoEError, medium: Any, kind: str) -> Finding:
    """Take problem and cure of what a loader says; a better cure for a file that is something else.

    Args:
        error: Of the loader.
        medium: A path, or {"bytes", "path"}.
        kind: What it should have been.
    """
    found = what_is(_head(medium))
    expected = _KINDS.get(kind, _SOUND)
    is_clip = kind == Modality.VIDEO.key and found == _PICTURE  # pictures may move
    is_other = not (found == expected or is_clip or isinstance(error, LimitError))
    return Finding(error.problem, _CURES.get(found, error.cure) if is_other else error.cure)


def _head(medium: Any) -> bytes:
    if isinstance(medium, dict):
        return bytes((medium.get("bytes") or b"")[:HEAD])
    if not isinstance(medium, str) or not os.path.isfile(medium):
        return b""
    with open(medium, "rb") as file:
        return file.read(HEAD)


__all__ = ["Finding", "MediaCheck", "explain"]
