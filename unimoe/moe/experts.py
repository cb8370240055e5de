"""Experts: `(hidden_states, top_k_index, top_k_weights) -> hidden_states`, and the gated MLP they are copies of.

The weights of all experts of a layer are stacked in 3-D parameters, so that transformers' kernels (`grouped_mm`,
`batched_mm`, ...) apply. E experts, I expert width, D hidden size, T tokens, K experts per token.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation

from ..configuration_unimoe import UniMoETextConfig
from .slots import make_slots


class GatedMLP(nn.Module):
    """Feed-forward of Llama: `down(act(gate(x)) * up(x))` (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, config: UniMoETextConfig, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, channel_weights: Tensor | None = None) -> Tensor:
        """Map (..., D) to (..., D); `channel_weights` (..., width) scale the inner channels."""
        inner = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        return self.down_proj(inner if channel_weights is None else inner * channel_weights)


@use_experts_implementation
class Experts(nn.Module):
    """A layer's gated MLP experts. `forward` is the `eager` implementation: one expert after the other.

    An index of E means "no expert": that slot contributes nothing, whichever implementation runs.
    """

    # The decorator sets these after construction; True makes transformers' kernels honour the index E (see
    # `stacked_experts`).
    config: PreTrainedConfig
    _is_expert_parallel: bool

    def __init__(self, config: PreTrainedConfig, num_experts: int | None = None, width: int | None = None) -> None:
        super().__init__()
        self.num_experts = num_experts or config.num_experts
        self.hidden_dim = config.hidden_size
        self.intermediate_dim = width or config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * self.intermediate_dim, self.hidden_dim))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, self.hidden_dim, self.intermediate_dim))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts, (T, D), for (T, D), (T, K), (T, K)."""
        output = torch.zeros_like(hidden_states)
        for expert in range(self.num_experts):
            token, slot = torch.where(top_k_index == expert)
            expert_output = self.expert_output(expert, hidden_states[token])  # (tokens of this expert, D)
            output.index_add_(0, token, expert_output * top_k_weights[token, slot, None])
        return output

    def expert_sizes(self) -> list[int]:
        """Parameters of each expert."""
        return [3 * self.intermediate_dim * self.hidden_dim] * self.num_experts

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """What one expert answers to every token, (T, D) for (T, D)."""
        gate, up = F.linear(hidden_states, self.gate_up_proj[expert]).chunk(2, dim=-1)
        return F.linear(self.act_fn(gate) * up, self.down_proj[expert])


class LoneExpert(Experts):
    """A stack of one, whose `grouped_mm` skips slots that ask no expert.

    That of transformers computes them and throws the result away: it counts slots by a histogram over [0, E-1], which
    for E = 1 is empty, and means to torch "from the least to the largest".
    """

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `Experts.forward`."""
        if self.config._experts_implementation != "grouped_mm":
            return super().forward(hidden_states, top_k_index, top_k_weights)
        slots = make_slots(top_k_index, top_k_weights, num_experts=1, implementation="grouped_mm")
        gate, up = slots.linear(hidden_states[slots.token], self.gate_up_proj).chunk(2, dim=-1)  # (S, I)
        inner = self.act_fn(gate) * up * slots.weight
        output = slots.combine(slots.linear(inner, self.down_proj), len(hidden_states))
        return output.to(hidden_states.dtype)


def stacked_experts(config: UniMoETextConfig, num_experts: int | None = None, width: int | None = None) -> Experts:
    """Build MLP experts so that every implementation skips slots with the index E.

    transformers honours that index in `grouped_mm` and `batched_mm` only for experts that it believes to be sharded.
    """
    number = num_experts or config.num_experts
    experts = (LoneExpert if number == 1 else Experts)(config, number, width)
    experts._is_expert_parallel = True
    return experts
