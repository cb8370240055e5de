"""Latent experts: projections into and out of a latent space, shared by a group, and small maps of each expert in it.

MoLAE (Liu et al. 2025, arXiv 2503.23100). E experts in G groups, I width, D hidden size, r latent size, A assignments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ...configuration_unimoe import UniMoETextConfig
from .assignments import assign, sum_by_row
from .dispatch import DispatchedExperts, TokenDispatcher
from .mlp import Experts, stacked_experts


class LatentExperts(DispatchedExperts):
    """Expert e of group g computes `C_g F_e (act(A_e B_g x) * A'_e B'_g x)`.

    `B_g x` and `B'_g x` are computed once for a token and group, `C_g` is applied once to the weighted sum over the
    group's experts. Per layer 3*G*r*D parameters of groups and 3*E*I*r of experts.
    """

    stacked_weights = ("gate_proj", "up_proj", "down_proj")

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_dispatcher = TokenDispatcher()
        self.num_experts, self.hidden_dim = config.num_experts, config.hidden_size
        self.intermediate_dim, latent = config.moe_intermediate_size or 0, config.expert_latent_size or 0
        self.num_groups, self.latent_dim = config.expert_latent_groups, latent
        self.latent_gate = nn.Parameter(torch.empty(self.num_groups, latent, self.hidden_dim))
        self.latent_up = nn.Parameter(torch.empty(self.num_groups, latent, self.hidden_dim))
        self.latent_out = nn.Parameter(torch.empty(self.num_groups, self.hidden_dim, latent))
        self.gate_proj = nn.Parameter(torch.empty(self.num_experts, self.intermediate_dim, latent))
        self.up_proj = nn.Parameter(torch.empty(self.num_experts, self.intermediate_dim, latent))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, latent, self.intermediate_dim))
        self.act_fn = ACT2FN[config.hidden_act]

    def compute(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `DispatchedExperts.forward`."""
        chosen = assign(
            top_k_index,
            top_k_weights,
            num_experts=self.num_experts,
            implementation=self.config._experts_implementation,
        )
        group = (chosen.expert * self.num_groups // self.num_experts).clamp(max=self.num_groups - 1)
        row = chosen.token * self.num_groups + group  # (A,)
        gate = chosen.linear(self.latent(hidden_states, self.latent_gate)[row], self.gate_proj)  # (A, I)
        up = chosen.linear(self.latent(hidden_states, self.latent_up)[row], self.up_proj)
        answers = chosen.linear(self.act_fn(gate) * up * chosen.weight, self.down_proj)  # (A, r)
        tokens = len(hidden_states)
        by_group = sum_by_row(answers, row, tokens * self.num_groups)  # (T*G, r)
        side_by_side = by_group.view(tokens, self.num_groups * self.latent_dim)
        return F.linear(side_by_side, self.latent_out.transpose(0, 1).flatten(1)).to(hidden_states.dtype)

    def latent(self, hidden_states: Tensor, projection: Tensor) -> Tensor:
        """Map tokens (T, D) to latent states (T*G, r) under the projections (G, r, D) of the groups."""
        return F.linear(hidden_states, projection.flatten(0, 1)).view(-1, self.latent_dim)

    def expert_sizes(self) -> list[int]:
        """Count the parameters of each expert, without the shared projections."""
        return [3 * self.latent_dim * self.intermediate_dim] * self.num_experts

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """Ask one expert about every token, (T, D) for (T, D)."""
        index = torch.full((len(hidden_states), 1), expert, device=hidden_states.device)
        return self(hidden_states, index, torch.ones_like(index, dtype=hidden_states.dtype))

    @torch.no_grad()
    def materialize(self) -> Experts:
        """Make the MLP experts that compute the same."""
        experts = stacked_experts(self.config).to(self.down_proj)
        size = self.num_experts // self.num_groups
        shared = [weights.repeat_interleave(size, dim=0) for weights in (self.latent_gate, self.latent_up)]
        gate, up = self.gate_proj @ shared[0], self.up_proj @ shared[1]
        experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
        experts.down_proj.copy_(self.latent_out.repeat_interleave(size, dim=0) @ self.down_proj)
        return experts


__all__ = ["LatentExperts"]
