"""Attention of the language model. B batch, S sequence, D hidden size."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from ..configuration_unimoe import UniMoETextConfig


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions; queries and keys may be normalised (`qk_norm`)."""

    def __init__(self, config: UniMoETextConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        query_size = config.num_attention_heads * self.head_dim
        key_size = key_value_heads * self.head_dim
        bias = config.attention_bias or config.qkv_bias
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, key_size, bias=bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_bias)
        norm_sizes = (query_size, key_size) if config.qk_norm == "projection" else (self.head_dim, self.head_dim)
        self.q_norm, self.k_norm = (
            LlamaRMSNorm(size, eps=config.rms_norm_eps) if config.qk_norm else nn.Identity() for size in norm_sizes
        )

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Map (B, S, D) to (B, S, D) and, if the implementation gives them, attention weights (B, heads, S, S)."""
        query, key, value = self.project(hidden_states)  # (B, heads, S, head_dim) each
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights

    def project(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project hidden states (B, S, D) to queries, keys and values, split into heads (B, heads, S, head_dim)."""
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.config.qk_norm == "projection":
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (states.unflatten(-1, (-1, self.head_dim)) for states in (query, key, value))
        if self.config.qk_norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        if (limit := self.config.clip_qkv) is not None:
            query, key, value = (states.clamp(-limit, limit) for states in (query, key, value))
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


__all__ = ["Attention"]
