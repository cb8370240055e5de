"""What a stage says of a start that is composed of pretrained parts: the arguments of `unimoe.build.build_model`."""

from typing import Any, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from unimoe.files.settings import Section


class BuildConfig(Section):
    """A dense model of pretrained parts with new connectors; the stage's seed draws them.

    Args:
        language: Hub id or folder of a causal language model.
        vision, speech, audio: Hub ids or folders of towers: an image tower, a Whisper, an AST or BEATs.
        encoders: Encoder key (`image`, `speech`, `audio`) -> how its tower is read, e.g. `{feature_layer: -2}`.
        connectors: Encoder key -> fields of its connector, e.g. `{type: qformer, num_queries: 50}`.
        media: How media become tokens: fields of `MediaLayout`, e.g. `{image_max_tiles: 4}`.
        dtype: Precision in which the parts are read; a stage trains float32 weights.
    """

    language: str
    vision: str | None = None
    speech: str | None = None
    audio: str | None = None
    encoders: dict[str, dict[str, Any]] = {}
    connectors: dict[str, dict[str, Any]] = {}
    media: dict[str, Any] = {}
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _has_a_tower(self) -> Self:
        if not any((self.vision, self.speech, self.audio)):
            raise PydanticCustomError("refused", "a multimodal model needs a tower: give vision, speech or audio.")
        return self


__all__ = ["BuildConfig"]
