"""The kinds of content a token can come from. Everything that differs by modality is looked up here.

A new modality is one row here, a sub-config, an encoder and a connector.
"""

from enum import IntEnum

from .errors import DataError


class Modality(IntEnum):
    """Where a token came from. The values are transformers' `mm_token_type_ids` (0 to 3), and 4 for speech."""

    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    AUDIO = 3
    SPEECH = 4

    @property
    def key(self) -> str:
        """Name in messages and configurations: `text`, `image`, `video`, `audio`, `speech`."""
        return self.name.lower()

    @property
    def token(self) -> str | None:
        """Placeholder that stands in the text for one embedding of this modality; None for text."""
        return None if self is Modality.TEXT else f"<|{self.key}|>"

    @property
    def feature_name(self) -> str | None:
        """Argument of the model's forward that carries this modality's features; None for text."""
        return _FEATURE_NAMES.get(self)

    @property
    def output_name(self) -> str:
        """Field of the model's output with what its encoder and connector gave: `image_outputs`..."""
        return f"{self.key}_outputs"

    @property
    def encoder_key(self) -> str:
        """Name of the encoder and connector that serve this modality; video frames go through the image encoder."""
        return _SHARED_ENCODERS.get(self, self.key)

    @property
    def extractor_name(self) -> str | None:
        """Part of the processor that makes this modality's features; None for text."""
        return _EXTRACTOR_NAMES.get(self)

    @classmethod
    def from_key(cls, key: str) -> "Modality":
        """Look a modality up by its key.

        Raises:
            DataError: If there is no such modality; the message lists those that exist.
        """
        try:
            return cls[key.upper()]
        except KeyError:
            raise DataError(f"Unknown modality {key!r}; choose from {', '.join(m.key for m in cls)}.") from None


_FEATURE_NAMES = {
    Modality.IMAGE: "pixel_values",
    Modality.VIDEO: "pixel_values_videos",
    Modality.AUDIO: "audio_features",
    Modality.SPEECH: "speech_features",
}
_EXTRACTOR_NAMES = {
    Modality.IMAGE: "image_processor",
    Modality.VIDEO: "image_processor",
    Modality.AUDIO: "audio_feature_extractor",
    Modality.SPEECH: "speech_feature_extractor",
}
_SHARED_ENCODERS = {Modality.VIDEO: "image"}

MEDIA: tuple[Modality, ...] = (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.SPEECH)
"""All modalities but text, in the order of their ids."""

SOUNDS: tuple[Modality, ...] = (Modality.AUDIO, Modality.SPEECH)
"""Those that are heard."""

ENCODER_OPTIONS = {"image": "vision", "audio": "audio", "speech": "speech"}
"""Encoder key -> its name in options (`--vision`) and in fields of the configuration (`vision_config`)."""
