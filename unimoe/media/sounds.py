"""Sounds: whatever holds one becomes mono float32 samples at the wanted rate, and is cut into windows."""

import os
from numbers import Number
from typing import Any

import numpy as np
import torch

from .files import file_of, name_of, to_numpy, unreadable
from .films import read_track

MINIMUM_SECONDS = 0.025
"""One analysis frame: the Kaldi filter bank of AST refuses shorter sounds, so they are padded with zeros to this."""


def load_sound(
    medium: Any, *, sampling_rate: int, array_sampling_rate: int | None = None, where: str = "audio"
) -> np.ndarray:
    """Load one sound as mono float32 samples (n,) in -1..1 at `sampling_rate`.

    Args:
        medium: Path, bytes or {"bytes", "path"} of a file; {"array", "sampling_rate"}; a decoder with
            `get_all_samples` (torchcodec's AudioDecoder, as `datasets` gives it); or samples as list, array or tensor,
            (n,), (channels, n) or (n, channels), floats in -1..1 or integers. Channels are averaged.
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
        where = f"{where}: {name_of(medium)}"
    return prepare_samples(samples, rate, sampling_rate=sampling_rate, where=where)


def prepare_samples(samples: np.ndarray, rate: float, *, sampling_rate: int, where: str) -> np.ndarray:
    """Average channels and change the rate.

    Args:
        samples: Floats in -1..1 or integers of shape (n,), (channels, n) or (n, channels).
        rate: Theirs, Hz.
        sampling_rate: Wanted, Hz.
        where: Name of the medium in error messages.

    Raises:
        ValueError, ImportError: As `load_sound`.
    """
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
    """Cut a sound (n,) into ceil(n / window) windows of at most `window` samples; nothing is dropped."""
    pieces = [samples[start : start + window] for start in range(0, len(samples), window)]
    missing = round(MINIMUM_SECONDS * sampling_rate) - len(pieces[-1])
    if missing > 0:
        pieces[-1] = np.pad(pieces[-1], (0, missing))
    return pieces


def _read_samples(medium: Any, default_rate: int, where: str) -> tuple[np.ndarray, float]:
    if hasattr(medium, "get_all_samples"):
        decoded = medium.get_all_samples()
        return to_numpy(decoded.data), int(decoded.sample_rate)
    if isinstance(medium, dict) and medium.get("array") is not None:
        rate = medium.get("sampling_rate")
        return to_numpy(medium["array"]), default_rate if rate is None else rate
    if hasattr(medium, "ndim") or _is_samples(medium):
        return to_numpy(medium), default_rate
    return _read_file(medium, where)


def _is_samples(medium: Any) -> bool:
    """Whether this is a list of numbers (or an empty one), which is one sound and not a list of sounds."""
    return isinstance(medium, (list, tuple)) and (not medium or isinstance(medium[0], Number))


def _read_file(medium: Any, where: str) -> tuple[np.ndarray, float]:
    import soundfile

    file = file_of(medium, where)
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)  # (n, channels)
        return samples.T, rate
    except soundfile.LibsndfileError as error:
        unknown = error
    try:
        track = read_track(medium, where=where)
    except ImportError:
        raise ValueError(
            f"{where}: soundfile cannot read {name_of(medium)} ({unknown}). For formats that it does not know, such "
            "as AAC or the track of a video, `pip install unimoe[video]` (PyAV)."
        ) from unknown
    if track is None:
        raise unreadable(medium, where, "sound", ValueError("it has no sound track"))
    return track


def _mono(samples: np.ndarray, where: str) -> np.ndarray:
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "if":
        raise ValueError(
            f"{where}: samples are floats or signed integers of shape (n,), (channels, n) or (n, channels), got "
            f"{samples.dtype} of shape {samples.shape}."
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


__all__ = ["MINIMUM_SECONDS", "cut_windows", "load_sound", "prepare_samples", "window_samples"]
