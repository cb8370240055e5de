"""BEATs: patches of a spectrogram -> convolutional positions -> transformer with gated relative positions -> tokens.

Chen et al. 2022, "BEATs: Audio Pre-Training with Acoustic Tokenizers" (https://arxiv.org/abs/2212.09058), section 3.
Its relative positions are those of WavLM (Chen et al. 2021, https://arxiv.org/abs/2110.13900, section 3.1), its
residual scale that of DeepNet (Wang et al. 2022, https://arxiv.org/abs/2203.00555). Parameters are named as in the
published checkpoints (https://github.com/microsoft/unilm/tree/master/beats), whose files `beats_checkpoint` reads.
N windows, F frames, L patches, D hidden size, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import eager_attention_forward
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration import UniMoEBeatsConfig

GATE_SIZE = 8
"""Outputs of the gates' projection: four are summed for each of the two gates."""


class BeatsAttention(nn.Module):
    """Self-attention with a relative position bias that each query gates."""

    def __init__(self, config: UniMoEBeatsConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )
        self.grep_linear = nn.Linear(self.head_dim, GATE_SIZE)
        self.grep_a = nn.Parameter(torch.ones(1, config.num_attention_heads, 1, 1))
        if layer_idx == 0:  # all layers share it
            self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_attention_heads)

    def forward(
        self, hidden_states: Tensor, position_bias: Tensor, is_padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Map (N, L, D) with a bias (H, L, L) to (N, L, D) and, in the eager implementation, weights (N, H, L, L).

        No patch attends to those that are padding (N, L).
        """
        query, key, value = (
            project(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (N, H, L, head_dim)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        bias = self.gates(query) * position_bias  # (N, H, L, L)
        if is_padding is not None:
            bias = bias.masked_fill(is_padding[:, None, None], torch.finfo(bias.dtype).min)
        output, weights = attend(self, query, key, value, bias, dropout=dropout, scaling=self.scaling)
        return self.out_proj(output.flatten(2)), weights

    def gates(self, query: Tensor) -> Tensor:
        """How much of the position bias each query (N, H, L, head_dim) sees, (N, H, L, 1).

        With WavLM's gates `update` and `reset` it is 1 + update + (1 - update) * s * reset; here a = 1 - update.
        """
        a, reset = self.grep_linear(query).unflatten(-1, (2, -1)).sum(-1).sigmoid().chunk(2, dim=-1)
        return 2 - a + a * reset * self.grep_a


class BeatsLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each normalised after its sum with the scaled residual (DeepNet, figure 2)."""

    def __init__(self, config: UniMoEBeatsConfig, layer_idx: int) -> None:
        super().__init__()
        self.residual_scale = (2 * config.num_hidden_layers) ** 0.25
        self.self_attn = BeatsAttention(config, layer_idx)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.act_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, hidden_states: Tensor, position_bias: Tensor, is_padding: Tensor | None = None) -> Tensor:
        """Map (N, L, D) with a bias (H, L, L), and patches (N, L) that are padding, to (N, L, D)."""
        attended = self.dropout(self.self_attn(hidden_states, position_bias, is_padding)[0])
        hidden_states = self.self_attn_layer_norm(hidden_states * self.residual_scale + attended)
        inner = self.activation_dropout(self.act_fn(self.fc1(hidden_states)))
        outer = self.dropout(self.fc2(inner))
        return self.final_layer_norm(hidden_states * self.residual_scale + outer)


class BeatsEncoder(nn.Module):
    """Convolutional positions, then the layers."""

    def __init__(self, config: UniMoEBeatsConfig) -> None:
        super().__init__()
        self.config = config
        kernel = config.num_conv_pos_embeddings
        convolution = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel,
            padding=kernel // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.pos_conv = nn.Sequential(weight_norm(convolution, dim=2))  # of index 0, as in the published names
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BeatsLayer(config, index) for index in range(config.num_hidden_layers))

    def forward(self, patches: Tensor, is_padding: Tensor | None = None) -> Tensor:
        """Map (N, L, D), of which some patches (N, L) are padding, to (N, L, D)."""
        length = patches.shape[1]
        if is_padding is not None:
            patches = patches.masked_fill(is_padding[..., None], 0.0)
        positions = self.pos_conv(patches.transpose(1, 2))[..., :length]  # an even kernel gives one too many
        hidden_states = patches + nn.functional.gelu(positions).transpose(1, 2)
        hidden_states = self.dropout(self.layer_norm(hidden_states))
        bias = self.position_bias(length, patches.device)
        for layer in self.layers:
            hidden_states = layer(hidden_states, bias, is_padding)
        return hidden_states

    def position_bias(self, length: int, device: torch.device) -> Tensor:
        """Bias of each pair of patches before it is gated, (H, L, L)."""
        index = torch.arange(length, device=device)
        buckets = distance_buckets(
            index[None, :] - index[:, None],
            num_buckets=self.config.num_buckets,
            max_distance=self.config.max_bucket_distance,
        )
        first: Any = self.layers[0]
        return first.self_attn.relative_attention_bias(buckets).permute(2, 0, 1)


def distance_buckets(distance: Tensor, *, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each signed distance: half of them for each direction; of these, half hold one distance each, the
    others widen logarithmically up to `max_distance`.

    Raffel et al. 2020, T5, section 2.1 (https://arxiv.org/abs/1910.10683).
    """
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs().clamp(min=exact).float()
    logarithmic = exact + ((far / exact).log() / math.log(max_distance / exact) * (half - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), logarithmic.clamp(max=half - 1))
    return bucket + (distance > 0) * half


def padded_patches(is_padding: Tensor, length: int) -> Tensor:
    """Find which of `length` patches are padding (N, length), by which frames are (N, F).

    As the authors' code does: neighbouring patches share the frames out evenly, whatever their bands, so that of a row
    in which the sound ends the lower bands count as sound and the upper ones as padding.
    """
    frames = is_padding.shape[1] // length
    return is_padding[:, : length * frames].unflatten(1, (length, frames)).all(-1)


class BeatsModel(PreTrainedModel):
    """Spectrogram windows in, one token for each patch out; time runs along the rows of the patches.

    Departures from the authors' code, none of which changes what a checkpoint computes: new weights are drawn from one
    normal distribution, not scaled as in DeepNet; no layer is dropped in training; all patches are attended to, unless
    `mask_padding` says otherwise.
    """

    config: UniMoEBeatsConfig
    config_class = UniMoEBeatsConfig
    main_input_name = "input_values"
    input_modalities: Any = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["BeatsLayer"]
    _supports_sdpa = True
    _can_record_outputs = {"hidden_states": BeatsLayer, "attentions": OutputRecorder(BeatsAttention, index=1)}

    def __init__(self, config: UniMoEBeatsConfig) -> None:
        super().__init__(config)
        size, width = config.patch_size, config.patch_embedding_size
        self.patch_embedding = nn.Conv2d(1, width, size, stride=size, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        same = width == config.hidden_size
        self.post_extract_proj = nn.Identity() if same else nn.Linear(width, config.hidden_size)
        self.encoder = BeatsEncoder(config)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    def get_input_embeddings(self) -> nn.Module:
        """Return the layer that turns a spectrogram into patches."""
        return self.patch_embedding

    @merge_with_config_defaults
    @capture_outputs
    def forward(self, input_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encode windows.

        Args:
            input_values: What `BeatsFeatureExtractor` returns, (N, F, mel bins), with `mask_padding` a band more.
            **kwargs: `output_hidden_states`, `output_attentions`, and what attention implementations take.

        Returns:
            `last_hidden_state` (N, F / patch_size * mel bins / patch_size, D), row by row; on request `hidden_states`
            and `attentions`.

        Raises:
            ValueError: If the bands are no whole number of patches.
        """
        masks, size = self.config.mask_padding, self.config.patch_size
        bins = input_values.shape[-1] - masks
        if bins % size:
            raise ValueError(
                f"BEATs got {bins + masks} bands, but reads a multiple of {size} (patch_size){' and one' * masks}: "
                f"mask_padding is {masks}. Take a BeatsFeatureExtractor with{'' if masks else 'out'} n_samples."
            )
        patches = self.patch_embedding(input_values[:, None, :, :bins])  # (N, C, rows in time, columns in frequency)
        patches = self.layer_norm(patches.flatten(2).transpose(1, 2))  # (N, L, C)
        is_padding = padded_patches(input_values[..., bins] == 0, patches.shape[1]) if masks else None
        return BaseModelOutput(last_hidden_state=self.encoder(self.post_extract_proj(patches), is_padding))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if parametrize.is_parametrized(module):  # the convolution over positions
            convolution: Any = module
            parts = convolution.parametrizations.weight
            length, direction = parts.original0, parts.original1
            fan = self.config.num_conv_pos_embeddings * self.config.hidden_size
            init.normal_(direction, mean=0.0, std=2 / math.sqrt(fan))
            init.copy_(length, direction.norm(dim=(0, 1), keepdim=True))
            init.zeros_(convolution.bias)
            return
        super()._init_weights(module)
        if isinstance(module, BeatsAttention):
            init.ones_(module.grep_a)


__all__ = ["BeatsModel"]
