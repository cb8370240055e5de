"""The configurations of unimoe: text model, encoders, connectors and the whole. All validation is here.

A configuration is plain data: `UniMoEConfig` holds one `UniMoETextConfig`, up to three encoder configurations (image,
audio, speech; video uses the image encoder) and one connector configuration for each encoder. Unknown keys are
refused.
"""

from dataclasses import fields
from os import PathLike
from typing import Any, Literal

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_rope_utils import RopeParameters

from .configuration.base import CheckedConfig, require
from .configuration.checks import checked
from .configuration.connectors import UniMoEConnectorConfig
from .configuration.encoders import UniMoEAudioConfig, UniMoESpeechConfig, UniMoEVisionConfig
from .configuration.media_layout import MediaLayout, PositionType, VideoPooling, VideoSampling
from .configuration.moe import MoEConfig
from .configuration.parallel_plans import PIPELINE_PLAN, expert_parallel_plan, tensor_parallel_plan
from .configuration.remote_code import AUTO_MAP, write_remote_code
from .modality import ENCODER_OPTIONS, MEDIA, Modality


@checked
class UniMoETextConfig(MoEConfig):
    """Decoder of the Llama kind whose feed-forward layers may be sparse mixtures of experts, see `MoEConfig`.

    Args:
        attention_bias: Whether all projections of the attention have a bias.
        qkv_bias: Whether those of queries, keys and values have one (Qwen2), whatever `attention_bias` says.
        qk_norm: RMS-normalise queries and keys: each `head` apart (Qwen3), or the whole `projection` (OLMoE).
        clip_qkv: Largest absolute value of queries, keys and values, after normalisation (OLMoE). None: no limit.
    """

    model_type = "unimoe_text"
    base_config_key = "text_config"
    ignore_keys_at_rope_validation = {"mrope_section"}
    base_model_tp_plan = property(tensor_parallel_plan)
    base_model_ep_plan = property(expert_parallel_plan)
    base_model_pp_plan = PIPELINE_PLAN

    vocab_size: int = 32000
    num_attention_heads: int = 8
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    qkv_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: float | int = 0.0
    qk_norm: Literal["head", "projection"] | None = None
    clip_qkv: float | int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the fields that do not fit, and both values.
        """
        require(
            self.num_attention_heads % (self.num_key_value_heads or 1) == 0,
            f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
            f"({self.num_key_value_heads}).",
        )
        require(
            self.pad_token_id is None or -self.vocab_size <= self.pad_token_id < self.vocab_size,
            f"pad_token_id is {self.pad_token_id}, which is no id of the vocabulary of {self.vocab_size}.",
        )
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")
        require(
            self.clip_qkv is None or self.clip_qkv > 0,
            f"clip_qkv is {self.clip_qkv}; it is positive, or None for no limit.",
        )
        require(
            not (self.num_experts and self.mlp_bias),
            "mlp_bias: experts have no bias; use a language model without, or no experts.",
        )
        self._check_rope_sections()
        super().validate_architecture()

    def _check_rope_sections(self) -> None:
        sections = (self.rope_parameters or {}).get("mrope_section")
        half = (self.head_dim or 0) // 2
        require(
            sections is None or (len(sections) == 3 and min(sections) >= 0 and sum(sections) == half),
            f"rope_parameters.mrope_section is {sections}; it holds the numbers of frequencies for time, row and "
            f"column, which add up to half of head_dim, {half}.",
        )


def _optional(config_class: type[PreTrainedConfig]) -> SubConfigSpec:
    return SubConfigSpec(config_class, optional=True)


@checked
class UniMoEConfig(CheckedConfig):
    """The whole model: language model, encoders, connectors and the ids of the placeholder tokens.

    An encoder that is None is a modality that the model does not have. Video shares the image encoder and connector.

    Args:
        image_max_tiles, image_grids, video_frame_rate, video_min_frames, video_max_frames,
            video_max_frames_with_sound, video_sampling, video_temporal_stride, video_pooling, video_timestamps,
            video_sound, video_chunk_seconds, position_type, positions_per_second, sound_group_tokens: See
            `MediaLayout`.
        output_router_logits: As in the text configuration, which decides where this is None.
    """

    model_type = "unimoe"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(UniMoETextConfig),
        "vision_config": _optional(UniMoEVisionConfig),
        "audio_config": _optional(UniMoEAudioConfig),
        "speech_config": _optional(UniMoESpeechConfig),
        "image_connector_config": _optional(UniMoEConnectorConfig),
        "audio_connector_config": _optional(UniMoEConnectorConfig),
        "speech_connector_config": _optional(UniMoEConnectorConfig),
    }

    # Given as dict or configuration; objects of the classes above, or None, once built.
    text_config: Any = None
    vision_config: Any = None
    audio_config: Any = None
    speech_config: Any = None
    image_connector_config: Any = None
    audio_connector_config: Any = None
    speech_connector_config: Any = None
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    speech_token_id: int | None = None
    image_max_tiles: int = 1
    image_grids: list[list[int]] | None = None
    video_frame_rate: float | int | None = None
    video_min_frames: int = 1
    video_max_frames: int = 8
    video_max_frames_with_sound: int | None = None
    video_sampling: VideoSampling = "middles"
    video_temporal_stride: int = 1
    video_pooling: VideoPooling = "stride"
    video_timestamps: bool = False
    video_sound: Literal["audio", "speech"] | None = None
    video_chunk_seconds: float | int = 2.0
    position_type: PositionType = "plain"
    positions_per_second: float | int = 2.0
    sound_group_tokens: int | None = None
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    output_router_logits: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for key in ("image", "audio", "speech"):
            if self.encoder_config(key) is not None and getattr(self, f"{key}_connector_config") is None:
                setattr(self, f"{key}_connector_config", {})
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as every configuration, with the file that loads the folder where unimoe was not imported."""
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        write_remote_code(save_directory)

    def encoder_config(self, key: str) -> Any:
        """Return the configuration of the encoder `image`, `audio` or `speech`; None if the model has none."""
        return getattr(self, f"{ENCODER_OPTIONS[key]}_config")

    def connector_config(self, key: str) -> Any:
        """Return the configuration of the connector of the encoder `image`, `audio` or `speech`."""
        return getattr(self, f"{key}_connector_config")

    @property
    def encoder_keys(self) -> list[str]:
        """Keys of the encoders that the model has."""
        return [key for key in ("image", "audio", "speech") if self.encoder_config(key) is not None]

    @property
    def media(self) -> list[Modality]:
        """Modalities other than text that the model takes."""
        return [modality for modality in MEDIA if modality.encoder_key in self.encoder_keys]

    @property
    def media_layout(self) -> MediaLayout:
        """How media become tokens; what the processor must know."""
        grids, time_axes = {}, {}
        for modality in self.media:
            encoder = self.encoder_config(modality.encoder_key)
            grids[modality.key] = self.connector_config(modality.encoder_key).grid(encoder.token_grid)
            if modality in (Modality.AUDIO, Modality.SPEECH):
                time_axes[modality.key] = encoder.time_axis
        own = {f.name: getattr(self, f.name) for f in fields(MediaLayout) if f.name not in ("grids", "time_axes")}
        return MediaLayout(grids=grids, time_axes=time_axes, **own)

    @property
    def num_tokens(self) -> dict[str, int]:
        """Placeholder tokens for one unit (picture or tile, group of frames, window) of each modality taken."""
        return self.media_layout.num_tokens

    def token_id(self, modality: Modality) -> int | None:
        """Vocabulary id of the modality's placeholder token."""
        return getattr(self, f"{modality.key}_token_id")

    def validate_architecture(self) -> None:
        """Check the parts against each other.

        Raises:
            ValueError: Naming the part that does not fit.
        """
        for modality in self.media:
            token_id = self.token_id(modality)
            require(
                token_id is not None and 0 <= token_id < self.text_config.vocab_size,
                f"{modality.key}_token_id is {token_id}, but a model with {modality.key} needs an id within the "
                f"vocabulary of {self.text_config.vocab_size}.",
            )
        for key in self.encoder_keys:
            problem = self.connector_config(key).misfit(self.encoder_config(key))
            require(problem is None, f"{key}_connector_config.{problem}")
        _ = self.media_layout  # checks its fields


__all__ = [
    "UniMoEAudioConfig",
    "UniMoEConfig",
    "UniMoEConnectorConfig",
    "UniMoESpeechConfig",
    "UniMoETextConfig",
    "UniMoEVisionConfig",
]
