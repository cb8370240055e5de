"""Pixel-shuffle connector: each block of neighbouring tokens becomes one wide token, which goes through an MLP."""

from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration.connectors import UniMoEConnectorConfig


class PixelShuffleConnector(nn.Module):
    """Space to depth, layer norm and two linear layers (InternVL 1.5, arXiv 2404.16821).

    The values are those of transformers' InternVL. Idefics3 (arXiv 2408.12637) shuffles in the same way but has one
    linear layer behind. Blocks need not be square here, and a row of sound tokens can be shuffled in time.
    """

    def __init__(self, config: UniMoEConnectorConfig, input_size: int, output_size: int, grid: list[int]) -> None:
        super().__init__()
        hidden_size = config.hidden_size or output_size
        self.grid, self.block = grid, config.block(grid)
        width = input_size * self.block[0] * self.block[1]
        self.layer_norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, hidden_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, L, C) to (N, L / tokens of a block, D)."""
        hidden = self.layer_norm(self.shuffle(features))
        return self.linear_2(self.act_fn(self.linear_1(hidden)))

    def shuffle(self, features: Tensor) -> Tensor:
        """Concatenate the tokens (N, L, C) of each block, row by row."""
        (rows, columns), (height, width) = self.grid, self.block
        shape = (rows // height, height, columns // width, width)
        blocks = features.unflatten(1, shape).transpose(2, 3)  # (N, rows, columns, height, width, C)
        return blocks.flatten(3).flatten(1, 2)
