"""Sounds at another rate: torchaudio's windowed sinc, in memory that does not grow with odd rates."""

import math

import numpy as np
import torch

KERNEL = 1 << 22
"""Values of a kernel from which on it is not made: 44101 Hz to 16000 Hz would take 8 GB."""
_ZEROS, _ROLLOFF = 6, 0.99
"""torchaudio's defaults: zero crossings of the window on each side, cutoff as a part of the lower half rate."""
_CHUNK = 1 << 14


def resampled_length(length: int, rate: int, wanted: int) -> int:
    """Count samples at `wanted` Hz of a sound that has `length` at `rate`; as torchaudio rounds, in float32."""
    if rate == wanted:
        return length
    divisor = math.gcd(rate, wanted)
    return int(torch.ceil(torch.as_tensor(wanted // divisor * length / (rate // divisor))))


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Bring samples (n,), float32, from `rate` to `wanted` Hz.

    torchaudio makes one filter for each phase between the two rates, (wanted, rate) values over their greatest common
    divisor. Where these are too many, the filter of the nearest of fewer phases is taken.

    Raises:
        ImportError: If torchaudio is needed and not installed.
    """
    if rate == wanted:
        return samples
    divisor = math.gcd(rate, wanted)
    if (wanted // divisor) * (rate // divisor + 2 * _width(rate, wanted)) > KERNEL:
        return _resample_each(samples, rate, wanted)
    try:
        from torchaudio.functional import resample as torchaudio_resample
    except (ImportError, OSError) as error:  # OSError: a torchaudio built for another torch
        raise ImportError(
            f"Resampling from {rate} to {wanted} Hz needs torchaudio: `pip install torchaudio`."
        ) from error
    resampled: np.ndarray = torchaudio_resample(torch.from_numpy(samples), rate, wanted).numpy()
    return resampled


def _width(rate: int, wanted: int) -> int:
    """Return the samples at `rate` on each side that take part in one at `wanted`."""
    return math.ceil(_ZEROS * rate / (min(rate, wanted) * _ROLLOFF))


def _resample_each(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Each sample with torchaudio's `sinc_interp_hann` of the nearest of many phases; half of their distance is heard
    as noise below -90 dB."""
    width, cutoff = _width(rate, wanted), min(rate, wanted) * _ROLLOFF / rate  # of the rate of the samples
    taps = 2 * width + 1
    phases = KERNEL // taps
    offsets = torch.arange(taps) - width - torch.arange(phases + 1)[:, None] / phases  # (phases, taps)
    offsets = (offsets * cutoff).clamp(-_ZEROS, _ZEROS)  # in zero crossings
    kernels = torch.sinc(offsets) * torch.cos(offsets * (math.pi / _ZEROS / 2)) ** 2 * cutoff
    windows = torch.nn.functional.pad(torch.from_numpy(samples), (width, width + 1)).unfold(0, taps, 1)
    length = resampled_length(len(samples), rate, wanted)
    result = torch.empty(length)
    for start in range(0, length, _CHUNK):
        numbers = torch.arange(start, min(start + _CHUNK, length)) * rate
        at, phase = numbers // wanted, (numbers % wanted * phases + wanted // 2) // wanted
        result[start : start + _CHUNK] = (windows[at.clamp(max=len(windows) - 1)] * kernels[phase]).sum(dim=1)
    return result.numpy()


__all__ = ["resample", "resampled_length"]
