"""Rotary embedding of plain and of 3-D positions. B batch, S sequence."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding


class RotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's rotary embedding; of three axes, each turns a section of the frequencies (multimodal RoPE).

    Wang et al. 2024, Qwen2-VL (arXiv 2409.12191), section 2.1: the first frequencies follow time, the next the row,
    the last the column. Where the three are equal, as in text, the rotation is that of plain positions.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        half = self.inv_freq.shape[0]
        self.sections = list(config.rope_parameters.get("mrope_section") or default_sections(half))

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines (B, S, head_dim) for positions (B, S) or (3, B, S).

        A fourth row in front, (4, B, S), is transformers' plain position, which tells packed rows apart; it takes no
        part here.
        """
        if position_ids.dim() == 2:
            return super().forward(x, position_ids=position_ids)
        axes = position_ids[-3:]
        cos, sin = super().forward(x, position_ids=axes.flatten(0, 1))  # (3 * B, S, head_dim)
        return self._by_section(cos.unflatten(0, axes.shape[:2])), self._by_section(sin.unflatten(0, axes.shape[:2]))

    def _by_section(self, values: Tensor) -> Tensor:
        """Take each section of the frequencies, in both halves, from its axis: (3, B, S, head_dim) to three."""
        pieces = values.split(self.sections * 2, dim=-1)
        return torch.cat([piece[index % 3] for index, piece in enumerate(pieces)], dim=-1)


def default_sections(half: int) -> tuple[int, int, int]:
    """Split `half` frequencies among time, row and column as Qwen2-VL does: 16, 24 and 24 of 64."""
    side = half * 3 // 8
    return half - 2 * side, side, side


def plain_positions(position_ids: Tensor | None) -> Tensor | None:
    """Take the plain positions (B, S), whose jumps tell packed rows apart; None if only time and space are given."""
    if position_ids is None or position_ids.dim() == 2:
        return position_ids
    return position_ids[0] if position_ids.shape[0] == 4 else None


__all__ = ["RotaryEmbedding", "default_sections", "plain_positions"]
