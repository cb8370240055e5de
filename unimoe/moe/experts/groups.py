"""Experts of different width behind the contract of experts: one stack for each width."""

import torch
from torch import Tensor, nn

from ...configuration_unimoe import UniMoETextConfig
from .mlp import Experts, stacked_experts


class GroupedExperts(nn.Module):
    """Experts whose widths differ, e.g. small ones for vision (ERNIE-4.5-VL): an expert group for each width.

    A group whose experts no token chose reads no weights, except with `batched_mm`, whose assignments each read an
    expert. In checkpoints the groups are called `banks`.
    """

    local_index: Tensor

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        widths = config.expert_widths()
        self.num_experts, self.hidden_dim = len(widths), config.hidden_size
        self.members = [[e for e, own in enumerate(widths) if own == width] for width in sorted(set(widths))]
        self.banks = nn.ModuleList(
            stacked_experts(config, num_experts=len(members), width=widths[members[0]]) for members in self.members
        )
        self.register_buffer("local_index", self.find_local_index(), persistent=False)

    def find_local_index(self) -> Tensor:
        """Find the index in each group of every expert and of E, (groups, E+1); past its end for those of others."""
        local_index = torch.empty(len(self.members), self.num_experts + 1, dtype=torch.long)
        for row, members in zip(local_index, self.members, strict=True):
            row.fill_(len(members))
            row[members] = torch.arange(len(members))
        return local_index

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts, (T, D), for (T, D), (T, K), (T, K)."""
        output = torch.zeros_like(hidden_states)
        for group, local_index in zip(self.banks, self.local_index, strict=True):
            output = output + group(hidden_states, local_index[top_k_index], top_k_weights)
        return output

    def expert_sizes(self) -> list[int]:
        """Count the parameters of each expert."""
        sizes = [0] * self.num_experts
        for group, members in zip(self.banks, self.members, strict=True):
            for size, expert in zip(group.expert_sizes(), members, strict=True):  # type: ignore[operator]
                sizes[expert] = size
        return sizes

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """Ask one expert about every token, (T, D) for (T, D)."""
        group = next(row for row, members in enumerate(self.members) if expert in members)
        experts = self.banks[group]
        assert isinstance(experts, Experts)
        return experts.expert_output(self.members[group].index(expert), hidden_states)


__all__ = ["GroupedExperts"]
