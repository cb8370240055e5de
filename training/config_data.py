"""What a stage may say about its data: files and their weights, augmentation, and how rows become batches."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from unimoe.settings import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class ImageAugment(Section):
    """Random changes to pictures, drawn anew for each sample; 0 is off.

    Args:
        flip: Probability of a horizontal flip.
        shift: Largest shift, as a fraction of width and height.
        zoom: Largest change of size, as a fraction.
        rotate: Largest rotation, in degrees.
        jitter: Largest relative change of brightness, contrast and saturation.
    """

    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    shift: Fraction = 0.0
    zoom: Fraction = 0.0
    rotate: NonNegative = 0.0
    jitter: Fraction = 0.0


class SoundAugment(Section):
    """Random changes to waveforms and their spectrograms, drawn anew for each sample; 0 is off.

    Args:
        shift: Longest silence put in front, in seconds.
        speed: Largest relative change of speed (and, with it, of pitch and formants).
        gain: Largest change of loudness, in dB.
        noise: Largest level of white noise, relative to the sound's root mean square.
        mask_time: Largest fraction of frames of a window that is masked (SpecAugment, Park et al. 2019, arXiv
            1904.08779, one mask of each kind).
        mask_frequency: Largest fraction of mel bins that is masked.
    """

    shift: NonNegative = 0.0
    speed: Fraction = 0.0
    gain: NonNegative = 0.0
    noise: NonNegative = 0.0
    mask_time: Fraction = 0.0
    mask_frequency: Fraction = 0.0


class AugmentConfig(Section):
    """Augmentation of each modality; None is off."""

    image: ImageAugment | None = None
    audio: SoundAugment | None = None
    speech: SoundAugment | None = None


class SourceConfig(Section):
    """One data file of a mixture.

    Args:
        path: A .jsonl or .json file in one of the formats of `training.data.schema`.
        weight: Passes over the file in one epoch; a fraction is a random part, drawn anew for each epoch.
        media_root: Folder that media paths are relative to. None: the data file's own.
        augment: Replaces the augmentation of the whole mixture for this file.
    """

    path: str
    weight: float = Field(default=1.0, gt=0)
    media_root: str | None = None
    augment: AugmentConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values


class DataConfig(Section):
    """What a stage trains on.

    Args:
        mixture: Data files and their weights.
        max_length: Longest row in tokens; a longer one is refused by name, never cut. None: no limit.
        augment: Augmentation of all files that have none of their own.
        num_workers: Processes that decode and process media beside the training process.
        cache_media: Keep decoded media in memory; for small sets.
    """

    mixture: list[SourceConfig] = Field(min_length=1)
    max_length: int | None = Field(default=None, ge=1)
    augment: AugmentConfig = AugmentConfig()
    num_workers: int = Field(default=0, ge=0)
    cache_media: bool = False


__all__ = ["AugmentConfig", "DataConfig", "ImageAugment", "SoundAugment", "SourceConfig"]
