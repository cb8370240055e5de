"""The configurations of what surrounds the language model: encoders and connectors; and the strictness of them all."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from .suggest import did_you_mean

ConnectorType = Literal["mlp", "qformer"]

# Keys that transformers itself passes through **kwargs; anything else that is not a field is a mistake.
_TRANSFORMERS_KEYS = {
    "name_or_path",
    "model_type",
    "architectures",
    "transformers_version",
    "auto_map",
    "torch_dtype",
    "output_attentions",
    "attn_implementation",
    "experts_implementation",
    "rope_theta",
    "rope_scaling",
    "num_labels",
    "use_cache",  # set by Trainer on the configuration of the whole
}


class CheckedConfig(PreTrainedConfig):
    """Refuses unknown keys, with the nearest known name. transformers would store them without a word."""

    def __post_init__(self, **kwargs: Any) -> None:
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                fields = type(self).__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
                raise ValueError(f"{type(self).__name__}: unknown key {key!r}.{did_you_mean(key, fields)}")
        super().__post_init__(**kwargs)


def require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


# Tokens in front of the patches (class, distillation) of towers that are known by name.
_PREFIX_TOKENS = {
    "vit": 1,
    "beit": 1,
    "clip_vision_model": 1,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "deit": 2,
    "audio-spectrogram-transformer": 2,
}


def prefix_tokens(tower: PreTrainedConfig) -> int:
    """Class, distillation and register tokens before a tower's patches; 0 for towers that are not known by name."""
    return _PREFIX_TOKENS.get(tower.model_type, 0) + (getattr(tower, "num_register_tokens", 0) or 0)


def _tower_width(tower: PreTrainedConfig) -> int | None:
    for name in ("hidden_size", "d_model", "num_features"):
        if isinstance(width := getattr(tower, name, None), int):
            return width
    hidden_sizes = getattr(tower, "hidden_sizes", None)
    return hidden_sizes[-1] if hidden_sizes else None


def _tower_tokens(tower: PreTrainedConfig) -> int | None:
    """Tokens per unit of a Whisper encoder, an AST or a ViT; None for a tower that is not one of these."""
    if tower.model_type == "whisper":
        return int(tower.max_source_positions)
    if tower.model_type == "audio-spectrogram-transformer":
        bins = (tower.num_mel_bins - tower.patch_size) // tower.frequency_stride + 1
        frames = (tower.max_length - tower.patch_size) // tower.time_stride + 1
        return int(bins * frames)
    size, patch = getattr(tower, "image_size", None), getattr(tower, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int):
        return (size // patch) ** 2
    return None


class _EncoderConfig(CheckedConfig):
    """A pretrained tower and how its features are read.

    Args:
        tower_config: Configuration of any transformers model that maps features to tokens (N, L, C) or a feature map
            (N, C, H, W). `timm_wrapper` gives any timm model. A Whisper configuration gives Whisper's encoder.
        hidden_size: Width C of the tower's output. None: read from the tower's configuration.
        num_tokens: Tokens that the tower gives for one unit (picture, window), after prefix tokens are dropped. None:
            computed for ViT, AST and Whisper; other towers must state it (`unimoe.encoders.measure_tower`).
        num_prefix_tokens: Class and distillation tokens to drop. None: known for ViT, CLIP, DINOv2, DeiT, AST; else 0.
        feature_layer: Which hidden state to read; -1 is the tower's own output, -2 the last but one layer.
    """

    tower_config: Any = None
    hidden_size: int | None = None
    num_tokens: int | None = None
    num_prefix_tokens: int | None = None
    feature_layer: int = -1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        tower = self.tower_config
        if not isinstance(tower, PreTrainedConfig):
            raise ValueError(f"{type(self).__name__}: tower_config must describe a tower, got {tower!r}.")
        if self.hidden_size is None:
            self.hidden_size = _tower_width(tower)
        if self.num_prefix_tokens is None:
            self.num_prefix_tokens = prefix_tokens(tower)
        if self.num_tokens is None:
            self.num_tokens = _tower_tokens(tower)
        for name in ("hidden_size", "num_tokens"):
            require(
                getattr(self, name) is not None,
                f"{type(self).__name__}: {name} of a {tower.model_type!r} tower cannot be told from its "
                "configuration. State it, or measure it with unimoe.encoders.measure_tower(tower_config, shape).",
            )


@strict
class UniMoEVisionConfig(_EncoderConfig):
    """Encoder of pictures and video frames; its tower takes `pixel_values` (N, channels, height, width)."""

    model_type = "unimoe_vision"
    base_config_key = "vision_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="vit")}


@strict
class UniMoEAudioConfig(_EncoderConfig):
    """Encoder of sounds; its tower takes log-mel windows, for AST `input_values` (N, frames, mel bins)."""

    model_type = "unimoe_audio"
    base_config_key = "audio_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="audio-spectrogram-transformer")}


@strict
class UniMoESpeechConfig(_EncoderConfig):
    """Encoder of speech; its tower takes log-mel windows, for Whisper `input_features` (N, mel bins, frames)."""

    model_type = "unimoe_speech"
    base_config_key = "speech_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="whisper")}


@strict
class UniMoEConnectorConfig(CheckedConfig):
    """Connector from an encoder's width to the language model's (transformers: `multi_modal_projector`).

    Args:
        type: `mlp` (LLaVA: two linear layers) or `qformer` (BLIP-2: learned queries that attend to the features).
        hidden_size: Inner width. None: the language model's hidden size.
        stack: For `mlp`, how many neighbouring tokens are concatenated into one; it divides the number of tokens.
        num_queries, num_hidden_layers, num_attention_heads: For `qformer`.
    """

    model_type = "unimoe_connector"

    type: ConnectorType = "mlp"
    hidden_size: int | None = None
    hidden_act: str = "gelu"
    stack: int = 1
    num_queries: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    initializer_range: float = 0.02

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the field.
        """
        require(self.stack >= 1, f"stack is {self.stack}; it counts tokens and is at least 1.")
        require(self.stack == 1 or self.type == "mlp", "stack is for type='mlp'; a qformer has num_queries.")
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")

    def num_tokens(self, encoder_tokens: int) -> int:
        """Tokens in the language model for one unit of `encoder_tokens` features."""
        return self.num_queries if self.type == "qformer" else encoder_tokens // self.stack


__all__ = ["UniMoEAudioConfig", "UniMoEConnectorConfig", "UniMoESpeechConfig", "UniMoEVisionConfig"]
