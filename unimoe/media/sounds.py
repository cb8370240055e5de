"""Sounds: from a file, samples or the track of a film to mono samples at one rate, and windows of them."""

import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from numbers import Number
from typing import Any

import numpy as np
import torch

from .clips import is_animation
from .files import (
    check_complete,
    is_array,
    medium_name,
    open_container,
    open_file,
    states_duration,
    to_numpy,
    unreadable,
)

MINIMUM_SECONDS = 0.025
"""One analysis frame: the Kaldi filter bank of AST refuses shorter sounds, so they are padded with zeros to this."""

_COUNTED_FORMATS = frozenset(["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"])
"""Formats of soundfile whose header counts the samples."""


def load_sound(
    medium: Any, *, sampling_rate: int, array_sampling_rate: int | None = None, where: str = "audio"
) -> np.ndarray:
    """Load one sound as mono float32 samples (n,) in -1..1 at `sampling_rate`.

    Args:
        medium: Path, bytes or {"bytes", "path"} of a file; {"array", "sampling_rate"}; a decoder with
            `get_all_samples` (torchcodec's AudioDecoder, as `datasets` gives it); or samples as list, array or tensor,
            (n,), (channels, n) or (n, channels), floats in -1..1 or integers. Channels are averaged. Files that
            soundfile does not know, such as AAC and M4A, and the tracks of films are decoded by PyAV.
        sampling_rate: Wanted rate, Hz.
        array_sampling_rate: Rate of samples that come without one, Hz. None: they are at `sampling_rate` already.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the file is missing or is no sound, the sound is empty, a sample is not finite, or its rate is
            not positive.
        ImportError: If the rate must change and torchaudio is not installed.
    """
    default_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
    samples, rate = _read_samples(medium, default_rate, where)
    if isinstance(medium, (str, os.PathLike)):
        where = f"{where}: {medium_name(medium)}"
    return _at_rate(samples, rate, sampling_rate, where)


def sound_length(
    medium: Any, *, sampling_rate: int, array_sampling_rate: int | None = None, where: str = "audio"
) -> int:
    """Samples that `load_sound` gives; of files whose header counts them exactly (WAV, FLAC, ...), nothing is decoded.

    Of a file that lacks some of the samples that its header promises, those promised count.

    Args:
        medium, sampling_rate, array_sampling_rate, where: As for `load_sound`.

    Raises:
        ValueError: As `load_sound`, as far as the header shows.
    """
    default_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
    length, rate = _stated_length(medium, default_rate, where)
    if not length or not 0 < rate < float("inf"):
        sound = load_sound(medium, sampling_rate=sampling_rate, array_sampling_rate=array_sampling_rate, where=where)
        return len(sound)
    return length if rate == sampling_rate else resampled_length(length, int(rate), sampling_rate)


def resampled_length(length: int, rate: int, wanted: int) -> int:
    """Samples of a sound at `wanted` Hz that has `length` of them at `rate`; as torchaudio rounds, in float32."""
    divisor = math.gcd(rate, wanted)
    return int(torch.ceil(torch.as_tensor(wanted // divisor * length / (rate // divisor))))


def load_clip_sound(medium: Any, *, sampling_rate: int, where: str = "video") -> np.ndarray | None:
    """Load the sound track of a clip as mono float32 samples (n,) in -1..1; sample 0 is heard with the first frame.

    Args:
        medium: As for `load_clip`. Only films have sound: animations and frames have none.
        sampling_rate: Wanted rate, Hz.
        where: Name of the medium in error messages.

    Returns:
        The samples; None if there are none.

    Raises:
        ValueError: If the file is missing or its sound is damaged, or the medium is a decoder of frames alone.
        ImportError: If PyAV is not installed, or the rate must change and torchaudio is not.
    """
    if hasattr(medium, "get_frames_at"):
        raise ValueError(
            f"{where}: a {type(medium).__name__} gives no sound. Pass the path or the bytes of the film, or leave its "
            "sound out (video_sound=None)."
        )
    is_frames = isinstance(medium, dict) and medium.get("frames") is not None
    if is_frames or isinstance(medium, (list, tuple)) or is_array(medium):
        return None
    file = open_file(medium, where)
    if is_animation(file):
        return None
    track = _decode_track(file, medium, where, "video")
    if track is None:
        return None
    late = round(track.late * track.rate)
    samples = np.pad(track.samples[max(-late, 0) :], (max(late, 0), 0))
    return _at_rate(samples, track.rate, sampling_rate, where) if samples.size else None


def window_samples(extractor: Any) -> int:
    """Samples in one window of a feature extractor: `n_samples` (Whisper), or `max_length` frames (AST, 10 ms apart).

    Raises:
        ValueError: If the extractor states neither.
    """
    if samples := getattr(extractor, "n_samples", None):
        return int(samples)
    if frames := getattr(extractor, "max_length", None):
        return int(frames * extractor.sampling_rate // 100)
    raise ValueError(
        f"{type(extractor).__name__} states no window length: it needs `n_samples`, as WhisperFeatureExtractor has, "
        "or `max_length` in frames of 10 ms, as ASTFeatureExtractor has."
    )


def cut_windows(samples: np.ndarray, *, window: int, sampling_rate: int) -> list[np.ndarray]:
    """Cut a sound (n,) into ceil(n / window) windows of at most `window` samples; nothing is dropped.

    A last window shorter than `MINIMUM_SECONDS` at `sampling_rate` (Hz) is padded to it.
    """
    pieces = [samples[start : start + window] for start in range(0, len(samples), window)]
    missing = round(MINIMUM_SECONDS * sampling_rate) - len(pieces[-1])
    if missing > 0:
        pieces[-1] = np.pad(pieces[-1], (0, missing))
    return pieces


@dataclass
class _Track:
    samples: np.ndarray
    rate: int
    late: float  # seconds from the first frame of the film to the first sample


def _read_samples(medium: Any, default_rate: int, where: str) -> tuple[np.ndarray, float]:
    """Samples, mono or of a shape that `_mono` takes, and their rate."""
    if hasattr(medium, "get_all_samples"):
        decoded = medium.get_all_samples()  # (channels, n)
        return to_numpy(decoded.data).mean(axis=0), int(decoded.sample_rate)
    if isinstance(medium, dict) and medium.get("array") is not None:
        rate = medium.get("sampling_rate")
        return to_numpy(medium["array"]), default_rate if rate is None else rate
    if is_array(medium) or _is_samples(medium):
        return to_numpy(medium), default_rate
    return _read_sound_file(medium, where)


def _stated_length(medium: Any, default_rate: int, where: str) -> tuple[int, float]:
    """Samples and rate that a header or the shape of an array states; 0 samples where only decoding tells."""
    if hasattr(medium, "get_all_samples"):
        return 0, default_rate
    if isinstance(medium, dict) and medium.get("array") is not None:
        rate = medium.get("sampling_rate")
        return _longer_axis(medium["array"]), default_rate if rate is None else rate
    if is_array(medium) or _is_samples(medium):
        return _longer_axis(medium), default_rate
    import soundfile

    file = open_file(medium, where)
    try:
        with soundfile.SoundFile(file) as sound:
            return sound.frames if sound.format in _COUNTED_FORMATS else 0, sound.samplerate
    except (soundfile.SoundFileError, TypeError):  # `load_sound` says what is wrong, or decodes it otherwise
        return 0, default_rate


def _longer_axis(samples: Any) -> int:
    """Samples of an array; the shorter axis holds the channels, as in `_mono`."""
    shape = np.shape(samples)
    return max(shape) if len(shape) in (1, 2) else 0


def _is_samples(medium: Any) -> bool:
    """Whether this is a list of numbers (or an empty one), which is one sound and not a list of sounds."""
    return isinstance(medium, (list, tuple)) and (not medium or isinstance(medium[0], Number))


def _read_sound_file(medium: Any, where: str) -> tuple[np.ndarray, int]:
    import soundfile

    file = open_file(medium, where)
    try:
        with soundfile.SoundFile(file) as sound:
            rate, stated = sound.samplerate, sound.frames
            samples = _joined(block.mean(axis=1) for block in _blocks(sound))
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a name that ends in .raw
        unknown = error
    else:
        check_complete(len(samples) / rate, stated / rate, medium, where=where, kind="sound")
        return samples, rate
    try:
        track = _decode_track(file, medium, where, "sound")
    except ImportError as error:
        raise ValueError(
            f"{where}: soundfile cannot read {medium_name(medium)} ({unknown}). For formats that it does not know, "
            "such as AAC or the track of a video, `pip install unimoe[audio]` (PyAV)."
        ) from error
    if track is None:
        raise unreadable(medium, where, "sound", "it holds no sound")
    return track.samples, track.rate


def _blocks(sound: Any) -> Iterator[np.ndarray]:
    """A minute at a time, (frames, channels): only the average of many channels is kept whole."""
    while len(block := sound.read(60 * sound.samplerate, dtype="float32", always_2d=True)):
        yield block


def _joined(pieces: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.float32), *pieces])


def _decode_track(file: str | io.BytesIO, medium: Any, where: str, kind: str) -> _Track | None:
    """The sound of a file, decoded with PyAV, channels averaged; None if there is no sound in it."""
    with open_container(file, medium, where=where, kind=kind) as container:
        from av import AudioResampler

        stream, film = container.streams.best("audio"), container.streams.best("video")
        if stream is None:
            return None
        to_floats, pieces, start, rate = AudioResampler(format="fltp"), [], None, stream.rate
        for frame in chain(container.decode(stream), [None]):  # None: give what is left
            if frame is not None and start is None:
                start, rate = frame.time, frame.sample_rate
            pieces += [piece.to_ndarray().mean(axis=0) for piece in to_floats.resample(frame)]
        samples = _joined(pieces)
        if stream.duration and states_duration(container):
            stated = float(stream.duration * stream.time_base)
            check_complete(len(samples) / rate, stated, medium, where=where, kind=kind)
        begin = start if film is None or film.start_time is None else float(film.start_time * film.time_base)
        return _Track(samples, rate, (start or 0.0) - (begin or 0.0))


def _at_rate(samples: np.ndarray, rate: float, sampling_rate: int, where: str) -> np.ndarray:
    """Checked mono samples at the wanted rate."""
    if not 0 < rate < float("inf"):
        raise ValueError(f"{where}: the sampling rate is {rate} Hz. State the rate of the samples, such as 16000.")
    if samples.size == 0:
        raise ValueError(f"{where}: the sound is empty (0 samples). Leave it out, or pass at least one sample.")
    samples = _mono(samples, where)
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise ValueError(
            f"{where}: {bad} of {samples.size} samples are NaN or infinite. Repair or leave out the sound."
        )
    return samples if rate == sampling_rate else _resample(samples, int(rate), sampling_rate)


def _mono(samples: np.ndarray, where: str) -> np.ndarray:
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "if":
        raise ValueError(
            f"{where}: samples are floats or signed integers of shape (n,), (channels, n) or (n, channels), got "
            f"{samples.dtype} of shape {samples.shape}. Pass each sound alone and so."
        )
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)  # int16: 1 / 32768
    if samples.ndim == 2:
        samples = samples.mean(axis=int(samples.shape[0] > samples.shape[1]))  # the shorter axis holds the channels
    return np.ascontiguousarray(samples, dtype=np.float32)


def _resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    try:
        from torchaudio.functional import resample
    except (ImportError, OSError) as error:  # OSError: a torchaudio built for another torch
        raise ImportError(
            f"Resampling from {rate} to {wanted} Hz needs torchaudio: `pip install torchaudio`."
        ) from error
    return resample(torch.from_numpy(samples), rate, wanted).numpy()
