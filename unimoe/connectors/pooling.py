"""Pooling connector: an MLP for every token, then the average of each block of neighbours."""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration.connectors import UniMoEConnectorConfig


class PoolingConnector(nn.Module):
    """Two linear layers, then adaptive average pooling of the grid (Uni-MoE-2.0-Omni, arXiv 2511.12609).

    The MLP comes first, as in the published model: every token passes the activation before details are averaged
    away. The second layer commutes with an average, so it runs on the pooled tokens: the same values for less.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        super().__init__()
        hidden_size = config.hidden_size or output_size
        rows, columns = config.grid(grid)
        self.grid, self.output_grid = grid, (rows, columns)
        self.linear_1 = nn.Linear(input_size, hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, L, C) to (N, tokens of the output grid, D)."""
        hidden = self.act_fn(self.linear_1(features)).transpose(1, 2)
        pooled = F.adaptive_avg_pool2d(hidden.unflatten(2, self.grid), self.output_grid)  # (N, width, rows, columns)
        return self.linear_2(pooled.flatten(2).transpose(1, 2))
