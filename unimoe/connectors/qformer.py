"""Q-Former connector: a fixed number of learned queries read the features by cross-attention."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.whisper.modeling_whisper import eager_attention_forward

from ..configuration.connectors import UniMoEConnectorConfig
from .queries import QueryConnector, output_projection


class QFormerConnector(QueryConnector):
    """Learned queries that attend to each other and to the features (Li et al. 2023, BLIP-2, arXiv 2301.12597, section
    3.1).

    Departure from the paper: pre-normalisation, cross-attention in every layer, and no text branch.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        width = config.hidden_size or output_size
        super().__init__(config.num_queries or 0, width)
        self.input_proj = nn.Linear(input_size, width)
        self.layers = nn.ModuleList(QFormerLayer(config, width) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.output_proj = output_projection(config.num_output_layers, width, output_size)

    def read(self, queries: Tensor, features: Tensor) -> Tensor:
        """Let queries (N, num_queries, W) read features (N, L, C) and return embeddings (N, num_queries, D)."""
        features = self.input_proj(features)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.output_proj(self.norm(queries))


class QFormerLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the features, feed-forward."""

    def __init__(self, config: UniMoEConnectorConfig, width: int) -> None:
        super().__init__()
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention, self.cross_attention = (QFormerAttention(config, width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), ACT2FN[config.hidden_act], nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Map queries (N, Q, W) and features (N, L, W) to queries (N, Q, W)."""
        normed = self.self_norm(queries)
        queries = queries + self.dropout(self.self_attention(normed, normed))
        queries = queries + self.dropout(self.cross_attention(self.cross_norm(queries), features))
        return queries + self.dropout(self.mlp(self.mlp_norm(queries)))


class QFormerAttention(nn.Module):
    """Multi-head attention of queries to other states, in the implementation that the configuration names."""

    def __init__(self, config: UniMoEConnectorConfig, width: int) -> None:
        super().__init__()
        heads = config.num_attention_heads
        if width % heads:
            raise ValueError(f"num_attention_heads ({heads}) of a qformer does not divide its hidden_size ({width}).")
        self.config = config
        self.heads_shape = (heads, width // heads)
        self.is_causal = False
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, states: Tensor) -> Tensor:
        """Map queries (N, Q, W) that attend to states (N, L, W) to (N, Q, W)."""
        query, key, value = (
            projected.unflatten(-1, self.heads_shape).transpose(1, 2)  # (N, heads, tokens, W / heads)
            for projected in (self.q_proj(queries), self.k_proj(states), self.v_proj(states))
        )
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation or "sdpa", eager_attention_forward
        )
        output, _ = attend(self, query, key, value, None, scaling=self.heads_shape[1] ** -0.5)
        return self.out_proj(output.flatten(2))
