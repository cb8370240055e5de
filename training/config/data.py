"""What a stage may say about its data: files and their weights, augmentation, and how rows become batches."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from unimoe import MEDIA
from unimoe.errors.suggest import did_you_mean
from unimoe.files.settings import Section

Fraction = Annotated[float, Field(ge=0, lt=1)]
MediumKind = Literal["image", "video", "audio", "speech"]
NonNegative = Annotated[float, Field(ge=0)]


SINGLE_MEANINGS = ("id", "messages", "conversations", "system", "user", "assistant")
COLUMN_MEANINGS = (*SINGLE_MEANINGS, "ignore", *(modality.key for modality in MEDIA))
"""What a column of a source can be said to be."""


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
    """One data file, table or data set of a mixture.

    Args:
        path: A .jsonl or .json file; a .parquet file, a folder of them or a pattern; a folder of `save_to_disk`; or
            the id of a data set on the Hub.
        weight: Passes over the file in one epoch; a fraction is a random part, drawn anew for each epoch.
        media_root: Folder that media paths are relative to. None: the data file's own.
        augment: Replaces the augmentation of the whole mixture for this file.
        stream: Read the rows in order while training, without looking at them before; see `DataConfig`.
        format: The only format that rows may have. `auto`: each may have its own.
        columns: What columns mean that have other names: `{question: user, answer: assistant, picture: image}`.
            A meaning is `id`, `messages`, `conversations`, a role, a kind of media, or `ignore`.
        split: Of a saved folder or the Hub. None: the only one.
        subset: Configuration of a data set on the Hub.
    """

    path: str
    weight: float = Field(default=1.0, gt=0)
    media_root: str | None = None
    augment: AugmentConfig | None = None
    stream: bool = False
    format: Literal["auto", "messages", "columns", "llava", "uni_moe", "pairs"] = "auto"
    columns: dict[str, str] = {}
    split: str | None = None
    subset: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_path(cls, values: Any) -> Any:
        return {"path": values} if isinstance(values, str) else values

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        meanings = list(columns.values())
        for name, meaning in columns.items():
            if meaning not in COLUMN_MEANINGS:
                hint = did_you_mean(meaning, COLUMN_MEANINGS)
                raise PydanticCustomError("refused", f"{name}: unknown meaning {meaning!r}.{hint}")
            if meaning in SINGLE_MEANINGS and meanings.count(meaning) > 1:
                raise PydanticCustomError("refused", f"{name}: another column is the {meaning} too. Leave one out.")
        if ("user" in meanings or "system" in meanings) and "assistant" not in meanings:
            raise PydanticCustomError("refused", "a question without answers. Say which column is the assistant.")
        return columns


class EncoderCache(Section):
    """Encoders that do not train run once over each medium of the data; their tokens are cached in files.

    Written as `true` or as the folder alone, everything else has its default. Files that are there already, of an
    earlier stage or of one that was stopped, are used as far as media, encoder and settings are the same.

    Args:
        folder: Where the files are. None: `encoder_cache` beside the stage's output, which the stages of a recipe
            share. All processes must see it.
        modalities: Whose tokens are cached. None: of all encoders that do not train.
        dtype: How the numbers are cached; `computed`: as the encoder gives them, so that nothing changes.
        batch_size: Units (pictures, windows) that an encoder takes at once.
    """

    folder: str | None = None
    modalities: list[MediumKind] | None = Field(default=None, min_length=1)
    dtype: Literal["computed", "float32", "bfloat16"] = "computed"
    batch_size: int = Field(default=16, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _accept_folder(cls, values: Any) -> Any:
        return {} if values is True else {"folder": values} if isinstance(values, str) else values


class DataConfig(Section):
    """What a stage trains on.

    A mixture with a stream has no passes: there, weights are shares of the rows, and a stream that ends begins anew,
    shuffled otherwise. It needs `trainer.max_steps`.

    Args:
        mixture: Data files and their weights.
        max_length: Most tokens of a row, or of a pack. None: no limit.
        too_long: What becomes of a longer row. `refuse`: the training stops and names it. `drop`: it is left out.
            `cut`: it ends behind the last answer, or the last medium within an answer, that fits; never within a
            medium or a text. If none fits it is left out. Rows dropped and cut are named in the log and in
            `history.json`.
        packing: Put whole rows together into packs of at most `max_length` tokens, which then are one row of a batch
            without padding; no row sees another. `per_device_train_batch_size` counts packs.
        group_by_length: Make batches of rows of like length.
        packing_buffer: Rows that are packed, or grouped, together.
        shuffle_buffer: Rows of a stream among which the next one is drawn; 1: the stream's own order.
        augment: Augmentation of all files that have none of their own.
        num_workers: Processes that decode and process media beside the training process.
        cache_media: Keep decoded media in memory; for small sets.
        cache_encoders: Run encoders that do not train once, before the first step. None, or false: at every step.
        validation: Data files of validation rows, whose loss is measured while training: as they are, without
            augmentation, each row once. `train.validation` says how many and how often.
    """

    mixture: list[SourceConfig] = Field(min_length=1)
    max_length: int | None = Field(default=None, ge=1)
    too_long: Literal["refuse", "drop", "cut"] = "refuse"
    packing: bool = False
    group_by_length: bool = False
    packing_buffer: int = Field(default=1000, ge=1)
    shuffle_buffer: int = Field(default=1000, ge=1)
    augment: AugmentConfig = AugmentConfig()
    num_workers: int = Field(default=0, ge=0)
    cache_media: bool = False
    cache_encoders: EncoderCache | None = None

    @field_validator("cache_encoders", mode="before")
    @classmethod
    def _accept_false(cls, values: Any) -> Any:
        return None if values is False else values

    @model_validator(mode="after")
    def _check_encoders(self) -> Self:
        streams = [source.path for source in self.mixture if source.stream]
        if self.cache_encoders is not None and streams:
            raise PydanticCustomError(
                "refused",
                f"cache_encoders: {streams[0]} is a stream, whose media are not known before they are trained on. Set "
                "its `stream` to false, or leave cache_encoders out.",
            )
        return self

    validation: list[SourceConfig] = []

    @model_validator(mode="after")
    def _check_validation(self) -> Self:
        trained = {_rows_of(source) for source in self.mixture}
        for source in self.validation:
            where = f"validation: {source.path}"
            if source.stream or source.weight != 1 or source.augment is not None:
                raise PydanticCustomError(
                    "refused",
                    f"{where}: validation rows are looked at once, as they are. Leave out stream, weight and augment.",
                )
            if _rows_of(source) in trained:
                raise PydanticCustomError(
                    "refused", f"{where} is in the mixture too. Validation rows are others than those that train."
                )
        return self

    @property
    def validation_data(self) -> "DataConfig":
        """The validation rows as a mixture: one row after the other, unchanged."""
        plain = {"augment": AugmentConfig(), "packing": False, "group_by_length": False, "validation": []}
        return self.model_copy(update={"mixture": self.validation, **plain})

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.packing and self.group_by_length:
            raise PydanticCustomError("refused", "packing and group_by_length: packs need no grouping. Choose one.")
        for key in ("packing", "too_long"):
            if self.max_length is None and getattr(self, key) not in (False, "refuse"):
                raise PydanticCustomError("refused", f"{key}: rows are fitted to max_length. Set it.")
        return self

    @property
    def has_streams(self) -> bool:
        """Whether a source is read in order, so that there are no passes."""
        return any(source.stream for source in self.mixture)


def _rows_of(source: SourceConfig) -> str:
    """Say what decides which rows a source has."""
    return source.model_dump_json(exclude={"weight", "augment", "stream"})


__all__ = ["AugmentConfig", "DataConfig", "EncoderCache", "ImageAugment", "SoundAugment", "SourceConfig"]
