"""Sounds: from a file, samples or the track of a film to mono samples at one rate, and windows of them."""

from typing import Any

import numpy as np

from ..errors import LimitError, MediaError
from .animations import is_animation
from .clips import is_frames
from .files import as_numpy, is_array, open_file, placed
from .limits import Limits, limits_or_default
from .naming import check_keys
from .resampling import resample, resampled_length
from .sound_files import check_format, check_length, counted_length, decode_track, read_sound_file

MINIMUM_SECONDS = 0.025
"""One analysis frame: the Kaldi filter bank of AST refuses shorter sounds, so they are padded with zeros to this."""

_LOUDEST = 4.0
"""Floats beyond it are no samples of full scale 1: mixes and lossy codecs overshoot by less."""
_FULL_SCALE = 2**15
"""Of 16 bit."""


def load_sound(
    medium: Any,
    *,
    sampling_rate: int,
    array_sampling_rate: int | None = None,
    where: str = "audio",
    limits: Limits | None = None,
) -> np.ndarray:
    """Load one sound as mono float32 samples (n,) at `sampling_rate`, full scale 1.

    Args:
        medium: What `find_medium` takes; {"array", "sampling_rate"}; a decoder with `get_all_samples` (torchcodec's
            AudioDecoder, as `datasets` gives it); or samples as list, array or tensor, (n,), (channels, n) or (n,
            channels). Channels are averaged. Files that soundfile does not know, such as AAC and M4A, and the tracks
            of films are decoded by PyAV. Floats have full scale 1, integers that of their width; integers of 32 and 64
            bit that fit into 16 are of 16 bit.
        sampling_rate: Wanted rate, Hz.
        array_sampling_rate: Rate of samples that come without one, Hz. None: they are at `sampling_rate` already.
        where: Name of the medium in error messages.
        limits: None: those of the environment.

    Raises:
        MediaError: If the file is missing, not whole or no sound, the sound is empty, a sample is not finite, or its
            rate or the meaning of its numbers is not known.
        LimitError: If it is too long, or has too many channels or too high a rate.
        ImportError: If the rate must change and torchaudio is not installed.
    """
    limits = limits_or_default(limits)
    default_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
    samples, rate = _read_samples(medium, default_rate, where, limits)
    return resample(_checked(samples, placed(where, medium)), rate, sampling_rate)


def sound_length(
    medium: Any,
    *,
    sampling_rate: int,
    array_sampling_rate: int | None = None,
    where: str = "audio",
    limits: Limits | None = None,
) -> int:
    """Return the samples that `load_sound` gives; of files whose structure counts them (WAV, FLAC, ...), nothing is
    decoded.

    Args:
        medium: As for `load_sound`.
        sampling_rate: Rate of the samples that are counted, Hz.
        array_sampling_rate: Rate of bare samples, Hz.
        where: File and row, for errors.
        limits: None: those of the environment.

    Raises:
        MediaError, LimitError, ImportError: As `load_sound`, as far as the structure shows.
    """
    limits = limits_or_default(limits)
    default_rate = sampling_rate if array_sampling_rate is None else array_sampling_rate
    if is_decoded_sound(medium):
        samples, rate = _read_samples(medium, default_rate, where, limits)
        return resampled_length(len(_checked(samples, where)), rate, sampling_rate)
    length, rate = counted_length(medium, where=where, limits=limits)
    if not length:
        track = read_sound_file(medium, where=where, limits=limits)
        length, rate = len(_checked(track.samples, placed(where, medium))), track.rate
    return resampled_length(length, rate, sampling_rate)


def load_clip_sound(
    medium: Any, *, sampling_rate: int, where: str = "video", limits: Limits | None = None
) -> np.ndarray | None:
    """Load the sound track of a clip as mono float32 samples (n,) in -1..1; sample 0 is heard with the first frame.

    Args:
        medium: As for `load_clip`. Only films have sound: animations and frames have none.
        sampling_rate: Wanted rate, Hz.
        where: Name of the medium in error messages.
        limits: None: those of the environment.

    Returns:
        The samples; None if there are none.

    Raises:
        MediaError: If the file is missing or its sound is damaged, or the medium is a decoder of frames alone.
        LimitError: If the track is too long, or has too many channels or too high a rate.
        ImportError: If PyAV is not installed, or the rate must change and torchaudio is not.
    """
    if hasattr(medium, "get_frames_at"):
        raise MediaError(
            where,
            f"a {type(medium).__name__} gives no sound.",
            "Pass the path or the bytes of the film, or leave its sound out (video_sound=None).",
        )
    if is_frames(medium):
        return None
    limits = limits_or_default(limits)
    file = open_file(medium, where, limits)
    if is_animation(file):
        return None
    track = decode_track(file, medium, where=where, kind="video", limits=limits)
    if track is None:
        return None
    late = round(track.late * track.rate)
    place = placed(where, medium)
    check_length(len(track.samples) + late, track.rate, 1, place, limits)
    samples = np.pad(track.samples[max(-late, 0) :], (max(late, 0), 0))
    return resample(_checked(samples, place), track.rate, sampling_rate) if samples.size else None


def window_samples(extractor: Any) -> int:
    """Count the samples in a window of a feature extractor: `n_samples` (Whisper), or `max_length` frames (AST, 10 ms
    apart).

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


def count_windows(samples: int, extractor: Any, *, where: str) -> int:
    """Count the windows of a feature extractor that a sound of so many samples at its rate fills.

    Args:
        samples: Of the sound.
        extractor: Its window is that of `window_samples`; its `max_windows`, if it has any, the most that one fills.
        where: Name of the sound in error messages.

    Raises:
        LimitError: If the sound is longer than `max_windows`.
    """
    window = window_samples(extractor)
    windows = -(-samples // window)
    if (most := getattr(extractor, "max_windows", None)) is not None and windows > most:
        raise LimitError(
            where,
            f"the sound fills {windows} windows of {window / extractor.sampling_rate:g} s, and max_windows of "
            f"{type(extractor).__name__} is {most}.",
            "Cut the sound into several, or raise max_windows.",
        )
    return windows


def cut_windows(samples: np.ndarray, *, window: int, sampling_rate: int | None = None) -> list[np.ndarray]:
    """Cut a sound (n,) into ceil(n / window) windows of at most `window` samples; nothing is dropped.

    A last window shorter than `MINIMUM_SECONDS` at `sampling_rate` (Hz) is padded to it; None: it stays as it is.
    """
    pieces = [samples[start : start + window] for start in range(0, len(samples), window)]
    missing = 0 if sampling_rate is None else round(MINIMUM_SECONDS * sampling_rate) - len(pieces[-1])
    if missing > 0:
        pieces[-1] = np.pad(pieces[-1], (0, missing))
    return pieces


def is_decoded_sound(medium: Any) -> bool:
    """Whether this holds samples, or a decoder of them, and names no file."""
    is_dict = isinstance(medium, dict) and medium.get("array") is not None
    return is_dict or is_array(medium) or isinstance(medium, list | tuple) or hasattr(medium, "get_all_samples")


def _read_samples(medium: Any, default_rate: int, where: str, limits: Limits) -> tuple[Any, int]:
    """Return samples, mono or of a shape that `_mono` takes, and their rate."""
    if not is_decoded_sound(medium):
        track = read_sound_file(medium, where=where, limits=limits)
        return track.samples, track.rate
    if hasattr(medium, "get_all_samples"):
        samples, stated = _decode_all(medium, where, limits)
    elif isinstance(medium, dict):
        check_keys(medium, ("array", "sampling_rate", "path", "bytes"), where)
        samples, stated = as_numpy(medium["array"], where), medium.get("sampling_rate")
    else:
        samples, stated = as_numpy(medium, where), None
    rate = _whole_rate(default_rate if stated is None else stated, where)
    shape = samples.shape if samples.ndim in (1, 2) else (0,)
    check_format(rate, min(shape) if len(shape) == 2 else 1, where, limits)
    check_length(max(shape), rate, min(shape) if len(shape) == 2 else 1, where, limits)
    return samples, rate


def _decode_all(decoder: Any, where: str, limits: Limits) -> tuple[np.ndarray, Any]:
    seconds = getattr(getattr(decoder, "metadata", None), "duration_seconds", None) or 0
    limits.check("sound_seconds", seconds, f"the sound has {seconds:.0f} s", where=where)
    decoded = decoder.get_all_samples()  # (channels, n)
    return as_numpy(decoded.data, where), decoded.sample_rate


def _whole_rate(rate: Any, where: str) -> int:
    """Return a sampling rate as a whole number of Hz."""
    try:
        number = float(rate)
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(rate, str | bool) or not 1 <= number < float("inf") or number != int(number):
        raise MediaError(where, f"the sampling rate is {rate!r} Hz.", "State the rate of the samples, such as 16000.")
    return int(number)


_PASS = (
    "Pass each sound alone, as floats of full scale 1 or integers of full scale of their width, of shape (n,), "
    "(channels, n) or (n, channels)."
)


def _checked(samples: np.ndarray, where: str) -> np.ndarray:
    """Mono float32 samples (n,) of full scale 1 that are finite."""
    if samples.size == 0:
        raise MediaError(where, "the sound is empty (0 samples).", "Leave it out, or pass at least one sample.")
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "iuf":
        raise MediaError(where, f"got {samples.dtype} of shape {samples.shape} for a sound.", _PASS)
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise MediaError(
            where, f"{bad} of {samples.size} samples are NaN or infinite.", "Repair or leave out the sound."
        )
    floats = _from_floats(samples, where) if samples.dtype.kind == "f" else _from_integers(samples, where)
    if floats.ndim == 2:
        floats = floats.mean(axis=int(floats.shape[0] > floats.shape[1]))  # the shorter axis holds the channels
    return np.ascontiguousarray(floats, dtype=np.float32)


def _from_floats(samples: np.ndarray, where: str) -> np.ndarray:
    if (peak := float(np.abs(samples).max())) > _LOUDEST:
        cure = "Divide by 32768 what was of 16 bit, by its peak otherwise, or pass integers."
        raise MediaError(where, f"floats of a sound have full scale 1, and these reach {peak:g}.", cure)
    return samples


def _from_integers(samples: np.ndarray, where: str) -> np.ndarray:
    """Full scale is that of the integers' width; what 32 or 64 bit hold may be of 16, which would be near silence."""
    width = samples.dtype.itemsize
    if samples.dtype.kind == "u":
        cure = "Pass floats: of 8 bit as in WAV files (samples - 128.0) / 128."
        raise MediaError(where, f"samples are signed, and which of these {samples.dtype} is silence is unknown.", cure)
    peak = max(-int(samples.min()), int(samples.max()))
    if width <= 2:
        return samples / 2.0 ** (8 * width - 1)
    if peak <= _FULL_SCALE:
        return samples / float(_FULL_SCALE)
    if peak <= 2**31 and (peak > 2**23 or not (samples & 0xFF).any()):  # 32 bit, or 24 bit in the upper ones
        return samples / 2.0**31
    cure = "Divide them by their full scale, such as 8388608 for 24 bit, and pass floats."
    raise MediaError(where, f"{samples.dtype} that reach {peak} may be of 24 or of 32 bit.", cure)


__all__ = [
    "count_windows",
    "cut_windows",
    "is_decoded_sound",
    "load_clip_sound",
    "load_sound",
    "resampled_length",
    "sound_length",
    "window_samples",
]
