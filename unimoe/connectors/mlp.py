"""MLP connector: every token (or every few neighbouring tokens, concatenated) goes through two linear layers."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration.connectors import UniMoEConnectorConfig


class MLPConnector(nn.Module):
    """Two linear layers with an activation between (Liu et al. 2023, LLaVA-1.5, arXiv 2310.03744, section 3.2)."""

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        super().__init__()
        hidden_size = config.hidden_size or output_size
        self.stack = config.stack
        self.linear_1 = nn.Linear(input_size * config.stack, hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, L, C) to (N, L / stack, D)."""
        units, tokens, width = features.shape
        stacked = features.reshape(units, tokens // self.stack, width * self.stack)
        return self.linear_2(self.act_fn(self.linear_1(stacked)))
