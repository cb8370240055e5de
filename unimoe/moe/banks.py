"""Experts of different width behind the contract of experts: one stack for each width."""

import torch
from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from .experts import Experts, stacked_experts


class ExpertBanks(nn.Module):
    """Experts whose widths differ, e.g. small ones for vision (ERNIE-4.5-VL), in one `Experts` for each width.

    A bank whose experts no token chose reads no weights, except with `batched_mm`, whose slots each read an expert.
    """

    places: Tensor

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        widths = config.expert_widths()
        self.num_experts, self.hidden_dim = config.num_experts, config.hidden_size
        self.members = [[e for e, own in enumerate(widths) if own == width] for width in sorted(set(widths))]
        self.banks = nn.ModuleList(
            stacked_experts(config, num_experts=len(members), width=widths[members[0]]) for members in self.members
        )
        self.register_buffer("places", self.find_places(), persistent=False)

    def find_places(self) -> Tensor:
        """Index within each bank of every expert, and of E; past its end for experts of other banks, (banks, E+1)."""
        places = torch.empty(len(self.members), self.num_experts + 1, dtype=torch.long)
        for row, members in zip(places, self.members, strict=True):
            row.fill_(len(members))
            row[members] = torch.arange(len(members))
        return places

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts, (T, D), for (T, D), (T, K), (T, K)."""
        output = torch.zeros_like(hidden_states)
        for bank, places in zip(self.banks, self.places, strict=True):
            output = output + bank(hidden_states, places[top_k_index], top_k_weights)
        return output

    def expert_sizes(self) -> list[int]:
        """Parameters of each expert."""
        sizes = [0] * self.num_experts
        for bank, members in zip(self.banks, self.members, strict=True):
            for place, expert in enumerate(members):
                sizes[expert] = bank.expert_sizes()[place]  # type: ignore[operator]
        return sizes

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """What one expert answers to every token, (T, D) for (T, D)."""
        bank = next(row for row, members in enumerate(self.members) if expert in members)
        experts = self.banks[bank]
        assert isinstance(experts, Experts)
        return experts.expert_output(self.members[bank].index(expert), hidden_states)


__all__ = ["ExpertBanks"]
