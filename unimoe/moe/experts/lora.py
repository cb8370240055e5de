"""LoRA experts: one frozen feed-forward of the layer, and a low-rank change of it for each expert.

MixLoRA (Li et al. 2024, arXiv 2404.15159, eq. 3-5). E experts, I width, D hidden size, r rank, T tokens, A assigned.
"""

import torch
from torch import Tensor, nn

from ...configuration_unimoe import UniMoETextConfig
from .assignments import assign
from .dispatch import DispatchedExperts, TokenDispatcher
from .mlp import Experts, GatedMLP, stacked_experts


class LoRAExperts(DispatchedExperts):
    """Expert e computes `(W_d + s B_d A_d)(act((W_g + s B_g A_g) x) * (W_u + s B_u A_u) x)`, s = alpha / rank.

    The products with W are computed once for a token, not for each of its experts: those with W_g and W_u before the
    experts part, that with W_d on the weighted sum of what they compute. Per layer 3*I*D frozen parameters and
    3*E*r*(D+I) of the experts.
    """

    stacked_weights = ("gate_up_a", "gate_b", "up_b", "down_a", "down_b")

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.config = config
        self.token_dispatcher = TokenDispatcher()
        self.num_experts, self.hidden_dim = config.num_experts, config.hidden_size
        self.intermediate_dim, self.rank = config.moe_intermediate_size or 0, config.expert_rank
        self.scale = config.expert_lora_alpha / config.expert_rank
        shape = (self.num_experts, self.rank)
        self.base = GatedMLP(config, self.intermediate_dim).requires_grad_(False)
        self.gate_up_a = nn.Parameter(torch.empty(shape[0], 2 * self.rank, self.hidden_dim))
        self.gate_b = nn.Parameter(torch.zeros(shape[0], self.intermediate_dim, self.rank))
        self.up_b = nn.Parameter(torch.zeros(shape[0], self.intermediate_dim, self.rank))
        self.down_a = nn.Parameter(torch.empty(*shape, self.intermediate_dim))
        self.down_b = nn.Parameter(torch.zeros(shape[0], self.hidden_dim, self.rank))

    def compute(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `DispatchedExperts.forward`."""
        chosen = assign(
            top_k_index,
            top_k_weights,
            num_experts=self.num_experts,
            implementation=self.config._experts_implementation,
        )
        gate, up = self.base.gate_proj(hidden_states), self.base.up_proj(hidden_states)  # (T, I)
        low_gate, low_up = chosen.linear(hidden_states[chosen.token], self.gate_up_a).chunk(2, dim=-1)  # (A, r)
        gate = gate[chosen.token] + self.scale * chosen.linear(low_gate, self.gate_b)
        up = up[chosen.token] + self.scale * chosen.linear(low_up, self.up_b)
        inner = self.base.act_fn(gate) * up * chosen.weight  # (A, I)
        change = self.scale * chosen.linear(chosen.linear(inner, self.down_a), self.down_b)  # (A, D)
        tokens = len(hidden_states)
        output = self.base.down_proj(chosen.combine(inner, tokens)) + chosen.combine(change, tokens)
        return output.to(hidden_states.dtype)

    def expert_sizes(self) -> list[int]:
        """Count the parameters of each expert, without the shared feed-forward."""
        return [3 * self.rank * (self.hidden_dim + self.intermediate_dim)] * self.num_experts

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """Ask one expert about every token, (T, D) for (T, D)."""
        index = torch.full((len(hidden_states), 1), expert, device=hidden_states.device)
        return self(hidden_states, index, torch.ones_like(index, dtype=hidden_states.dtype))

    @torch.no_grad()
    def materialize(self) -> Experts:
        """Make the MLP experts that compute the same."""
        experts = stacked_experts(self.config).to(self.down_a)
        gate_a, up_a = self.gate_up_a.chunk(2, dim=1)
        gate = self.base.gate_proj.weight + self.scale * self.gate_b @ gate_a
        up = self.base.up_proj.weight + self.scale * self.up_b @ up_a
        experts.gate_up_proj.copy_(torch.cat([gate, up], dim=1))
        experts.down_proj.copy_(self.base.down_proj.weight + self.scale * self.down_b @ self.down_a)
        return experts


__all__ = ["LoRAExperts"]
