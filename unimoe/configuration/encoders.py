"""The configurations of encoders: pretrained towers, and how their features are read."""

import math
from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .base import CheckedConfig, require
from .checks import InvalidConfig, checked

# Tokens in front of the patches (class, distillation) of towers that are known by name.
_PREFIX_TOKENS = {
    "vit": 1,
    "beit": 1,
    "data2vec-vision": 1,
    "vit_msn": 1,
    "dinov3_convnext": 1,
    "clip_vision_model": 1,
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "deit": 2,
    "audio-spectrogram-transformer": 2,
}


def prefix_tokens(tower: PreTrainedConfig) -> int:
    """Count class, distillation and register tokens before a tower's patches; 0 for towers not known by name."""
    return _PREFIX_TOKENS.get(tower.model_type, 0) + (getattr(tower, "num_register_tokens", 0) or 0)


def _tower_width(tower: PreTrainedConfig) -> int | None:
    for name in ("hidden_size", "d_model", "num_features"):
        if isinstance(width := getattr(tower, name, None), int):
            return width
    hidden_sizes = getattr(tower, "hidden_sizes", None)
    return hidden_sizes[-1] if hidden_sizes else None


def _tower_grid(tower: PreTrainedConfig) -> list[int] | None:
    """Rows and columns of the patches of a Whisper encoder, an AST, a BEATs or a ViT; None for any other tower."""
    if tower.model_type == "whisper":
        return [1, int(tower.max_source_positions)]
    if tower.model_type == "audio-spectrogram-transformer":
        bins = (tower.num_mel_bins - tower.patch_size) // tower.frequency_stride + 1
        frames = (tower.max_length - tower.patch_size) // tower.time_stride + 1
        return [int(bins), int(frames)]
    if tower.model_type == "unimoe_beats":
        return [tower.max_length // tower.patch_size, tower.num_mel_bins // tower.patch_size]
    if getattr(tower, "depths", None):
        return None  # stages that merge patches
    size, patch = getattr(tower, "image_size", None), getattr(tower, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int):
        return [size // patch] * 2
    return None


def token_grid(tower: PreTrainedConfig, num_tokens: int) -> list[int]:
    """Find the rows and columns in which `num_tokens` of one unit lie: the tower's own, a square, or else one row."""
    grid = _tower_grid(tower)
    if grid and math.prod(grid) == num_tokens:
        return grid
    side = math.isqrt(num_tokens)
    return [side, side] if side**2 == num_tokens else [1, num_tokens]


class _EncoderConfig(CheckedConfig):
    """A pretrained tower and how its features are read.

    Args:
        tower_config: Configuration of any transformers model that maps features to tokens (N, L, C) or a feature map
            (N, C, H, W). `timm_wrapper` gives any timm model. A Whisper configuration gives Whisper's encoder.
        hidden_size: Width C of a token, for several layers their sum. None: read from the tower's configuration.
        num_tokens: Tokens that the encoder gives for one unit (picture, window), without prefix tokens unless they are
            kept. None: computed for ViT, AST, BEATs and Whisper; other towers must state it
            (`unimoe.encoders.measure_tower`).
        token_grid: Rows and columns in which these tokens lie, row by row. None: [s, s] for ViT, [frequency, time] for
            AST, [time, frequency] for BEATs, [1, time] for Whisper, one row with prefix tokens; of another tower
            [s, s] if `num_tokens` is a square, else one row.
        num_prefix_tokens: Class, distillation and register tokens before the patches. None: known for ViT, CLIP,
            DINOv2, DeiT, AST; else 0.
        keep_prefix: Whether the prefix tokens go to the language model too, in front of the patches.
        feature_layer: Which hidden state to read: -1 is the tower's own output, 0 what enters its first layer, -2 what
            enters its last. Several are put side by side, so that tokens become wider and not more (LLaVA).
    """

    tower_config: Any = None
    hidden_size: int | None = None
    num_tokens: int | None = None
    token_grid: list[int] | None = None
    num_prefix_tokens: int | None = None
    keep_prefix: bool = False
    feature_layer: int | list[int] = -1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        tower = self.tower_config
        if not isinstance(tower, PreTrainedConfig):
            raise InvalidConfig(f"{type(self).__name__}: tower_config must describe a tower, got {tower!r}.")
        require(bool(self.feature_layers), f"{type(self).__name__}: feature_layer is empty; name a layer, such as -1.")
        if self.hidden_size is None and (width := _tower_width(tower)) is not None:
            self.hidden_size = width * len(self.feature_layers)
        if self.num_prefix_tokens is None:
            self.num_prefix_tokens = prefix_tokens(tower)
        if self.num_tokens is None and (grid := self.token_grid or _tower_grid(tower)):
            kept = self.num_prefix_tokens if self.keep_prefix and not self.token_grid else 0
            self.num_tokens = math.prod(grid) + kept
        for name in ("hidden_size", "num_tokens"):
            require(
                getattr(self, name) is not None,
                f"{type(self).__name__}: {name} of a {tower.model_type!r} tower cannot be told from its "
                "configuration. State it, or measure it with unimoe.encoders.measure_tower(tower_config, shape).",
            )
        num_tokens = self.num_tokens or 0
        whole = [1, num_tokens] if self.keep_prefix else token_grid(tower, num_tokens)
        grid = self.token_grid = self.token_grid or whole
        require(
            len(grid) == 2 and math.prod(grid) == self.num_tokens,
            f"token_grid is {grid}; it is [rows, columns] and holds the {self.num_tokens} tokens of num_tokens.",
        )

    @property
    def time_axis(self) -> Literal["rows", "columns"]:
        """Along which axis of the token grid the time of a sound runs."""
        return "rows" if self.tower_config.model_type == "unimoe_beats" else "columns"

    @property
    def feature_layers(self) -> list[int]:
        """`feature_layer` as a list."""
        return [self.feature_layer] if isinstance(self.feature_layer, int) else self.feature_layer


@checked
class UniMoEVisionConfig(_EncoderConfig):
    """Encoder of pictures and video frames; its tower takes `pixel_values` (N, channels, height, width)."""

    model_type = "unimoe_vision"
    base_config_key = "vision_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="vit")}


@checked
class UniMoEAudioConfig(_EncoderConfig):
    """Encoder of sounds; its tower takes log-mel windows, for AST `input_values` (N, frames, mel bins)."""

    model_type = "unimoe_audio"
    base_config_key = "audio_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="audio-spectrogram-transformer")}


@checked
class UniMoESpeechConfig(_EncoderConfig):
    """Encoder of speech; its tower takes log-mel windows, for Whisper `input_features` (N, mel bins, frames)."""

    model_type = "unimoe_speech"
    base_config_key = "speech_config"
    sub_configs_defaults = {"tower_config": SubConfigSpec(AutoConfig, model_type="whisper")}


__all__ = ["UniMoEAudioConfig", "UniMoESpeechConfig", "UniMoEVisionConfig", "prefix_tokens", "token_grid"]
