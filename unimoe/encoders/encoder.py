"""Any transformers or timm tower, read as a sequence of tokens: features of one medium in, (units, tokens, width)
out.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..configuration.encoders import (
    UniMoEAudioConfig,
    UniMoESpeechConfig,
    UniMoEVisionConfig,
    prefix_tokens,
    token_grid,
)

# Model types of which only a part is the tower.
_TOWERS: dict[str, type[PreTrainedModel]] = {"whisper": WhisperEncoder}
# Towers with one learned position for each patch of pictures of one size. Others interpolate, or need no positions.
_ONE_SIZE = ("vit", "deit", "beit", "clip_vision_model", "siglip_vision_model")


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the tower that a configuration describes, with random weights of the dtype of the model around it."""
    dtype = torch.get_default_dtype()  # not that of the folder which the tower came from
    if tower := _TOWERS.get(config.model_type):
        return tower._from_config(config, dtype=dtype)
    return AutoModel.from_config(config, dtype=dtype)


def run_tower(tower: PreTrainedModel, features: Tensor, **kwargs: Any) -> Any:
    """Run a tower and return what it returns.

    Raises:
        ValueError: If the pictures have another size than the tower has positions for.
    """
    size = getattr(tower.config, "image_size", None)
    if tower.config.model_type in _ONE_SIZE and isinstance(size, int) and features.shape[-2:] != (size, size):
        raise ValueError(
            f"{type(tower).__name__} takes pictures of {size} x {size} pixels, got {tuple(features.shape[-2:])}. Set "
            f"the image processor's size (and crop_size) to {size}, or take a tower for the size that it makes."
        )
    return tower(**{**kwargs, tower.main_input_name: features, "return_dict": True})


def read_layer(tower: PreTrainedModel, output: Any, layer: int, *, prefix: int, keep_prefix: bool) -> Tensor:
    """Tokens (N, L, C) of one layer of a tower's output, or its feature map as (N, H, W, C).

    Raises:
        ValueError: If the tower has no such layer, or gives several sequences, or prefix tokens are to be kept of a
            feature map.
    """
    states = output.last_hidden_state if layer == -1 else _hidden_state(tower, output.hidden_states, layer)
    if not isinstance(states, Tensor) or states.dim() not in (3, 4):
        raise ValueError(
            f"{type(tower).__name__} gives neither one sequence of tokens nor one feature map, so it cannot be "
            "read as tokens. Take another tower."
        )
    if states.dim() == 3:
        return states if keep_prefix else states[:, prefix:]
    if keep_prefix:
        raise ValueError(
            f"keep_prefix: layer {layer} of {type(tower).__name__} is a feature map, which has no class token. Leave "
            "keep_prefix out, or read another layer."
        )
    # timm gives its inner layers as (N, C, H, W), without class token, whatever the layout of the last one.
    timm_format = str(getattr(getattr(tower, "timm_model", None), "output_fmt", "NCHW"))
    channels_last = layer == -1 and timm_format.endswith("NHWC")
    return states if channels_last else states.permute(0, 2, 3, 1)


def _hidden_state(tower: PreTrainedModel, states: Sequence[Tensor], layer: int) -> Tensor:
    if not -len(states) <= layer < len(states):
        raise ValueError(
            f"feature_layer {layer}: {type(tower).__name__} has {len(states)} hidden states, numbered from "
            f"{-len(states)} to {len(states) - 1}."
        )
    return states[layer]


def join_layers(
    tower: PreTrainedModel, output: Any, layers: Sequence[int], **prefix: Any
) -> tuple[Tensor, list[int] | None]:
    """Tokens (N, L, C * layers) of several layers, side by side, and the rows and columns of a feature map.

    Raises:
        ValueError: If the layers have different numbers of tokens; and as `read_layer`.
    """
    found = [read_layer(tower, output, layer, **prefix) for layer in layers]
    grids = [list(states.shape[1:3]) for states in found if states.dim() == 4]
    tokens = [states.flatten(1, -2) for states in found]
    counts = [states.shape[1] for states in tokens]
    if len(set(counts)) > 1:
        raise ValueError(
            f"feature_layer {list(layers)}: these layers of {type(tower).__name__} have {counts} tokens. Only layers "
            "with equally many can be joined."
        )
    return torch.cat(tokens, dim=-1), grids[0] if grids else None


class Encoder(nn.Module):
    """A tower with the layers to read and the prefix tokens to drop. The tower keeps its own names and weights."""

    def __init__(self, config: UniMoEVisionConfig | UniMoEAudioConfig | UniMoESpeechConfig) -> None:
        super().__init__()
        self.tower = build_tower(config.tower_config)
        self.layers = config.feature_layers
        self.prefix = {"prefix": config.num_prefix_tokens or 0, "keep_prefix": config.keep_prefix}
        self.num_tokens = config.num_tokens

    def forward(self, features: Tensor, *, output_hidden_states: bool = False, **kwargs: Any) -> BaseModelOutput:
        """Encode features of N units, as the tower takes them.

        Args:
            features: N units along the first dimension.
            output_hidden_states: Return those of the whole tower too.
            **kwargs: For the tower, such as `output_attentions`.

        Returns:
            `last_hidden_state`, the tokens (N, num_tokens, width) of the layers that the configuration chooses;
            `hidden_states` and `attentions` of the tower on request.

        Raises:
            ValueError: If the tower gives another number of tokens than the configuration states, has no such layer,
                or takes pictures of another size.
        """
        inner = self.layers != [-1]
        output = run_tower(
            self.tower, features.to(self.tower.dtype), output_hidden_states=output_hidden_states or inner, **kwargs
        )
        tokens, _ = join_layers(self.tower, output, self.layers, **self.prefix)
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"{type(self.tower).__name__} gave {tokens.shape[1]} tokens for features of shape "
                f"{tuple(features.shape)}, but num_tokens is {self.num_tokens}. Check the size that the image "
                "processor or feature extractor makes, or measure num_tokens with unimoe.encoders.measure_tower."
            )
        return BaseModelOutput(
            last_hidden_state=tokens,
            hidden_states=output.hidden_states if output_hidden_states else None,
            attentions=getattr(output, "attentions", None),
        )


def measure_tower(
    tower_config: PreTrainedConfig,
    features_shape: tuple[int, ...],
    *,
    num_prefix_tokens: int | None = None,
    feature_layer: int | list[int] = -1,
    keep_prefix: bool = False,
) -> dict[str, Any]:
    """Measure `num_tokens`, `token_grid` and `hidden_size` of any tower, on the meta device: no memory, no weights.

    Args:
        tower_config: Configuration of the tower.
        features_shape: Shape of one unit of features, e.g. (3, 224, 224) for a picture.
        num_prefix_tokens: Class, distillation and register tokens. None: known for timm's towers and some others.
        feature_layer: As in the encoder configuration.
        keep_prefix: As in the encoder configuration.

    Returns:
        The three values and `num_prefix_tokens`, as keyword arguments for an encoder configuration.

    Raises:
        ValueError: As `Encoder`.
    """
    layers = [feature_layer] if isinstance(feature_layer, int) else feature_layer
    with torch.device("meta"), torch.no_grad():
        tower = build_tower(tower_config).eval()
        if num_prefix_tokens is None:
            known = prefix_tokens(tower_config)
            num_prefix_tokens = int(getattr(getattr(tower, "timm_model", None), "num_prefix_tokens", known))
        output = run_tower(tower, torch.empty(1, *features_shape), output_hidden_states=layers != [-1])
        tokens, grid = join_layers(tower, output, layers, prefix=num_prefix_tokens, keep_prefix=keep_prefix)
    num_tokens = tokens.shape[1]
    return {
        "num_tokens": num_tokens,
        "token_grid": [1, num_tokens] if keep_prefix else grid or token_grid(tower_config, num_tokens),
        "hidden_size": tokens.shape[2],
        "num_prefix_tokens": num_prefix_tokens,
    }
