"""Random changes to decoded media: pictures, waveforms and spectrograms. All chance comes from the generator given."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from ...config.data import ImageAugment, SoundAugment


def sample_generator(*numbers: int) -> torch.Generator:
    """Return a generator that depends on all of the numbers, such as seed, epoch and position of a sample."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1))


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number between low and high."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def augment_image(image: Image.Image, config: ImageAugment, generator: torch.Generator) -> Image.Image:
    """Flip, move, zoom, rotate and recolour a picture, each as far as the configuration allows; its size stays.

    What comes into view is filled with the colour of the upper left pixel.
    """
    if float(torch.rand((), generator=generator)) < config.flip:
        image = ImageOps.mirror(image)
    if config.shift or config.zoom or config.rotate:
        image = _move(image, config, generator)
    if config.jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(uniform(1 - config.jitter, 1 + config.jitter, generator))
    return image


def _move(image: Image.Image, config: ImageAugment, generator: torch.Generator) -> Image.Image:
    """One affine map around the centre: output pixel -> input pixel."""
    width, height = image.size
    angle = np.deg2rad(uniform(-config.rotate, config.rotate, generator))
    scale = 1 / uniform(1 - config.zoom, 1 + config.zoom, generator)
    shift_x, shift_y = (uniform(-config.shift, config.shift, generator) * side for side in image.size)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    center_x, center_y = width / 2, height / 2
    x = center_x - a * (center_x + shift_x) - b * (center_y + shift_y)
    y = center_y + b * (center_x + shift_x) - a * (center_y + shift_y)
    corner = image.getpixel((0, 0))
    coefficients = (a, b, x, -b, a, y)
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=corner
    )


def augment_sound(samples: np.ndarray, config: SoundAugment, generator: torch.Generator, *, rate: int) -> np.ndarray:
    """Change speed and pitch, delay, loudness and noise of a sound, each as far as the configuration allows.

    Args:
        samples: Mono, shape (n,).
        config: How far each change goes.
        generator: Source of chance.
        rate: Sampling rate, Hz.

    Returns:
        float32, shape (m,); longer by the silence put in front, and by slower speed.
    """
    waveform = torch.from_numpy(samples)
    if config.speed:
        length = max(1, round(len(waveform) / uniform(1 - config.speed, 1 + config.speed, generator)))
        waveform = F.interpolate(waveform[None, None], size=length, mode="linear", align_corners=False)[0, 0]
    if config.noise:
        level = uniform(0, config.noise, generator) * waveform.square().mean().sqrt()
        waveform = waveform + level * torch.randn(waveform.shape, generator=generator)
    if config.gain:
        waveform = waveform * 10 ** (uniform(-config.gain, config.gain, generator) / 20)
    if config.shift:
        waveform = F.pad(waveform, (round(uniform(0, config.shift, generator) * rate), 0))
    return waveform.clamp(-1, 1).numpy()


def mask_spectrogram(features: Tensor, *, axis: int, fraction: float, generator: torch.Generator) -> None:
    """Replace one random stretch along an axis by the mean, in place (SpecAugment, Park et al. 2019, section 2).

    Args:
        features: One window, two axes: frames and mel bins in any order.
        axis: The axis to mask.
        fraction: Longest stretch, as a fraction of the axis.
        generator: Source of chance.
    """
    size = features.shape[axis]
    length = int(uniform(0, fraction * size + 1, generator))
    start = int(uniform(0, size - length + 1, generator))
    if length:
        features.narrow(axis, start, length).fill_(float(features.mean()))


def mask_windows(
    features: Tensor, configs: Sequence[SoundAugment | None], generators: Sequence[torch.Generator], *, time_axis: int
) -> None:
    """Mask each window of a batch (N, a, b), in place, as its own configuration says; `time_axis` is 0 (a) or 1."""
    for window, config, generator in zip(features, configs, generators, strict=True):
        if config is not None and config.mask_time:
            mask_spectrogram(window, axis=time_axis, fraction=config.mask_time, generator=generator)
        if config is not None and config.mask_frequency:
            mask_spectrogram(window, axis=1 - time_axis, fraction=config.mask_frequency, generator=generator)
