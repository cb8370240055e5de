"""Load pictures, clips and sounds from what people have at hand, and say where and why when that fails.

In: a path, bytes, a PIL image, a numpy array, a torch tensor, a dict of `datasets` or a torchcodec decoder.
Out: a picture is an RGB PIL image; a clip a list of them; a sound a mono float32 array (samples,) at the wanted rate.
Nothing is fetched from the network. soundfile, torchaudio and torchcodec are imported where they are used.
"""

import io
import os
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

CHANNELS = (1, 3, 4)
MINIMUM_SECONDS = 0.025
"""One analysis frame: the Kaldi filter bank of AST refuses shorter sounds, so they are padded with zeros to this."""


def is_picture(medium: Any) -> bool:
    """Whether this is a decoded picture: a PIL image, or an array or tensor with two or three dimensions."""
    return isinstance(medium, Image.Image) or getattr(medium, "ndim", None) in (2, 3)


def load_picture(medium: Any, *, where: str = "image") -> Image.Image:
    """Load one picture as an upright RGB image.

    Args:
        medium: Path, bytes, {"bytes", "path"}, PIL image, or array or tensor of shape (H, W), (H, W, C) or (C, H, W)
            with C of 1, 3 or 4; integers in 0..255, or floats in 0..1 or in 0..255. Where both channel layouts fit, an
            array is read as (H, W, C) and a tensor as (C, H, W). An alpha channel is dropped.
        where: Name of the medium in error messages, such as "row 0, image 1".

    Raises:
        ValueError: If the file is missing or is no picture, or the array has another shape or range.
    """
    if isinstance(medium, Image.Image):
        return ImageOps.exif_transpose(medium).convert("RGB")
    if hasattr(medium, "ndim"):
        return _image_from_array(medium, where)
    file = _file(medium, where)
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # of a damaged file, Pillow's decoders raise whatever the damage leads them to
        raise _unreadable(medium, where, "picture", error) from error


def load_clip(medium: Any, *, num_frames: int, where: str = "video") -> list[Image.Image]:
    """Load `num_frames` frames of one clip, from the middles of as many equal parts; short clips repeat frames.

    Args:
        medium: List of pictures (see `load_picture`), array (F, H, W, C) or tensor (F, C, H, W), a decoder with
            `get_frames_at` (torchcodec's VideoDecoder, as `datasets` gives it), or path, bytes or {"bytes", "path"} of
            a file. Animated GIF, WebP and PNG are read by Pillow, all other files by torchcodec.
        num_frames: Frames to sample.
        where: Name of the medium in error messages.

    Raises:
        ValueError: If the file is missing, or nothing can be decoded from it, or there are no frames.
        ImportError: If the file needs torchcodec, which is not installed.
    """
    if hasattr(medium, "get_frames_at"):
        indices = _frame_indices(len(medium), num_frames, where)
        frames = list(medium.get_frames_at(indices=indices).data)
    elif isinstance(medium, (list, tuple)):
        frames = [medium[index] for index in _frame_indices(len(medium), num_frames, where)]
    elif hasattr(medium, "ndim"):
        if medium.ndim != 4:
            raise ValueError(
                f"{where}: a clip as an array has 4 dimensions (frames, height, width, channels), got shape "
                f"{tuple(medium.shape)}."
            )
        frames = [medium[index] for index in _frame_indices(len(medium), num_frames, where)]
    else:
        return _decode_clip(medium, num_frames, where)
    return [load_picture(frame, where=f"{where}, frame {index}") for index, frame in enumerate(frames)]


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
        where = f"{where}: {_name(medium)}"
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


def _name(medium: Any) -> str:
    """How a medium is called in messages: its path, or its type."""
    if isinstance(medium, dict):
        return _name(medium["path"]) if medium.get("path") else f"a dict with {sorted(map(str, medium))}"
    return repr(str(medium)) if isinstance(medium, (str, os.PathLike)) else f"a {type(medium).__name__}"


def _unreadable(medium: Any, where: str, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{where}: {_name(medium)} cannot be read as a {kind} ({' '.join(str(error).split())}). Replace the file, or "
        "leave it out."
    )


def _file(medium: Any, where: str) -> str | io.BytesIO:
    """A path that exists, or the bytes in memory, of a path, bytes or {"bytes", "path"}."""
    if isinstance(medium, dict):
        medium = next((medium[key] for key in ("bytes", "path") if medium.get(key) is not None), medium)
    if isinstance(medium, (bytes, bytearray, memoryview)):
        return io.BytesIO(medium)
    if not isinstance(medium, (str, os.PathLike)):
        raise ValueError(
            f"{where}: cannot load {_name(medium)}. Pass a path, bytes, an array or tensor, a PIL image, a dict of "
            "datasets or a torchcodec decoder."
        )
    path = os.fspath(medium)
    if "://" in path:
        raise ValueError(f"{where}: {path!r} is an address. Nothing is downloaded here: save the file, pass its path.")
    if not Path(path).is_file():
        raise ValueError(f"{where}: there is no file {path!r} (looked in {os.getcwd()!r}). Correct the path.")
    return path


def _to_numpy(array: Any) -> np.ndarray:
    return array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _image_from_array(array: Any, where: str) -> Image.Image:
    pixels = _to_numpy(array)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    layouts = [axis for axis in (0, -1) if pixels.ndim == 3 and pixels.shape[axis] in CHANNELS]
    if not layouts or pixels.size == 0:
        raise ValueError(
            f"{where}: a picture as an array has the shape (height, width), (height, width, channels) or (channels, "
            f"height, width) with {CHANNELS} channels, got {tuple(array.shape)}."
        )
    if layouts[0 if isinstance(array, torch.Tensor) else -1] == 0:
        pixels = pixels.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 255):
        raise ValueError(
            f"{where}: pixels lie in {low:g}..{high:g}, but must lie in 0..1 (floats) or 0..255. Pass the picture "
            "before it is normalised."
        )
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels * (255 if high <= 1 else 1))
    pixels = pixels.astype(np.uint8)
    return Image.fromarray(pixels.repeat(3, axis=-1) if pixels.shape[-1] == 1 else pixels[..., :3])


def _frame_indices(available: int, wanted: int, where: str) -> list[int]:
    """Middles of `wanted` equal parts of the clip."""
    if available == 0:
        raise ValueError(f"{where}: the clip has 0 frames, {wanted} are sampled. Leave it out, or pass its frames.")
    return [(2 * index + 1) * available // (2 * wanted) for index in range(wanted)]


def _decode_clip(medium: Any, num_frames: int, where: str) -> list[Image.Image]:
    file = _file(medium, where)
    try:
        with Image.open(file) as image:
            frames = []
            for index in _frame_indices(getattr(image, "n_frames", 1), num_frames, where):
                image.seek(index)
                frames.append(image.convert("RGB"))
            return frames
    except UnidentifiedImageError:
        pass  # not an animated picture: a film
    except Exception as error:  # as for pictures
        raise _unreadable(medium, where, "video", error) from error
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError) as error:  # RuntimeError: installed, but FFmpeg's libraries are not
        raise ImportError(
            f"{where}: decoding {_name(medium)} needs torchcodec and FFmpeg: `pip install unimoe[video]`. A list of "
            "frames needs neither."
        ) from error
    try:
        decoder = VideoDecoder(file.getvalue() if isinstance(file, io.BytesIO) else file)
    except (RuntimeError, ValueError) as error:
        raise _unreadable(medium, where, "video", error) from error
    return load_clip(decoder, num_frames=num_frames, where=where)


def _read_samples(medium: Any, default_rate: int, where: str) -> tuple[np.ndarray, float]:
    if hasattr(medium, "get_all_samples"):
        decoded = medium.get_all_samples()
        return _to_numpy(decoded.data), int(decoded.sample_rate)
    if isinstance(medium, dict) and medium.get("array") is not None:
        rate = medium.get("sampling_rate")
        return _to_numpy(medium["array"]), default_rate if rate is None else rate
    if hasattr(medium, "ndim") or _is_samples(medium):
        return _to_numpy(medium), default_rate
    return _read_sound_file(medium, where)


def _is_samples(medium: Any) -> bool:
    """Whether this is a list of numbers (or an empty one), which is one sound and not a list of sounds."""
    return isinstance(medium, (list, tuple)) and (not medium or isinstance(medium[0], Number))


def _read_sound_file(medium: Any, where: str) -> tuple[np.ndarray, int]:
    import soundfile

    file = _file(medium, where)
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)  # (n, channels)
        return samples.T, rate
    except soundfile.LibsndfileError as error:
        unreadable = error
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, RuntimeError):
        raise ValueError(
            f"{where}: soundfile cannot read {_name(medium)} ({unreadable}). For formats that it does not know, such "
            "as AAC or the track of a video, `pip install unimoe[audio]` (torchcodec and FFmpeg)."
        ) from unreadable
    try:
        decoded = AudioDecoder(file.getvalue() if isinstance(file, io.BytesIO) else file).get_all_samples()
    except (RuntimeError, ValueError) as error:
        raise _unreadable(medium, where, "sound", error) from error
    return _to_numpy(decoded.data), int(decoded.sample_rate)


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


__all__ = ["cut_windows", "is_picture", "load_clip", "load_picture", "load_sound", "window_samples"]
