"""Experts that one modality or task alone may choose: a stack for each of these, which trains by itself."""

import torch
from torch import Tensor, nn

from ...configuration_unimoe import UniMoETextConfig
from .mlp import Experts, stacked_experts


class ReservedExperts(nn.ModuleDict):
    """The reserved experts of a layer, by key of modality or task; none if the configuration reserves none.

    Their indices follow those of all other experts, so that tokens which cannot choose them get what they would get
    without them.
    """

    def __init__(self, config: UniMoETextConfig) -> None:
        members = dict(config.reserved_in_order)
        super().__init__({key: stacked_experts(config, len(own)) for key, own in members.items()})
        self.members = members

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen reserved experts, (T, D), for (T, D), (T, K), (T, K)."""
        output = torch.zeros_like(hidden_states)
        for key, own in self.members.items():
            is_own = (top_k_index >= own[0]) & (top_k_index <= own[-1])
            local_index = torch.where(is_own, top_k_index - own[0], len(own))
            output = output + self[key](hidden_states, local_index, top_k_weights)
        return output

    def stacks(self) -> list[Experts]:
        """List the stacks in the order of their indices."""
        return [self[key] for key in self.members]  # type: ignore[misc]


__all__ = ["ReservedExperts"]
