"""Media of lmms-eval's tasks become typed items of our messages, in the order in which the task gives them.

A task hands over whatever it has: pictures, paths, dicts of `datasets`, decoders of torchcodec. lmms-eval knows one
kind of sound; unimoe two, speech and other sounds, each with an encoder of its own (`sound_key`).
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePath
from typing import Any, Literal

from PIL import Image

from ..errors import DataError
from ..errors.suggest import did_you_mean
from ..media.naming import shown
from ..modality import Modality
from ..processing.keys import PART_KEYS
from ..processing.messages import Item as ReadItem
from ..processing.messages import Reading, read_message
from ..processing.values import holds_nothing, name_of

Item = dict[str, Any]
Message = dict[str, Any]
SoundKey = Literal["audio", "speech"]
SOUND_CHOICES = ("auto", "audio", "speech")

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
SOUNDS = frozenset({".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma"})
TAG = "<image>"
"""Where a picture stands in the text of a simple task."""

SPEECH_TASKS = (
    "*librispeech*",
    "*open_asr*",
    "*common_voice*",
    "*fleurs*",
    "*gigaspeech*",
    "*tedlium*",
    "*wenet_speech*",
    "*people_speech*",
    "*voxpopuli*",
    "*europal_asr*",
    "*covost2*",
    "ami_*",
    "av_asr*",
    "av_speakerbench*",
    "*voicebench*",
    "alpaca_audio*",
    "openhermes*",
    "dream_tts_mcq*",
    "cn_college_listen_mcq*",
    "step2_audio_paralinguistic*",
    "air_bench_*_speech*",
)
"""Names of lmms-eval's tasks whose sounds are speech."""


def sound_key(
    task: str, modalities: Iterable[Modality], *, sound: str = "auto", metadata: Mapping[str, Any] | None = None
) -> SoundKey:
    """Say what the sounds of a task are to the model: `speech`, or `audio` for all others.

    Args:
        task: Its name.
        modalities: Those that the processor takes. If it takes one kind of sound alone, that is it.
        sound: `audio` or `speech` for every task; `auto` decides by task: what its YAML states under
            `metadata: {sound: ...}`, otherwise speech if `SPEECH_TASKS` has it.
        metadata: Of the task.

    Raises:
        ValueError: If `sound` or the task's metadata is another word.
    """
    stated = (metadata or {}).get("sound", "auto") if sound == "auto" else sound
    if stated not in SOUND_CHOICES:
        hint = did_you_mean(str(stated), SOUND_CHOICES)
        raise ValueError(f"task {task}: sound={stated!r} is no kind of sound.{hint}")
    heard = {modality.key for modality in modalities} & {"audio", "speech"}
    if stated == "auto":
        stated = "speech" if any(fnmatch(task, pattern) for pattern in SPEECH_TASKS) else "audio"
        stated = heard.pop() if len(heard) == 1 else stated
    return "speech" if stated == "speech" else "audio"


def to_messages(messages: Sequence[Mapping[str, Any]], *, sound: SoundKey) -> list[Message]:
    """Map a task's chat messages, whose media stand under `url`, to ours.

    Args:
        messages: As `unimoe.processing.messages` reads them; lmms-eval's media stand under `url`.
        sound: What sounds are to the model.

    Raises:
        DataError: If a message cannot be read or has a key that would be lost, a medium is of no known kind, or
            only a part of a film is asked about.
    """
    if not isinstance(messages, list | tuple):
        raise DataError("messages", f"expected a list, got {shown(messages)}.", "Give one object for each turn.")
    reading = Reading(sound)
    read = [read_message(m, where=f"message {number}", reading=reading) for number, m in enumerate(messages)]
    return [{"role": message.role, "content": [_item(item, sound) for item in message.items]} for message in read]


def user_turn(media: Any, text: str, *, sound: SoundKey) -> list[Message]:
    """Make one user turn of the media of a simple task and its text.

    Args:
        media: What `doc_to_visual` gave: a list, one medium, or None.
        text: If it has as many `<image>` tags as there are media, each stands at its tag; otherwise media come first.
        sound: What sounds are to the model.

    Raises:
        DataError: If a medium is of no known kind.
    """
    given = list(media) if isinstance(media, (list, tuple)) else [] if media is None else [media]
    items = [media_item(medium, sound=sound) for medium in given]
    pieces = text.split(TAG)
    if not items or len(pieces) - 1 != len(items):
        return [{"role": "user", "content": [*items, {"type": "text", "text": text}]}]
    content: list[Item] = []
    for piece, item in zip(pieces, [*items, None], strict=True):
        content.extend(part for part in ({"type": "text", "text": piece} if piece else None, item) if part)
    return [{"role": "user", "content": content}]


def media_item(medium: Any, stated: str | None = None, *, sound: SoundKey) -> Item:
    """Make a typed item of a medium.

    Args:
        medium: Picture, path, decoder, array, list of frames, or dict of `datasets` or of a task.
        stated: What the task says it is. A decoder or samples are what they are all the same: lmms-eval calls a sound
            without a type a video.
        sound: What sounds are to the model.

    Raises:
        DataError: If it is of no known kind, or only a part of a film is asked about.
    """
    kind = _kind(medium, stated)
    if isinstance(medium, Mapping):
        _refuse_section(medium)
        bare = {"array", "bytes", "frames"}.isdisjoint(medium)
        medium = (
            next((medium[key] for key in ("url", "path", kind) if not holds_nothing(medium.get(key))), medium)
            if bare
            else medium
        )
    key = sound if kind == "audio" else kind
    return {"type": key, key: medium}


def _item(item: ReadItem, sound: SoundKey) -> Item:
    if item.kind == "text" or item.value is None:
        return item.as_dict()
    return media_item(item.value, "audio" if item.kind == "speech" else item.kind, sound=sound)


def _refuse_section(medium: Mapping[str, Any]) -> None:
    if given := {key: medium[key] for key in PART_KEYS if medium.get(key) is not None}:
        problem = f"only a part of a film is asked about ({shown(given)})."
        raise DataError("the medium", problem, "Cut it out beforehand, and give that file.")


def _kind(medium: Any, stated: str | None) -> str:
    """`image`, `video` or `audio`: what a medium shows itself to be, then what the task says, then its file's name."""
    if hasattr(medium, "get_all_samples") or (isinstance(medium, Mapping) and medium.get("array") is not None):
        return "audio"
    if hasattr(medium, "get_frames_at") or (isinstance(medium, Mapping) and medium.get("frames") is not None):
        return "video"
    if isinstance(medium, Image.Image):
        return "image"
    named = _kind_of_file(medium)
    if (stated == "video" and named == "audio") or _is_webm(medium):
        return str(named)
    typed = medium.get("type") if isinstance(medium, Mapping) else None
    kind = stated or (typed if holds_nothing(typed) else name_of(typed)) or named
    if kind is None and (isinstance(medium, list) or getattr(medium, "ndim", None) == 4):
        return "video"
    if kind not in ("image", "video", "audio"):
        problem, cure = f"a {type(medium).__name__} is neither picture, film nor sound", _described(medium)
        raise DataError(f"{problem}{cure}")
    return str(kind)


def _is_webm(medium: Any) -> bool:
    """Whether this is a .webm, which lmms-eval takes for a sound, and data sets of clips for a film."""
    return isinstance(medium, (str, PurePath)) and PurePath(medium).suffix.lower() == ".webm"


def _kind_of_file(medium: Any) -> str | None:
    path = (
        next((medium[key] for key in ("url", "path") if not holds_nothing(medium.get(key))), None)
        if isinstance(medium, Mapping)
        else medium
    )
    if not isinstance(path, (str, PurePath)):
        return None
    ending = PurePath(path).suffix.lower()
    return "image" if ending in PICTURES else "audio" if ending in SOUNDS else "video"


def _described(medium: Any) -> str:
    if isinstance(medium, Mapping):
        return f" (its keys: {', '.join(map(name_of, medium))}). State its `type`, or give a path."
    return ". Give a PIL image, a path, a dict of `datasets`, a decoder of torchcodec, or a list of frames."


__all__ = [
    "SOUND_CHOICES",
    "SPEECH_TASKS",
    "Item",
    "Message",
    "SoundKey",
    "media_item",
    "sound_key",
    "to_messages",
    "user_turn",
]
