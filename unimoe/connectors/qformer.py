"""Q-Former connector: a fixed number of learned queries read the features by cross-attention."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration_parts import UniMoEConnectorConfig


class QFormerConnector(nn.Module):
    """Learned queries that attend to each other and to the features (Li et al. 2023, BLIP-2, arXiv 2301.12597, section
    3.1).

    Departure from the paper: pre-normalisation, cross-attention in every layer, and no text branch.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        super().__init__()
        width = config.hidden_size or output_size
        self.queries = nn.Parameter(torch.empty(config.num_queries, width))
        self.input_proj = nn.Linear(input_size, width)
        self.layers = nn.ModuleList(QFormerLayer(config, width) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, L, C) to (N, num_queries, D)."""
        features = self.input_proj(features)
        queries = self.queries.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.output_proj(self.norm(queries))


class QFormerLayer(nn.Module):
    """Self-attention among the queries, cross-attention to the features, feed-forward."""

    def __init__(self, config: UniMoEConnectorConfig, width: int) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), ACT2FN[config.hidden_act], nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Map queries (N, Q, W) and features (N, L, W) to queries (N, Q, W)."""
        normed = self.self_norm(queries)
        queries = queries + self.self_attention(normed, normed, normed, need_weights=False)[0]
        normed = self.cross_norm(queries)
        queries = queries + self.cross_attention(normed, features, features, need_weights=False)[0]
        return queries + self.mlp(self.mlp_norm(queries))
