"""Any transformers or timm tower, read as a sequence of tokens: features of one medium in, (units, tokens, width)
out.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..configuration_parts import UniMoEAudioConfig, UniMoESpeechConfig, UniMoEVisionConfig, token_grid

# Model types of which only a part is the tower.
_TOWERS: dict[str, type[PreTrainedModel]] = {"whisper": WhisperEncoder}


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the tower that a configuration describes, with random weights."""
    if tower := _TOWERS.get(config.model_type):
        return tower._from_config(config)
    return AutoModel.from_config(config)


def read_states(tower: PreTrainedModel, features: Tensor, *, layer: int = -1) -> Tensor:
    """Run a tower and return a hidden state: tokens (N, L, C), or a feature map (N, H, W, C)."""
    output = tower(**{tower.main_input_name: features}, output_hidden_states=layer != -1, return_dict=True)
    states = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    if states.dim() == 4:
        timm_format = str(getattr(getattr(tower, "timm_model", None), "output_fmt", "NCHW"))
        return states if timm_format.endswith("NHWC") else states.permute(0, 2, 3, 1)
    return states


def read_tokens(tower: PreTrainedModel, features: Tensor, *, layer: int = -1, prefix: int = 0) -> Tensor:
    """Run a tower and return its tokens (N, L, C): a feature map row by row, prefix tokens dropped."""
    states = read_states(tower, features, layer=layer)
    return states.flatten(1, -2)[:, prefix:]


class Encoder(nn.Module):
    """A tower with the layer to read and the prefix tokens to drop. The tower keeps its own names and weights."""

    def __init__(self, config: UniMoEVisionConfig | UniMoEAudioConfig | UniMoESpeechConfig) -> None:
        super().__init__()
        self.tower = build_tower(config.tower_config)
        self.layer = config.feature_layer
        self.prefix = config.num_prefix_tokens or 0
        self.num_tokens = config.num_tokens

    def forward(self, features: Tensor) -> Tensor:
        """Map features of N units, as the tower takes them, to (N, num_tokens, width).

        Raises:
            ValueError: If the tower gives another number of tokens than the configuration states.
        """
        tokens = read_tokens(self.tower, features.to(self.tower.dtype), layer=self.layer, prefix=self.prefix)
        if tokens.shape[1] != self.num_tokens:
            raise ValueError(
                f"{type(self.tower).__name__} gave {tokens.shape[1]} tokens for features of shape "
                f"{tuple(features.shape)}, but num_tokens is {self.num_tokens}. Check the size that the image "
                "processor or feature extractor makes, or measure num_tokens with unimoe.encoders.measure_tower."
            )
        return tokens


def measure_tower(
    tower_config: PreTrainedConfig, features_shape: tuple[int, ...], *, num_prefix_tokens: int = 0
) -> dict[str, Any]:
    """Measure `num_tokens`, `token_grid` and `hidden_size` of any tower, on the meta device: no memory, no weights.

    Args:
        tower_config: Configuration of the tower.
        features_shape: Shape of one unit of features, e.g. (3, 224, 224) for a picture.
        num_prefix_tokens: Class and distillation tokens that will be dropped.

    Returns:
        The three values, as keyword arguments for an encoder configuration.
    """
    with torch.device("meta"), torch.no_grad():
        tower = build_tower(tower_config).eval()
        states = read_states(tower, torch.empty(1, *features_shape))
    tokens = states.flatten(1, -2).shape[1] - num_prefix_tokens
    grid = list(states.shape[1:3]) if states.dim() == 4 else token_grid(tower_config, tokens)
    return {"num_tokens": tokens, "token_grid": grid, "hidden_size": states.shape[-1]}
