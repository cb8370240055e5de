"""What connectors with learned queries share: as many tokens for each unit as there are queries."""

from abc import abstractmethod
from collections import OrderedDict

import torch
from torch import Tensor, nn


class QueryConnector(nn.Module):
    """Learned queries (num_queries, width) that read the features of each unit."""

    def __init__(self, num_queries: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(num_queries, width))

    @abstractmethod
    def read(self, queries: Tensor, features: Tensor) -> Tensor:
        """Let queries (N, num_queries, width) read features (N, L, C) and return embeddings (N, num_queries, D)."""

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, L, C) to (N, num_queries, D)."""
        units = features.shape[0]
        # Attention kernels cannot shape a batch of nothing; a blank unit keeps the way to every parameter.
        features = features if units else features.new_zeros(1, *features.shape[1:])
        return self.read(self.queries.expand(len(features), -1, -1), features)[:units]


def output_projection(layers: int, input_size: int, output_size: int) -> nn.Module:
    """Make what maps read queries to the language model's width: a linear layer, or two with an exact GELU between.

    Two are the `mlp2x_gelu` of LLaVA-1.5 (arXiv 2310.03744); their names are those of the `mlp` connector.
    """
    if layers == 1:
        return nn.Linear(input_size, output_size)
    first, second = nn.Linear(input_size, output_size), nn.Linear(output_size, output_size)
    return nn.Sequential(OrderedDict(linear_1=first, act_fn=nn.GELU(), linear_2=second))
