"""The configurations of what surrounds the language model: encoders and connectors; and the strictness of them all."""

import copy
import json
import math
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import SubConfigSpec

from ..errors import UniMoEError
from ..errors.suggest import did_you_mean
from ..files.strict_json import parse_json
from ..modality import MEDIA
from .checks import IMPLEMENTATIONS, InvalidConfig, check_size, checked, refuse_what_is_fetched, what_failed

ConnectorType = Literal["mlp", "pooling", "pixel_shuffle", "qformer", "query_decoder"]

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


OUTPUTS_BESIDE_LOGITS = (
    "cache",
    "aux_loss",
    "losses",
    "hidden_states",
    "attentions",
    "router_logits",
    "routing",
    *(modality.output_name for modality in MEDIA),
)
"""What models return besides loss and logits; `compute_metrics` of a Trainer sees none of it."""


class CheckedConfig(PreTrainedConfig):
    """Refuses unknown keys, with the nearest known name. transformers would store them without a word."""

    keys_to_ignore_at_inference = list(OUTPUTS_BESIDE_LOGITS)

    def __post_init__(self, **kwargs: Any) -> None:
        check_size(type(self).__name__, {**vars(self), **kwargs})
        for key in kwargs:
            if key not in _TRANSFORMERS_KEYS and not key.startswith("_"):
                fields = type(self).__dataclass_fields__.keys() - PreTrainedConfig.__dataclass_fields__.keys()
                raise InvalidConfig(f"{type(self).__name__}: unknown key {key!r}.{did_you_mean(key, fields)}")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from what a file holds. Implementations that the caller names go before it, kernels of a Hub too.

        Raises:
            InvalidConfig: If the file's model is another, or names code or weights that would be fetched.
        """
        if not isinstance(config_dict, dict):
            raise InvalidConfig(f"{cls.__name__}: a configuration is a mapping of keys, got {config_dict!r:.100}.")
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise InvalidConfig(f"{cls.__name__} is for model_type {cls.model_type!r}, got {kind!r:.100}.")
        refuse_what_is_fetched(config_dict, cls.__name__)
        chosen = {name: kwargs.pop(name) for name in IMPLEMENTATIONS if name in kwargs}
        found: Any = super().from_dict(copy.deepcopy(config_dict), **kwargs)
        for name, value in chosen.items():
            setattr(found[0] if isinstance(found, tuple) else found, f"_{name}", value)
        return found

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike) -> Any:
        return parse_json(Path(json_file).read_bytes(), where=str(json_file))

    def save_pretrained(self, save_directory: str | PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save as every configuration, but nothing that could not be loaded again.

        Raises:
            InvalidConfig: If what would be written is refused when it is read: values that were changed after
                construction do not fit each other, or an attribute is no field.
        """
        try:
            type(self).from_dict(json.loads(self.to_json_string(use_diff=True)))
        except (UniMoEError, StrictDataclassError, TypeError, ValueError) as error:
            raise InvalidConfig(
                f"{type(self).__name__} was changed so that it could not be loaded again, and is not saved",
                f"{what_failed(error)}",
                "Correct the attribute, or build the configuration anew with it.",
            ) from error
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


def require(condition: bool, problem: str) -> None:
    """Refuse a configuration.

    Raises:
        InvalidConfig: With the problem as its message, unless the condition holds.
    """
    if not condition:
        raise InvalidConfig(problem)


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
    """Class, distillation and register tokens before a tower's patches; 0 for towers that are not known by name."""
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
    """Rows and columns in which the tokens of one unit lie: the tower's own if known, a square, or else one row."""
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


# Fields of a connector that only some types read.
_CONNECTOR_FIELDS = {
    "hidden_size": ("mlp", "pooling", "pixel_shuffle", "qformer"),
    "hidden_act": ("mlp", "pooling", "pixel_shuffle", "qformer"),
    "stack": ("mlp",),
    "stride": ("pooling", "pixel_shuffle"),
    "output_grid": ("pooling",),
    "num_queries": ("qformer", "query_decoder"),
    "num_hidden_layers": ("qformer",),
    "num_attention_heads": ("qformer",),
    "dropout": ("qformer",),
    "decoder_config": ("query_decoder",),
    "causal": ("query_decoder",),
}
_NUM_QUERIES = {"qformer": 32, "query_decoder": 200}  # of BLIP-2; of Uni-MoE-2.0-Omni


@checked
class UniMoEConnectorConfig(CheckedConfig):
    """Connector from an encoder's width to the language model's (transformers: `multi_modal_projector`).

    Args:
        type: `mlp` (LLaVA: two linear layers), `pooling` (Uni-MoE 2.0: two linear layers, an average of neighbours),
            `pixel_shuffle` (InternVL: neighbours side by side, two linear layers), `qformer` (BLIP-2: learned queries
            that attend to the features) or `query_decoder` (Uni-MoE: learned queries in a Whisper decoder).
        hidden_size: Inner width; of all but `query_decoder`. None: the language model's hidden size.
        hidden_act: Activation; of all but `query_decoder`, whose decoder has its own.
        stack: For `mlp`, how many neighbouring tokens are concatenated into one; it divides the number of tokens.
        stride: For `pooling` and `pixel_shuffle`, rows and columns of the block of tokens that becomes one. A number:
            a square block or, of tokens in one row or column, so many neighbours.
        output_grid: For `pooling`, instead of a stride: rows and columns of what comes out, whatever went in.
        num_queries: For `qformer` and `query_decoder`, tokens for a unit. None: 32 and 200.
        num_hidden_layers, num_attention_heads: For `qformer`.
        dropout: For `qformer`, the share dropped of what each attention and feed-forward adds.
        decoder_config: For `query_decoder`, a Whisper configuration, of which the decoder is read; as wide as the
            encoder.
        causal: For `query_decoder`, whether a query sees only those before it: so Whisper's decoder was trained, and
            so both published models use it. Without, pretrained weights meet what they have never seen.
    """

    model_type = "unimoe_connector"
    sub_configs_defaults = {"decoder_config": SubConfigSpec(AutoConfig, model_type="whisper", optional=True)}

    type: ConnectorType = "mlp"
    hidden_size: int | None = None
    hidden_act: str = "gelu"
    stack: int = 1
    stride: int | list[int] | None = None
    output_grid: list[int] | None = None
    num_queries: int | None = None
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    dropout: float | int = 0.0
    decoder_config: Any = None
    causal: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_queries is None:
            self.num_queries = _NUM_QUERIES.get(self.type)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the fields against each other.

        Raises:
            ValueError: Naming the field.
        """
        for name, types in _CONNECTOR_FIELDS.items():
            given = getattr(self, name) != type(self).__dataclass_fields__[name].default
            require(
                not given or self.type in types, f"{name} is for type={' or '.join(types)}; this is a {self.type}."
            )
        for name in ("stack", "num_queries", "num_hidden_layers", "num_attention_heads"):
            count = getattr(self, name)
            require(count is None or count >= 1, f"{name} is {count}; it is at least 1.")
        for name in ("stride", "output_grid"):
            pair = getattr(self, name)
            numbers = [pair, pair] if isinstance(pair, int) else pair
            require(
                numbers is None or (len(numbers) == 2 and min(numbers) >= 1),
                f"{name} is {pair}; it is [rows, columns], each at least 1.",
            )
        require(self.hidden_act in ACT2FN, f"hidden_act {self.hidden_act!r} is not an activation of transformers.")
        require(0 <= self.dropout < 1, f"dropout is {self.dropout}; it is a share, at least 0 and below 1.")
        if self.type == "pooling":
            require(
                (self.stride is None) != (self.output_grid is None),
                "pooling needs either a stride, e.g. 2, or an output_grid, [rows, columns].",
            )
        elif self.type == "pixel_shuffle":
            require(self.stride is not None, "pixel_shuffle needs a stride, e.g. 2.")
        elif self.type == "query_decoder":
            self._check_decoder()

    def _check_decoder(self) -> None:
        decoder, queries = self.decoder_config, self.num_queries or 0
        kind = getattr(decoder, "model_type", None)
        require(kind == "whisper", f"query_decoder needs the decoder_config of a Whisper model, got {kind!r}.")
        require(
            queries <= decoder.max_target_positions,
            f"num_queries is {queries}, but decoder_config has {decoder.max_target_positions} max_target_positions.",
        )

    def misfit(self, encoder: Any) -> str | None:
        """Say why the connector cannot read the tokens of an encoder with this configuration; None if it can."""
        rows, columns = encoder.token_grid
        if rows * columns % self.stack:
            return f"stack ({self.stack}) does not divide {rows * columns} tokens."
        height, width = self.block([rows, columns])
        if rows % height or columns % width:
            return f"stride {[height, width]} does not divide the {rows} rows and {columns} columns of tokens."
        if self.output_grid and (self.output_grid[0] > rows or self.output_grid[1] > columns):
            return f"output_grid {self.output_grid} is larger than the {rows} rows and {columns} columns of tokens."
        if self.decoder_config and self.decoder_config.d_model != encoder.hidden_size:
            return (
                f"decoder_config.d_model ({self.decoder_config.d_model}) is not the encoder's width "
                f"({encoder.hidden_size}). Take encoder and decoder of one Whisper model."
            )
        return None

    def block(self, encoder_grid: list[int]) -> list[int]:
        """Rows and columns of the tokens that `stride` makes one; of tokens in one row or column, a row or column."""
        if isinstance(self.stride, int):
            in_a_row = max(encoder_grid) > 1
            return [1 if tokens == 1 and in_a_row else self.stride for tokens in encoder_grid]
        return self.stride or [1, 1]

    def grid(self, encoder_grid: list[int]) -> list[int]:
        """Rows and columns in which the tokens of one unit lie in the language model, row by row.

        Args:
            encoder_grid: `token_grid` of the encoder.
        """
        if self.num_queries is not None:
            return [1, self.num_queries]
        if self.output_grid is not None:
            return self.output_grid
        (rows, columns), (height, width) = encoder_grid, self.block(encoder_grid)
        if columns % self.stack:
            return [1, rows * columns // self.stack]  # tokens are concatenated across the end of a row
        return [rows // height, columns // (width * self.stack)]

    def num_tokens(self, encoder_grid: list[int]) -> int:
        """Tokens in the language model for one unit, whose features lie in `encoder_grid`."""
        return math.prod(self.grid(encoder_grid))


__all__ = ["UniMoEAudioConfig", "UniMoEConnectorConfig", "UniMoESpeechConfig", "UniMoEVisionConfig"]
