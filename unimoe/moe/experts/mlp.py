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

from ...configuration_unimoe import UniMoETextConfig
from .assignments import LINEARS, assign
from .dispatch import DispatchedExperts, TokenDispatcher
from .linears import ask


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
class ExpertKernels(nn.Module):
    """Weights of a layer's gated MLP experts. `forward` is the `eager` kernel: one expert after the other."""

    # The decorator sets these after construction; see `stacked_experts` for the second.
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
            token, choice = torch.where(top_k_index == expert)
            expert_output = self.expert_output(expert, hidden_states[token])  # (tokens of this expert, D)
            output.index_add_(0, token, expert_output * top_k_weights[token, choice, None])
        return output

    def expert_output(self, expert: int, hidden_states: Tensor) -> Tensor:
        """Ask one expert about every token, (T, D) for (T, D)."""
        if self.config._experts_implementation == LINEARS:
            return ask(self, expert, hidden_states)
        gate, up = F.linear(hidden_states, self.gate_up_proj[expert]).chunk(2, dim=-1)
        return F.linear(self.act_fn(gate) * up, self.down_proj[expert])


class Experts(DispatchedExperts, ExpertKernels):
    """A layer's gated MLP experts.

    An index of E means "no expert": that assignment contributes nothing, whichever implementation runs.
    """

    def __init__(self, config: PreTrainedConfig, num_experts: int | None = None, width: int | None = None) -> None:
        super().__init__(config, num_experts, width)
        self.token_dispatcher = TokenDispatcher()

    def compute(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run the kernel that the configuration names.

        transformers' `grouped_mm` counts assignments by a histogram over [0, E-1], which for one expert is empty, and
        means to torch "from the least to the largest": it would compute what asks no expert, and throw it away.
        """
        if self.num_experts > 1 or self.config._experts_implementation != "grouped_mm":
            return ExpertKernels.forward(self, hidden_states, top_k_index, top_k_weights)
        chosen = assign(top_k_index, top_k_weights, num_experts=1, implementation="grouped_mm")
        gate, up = chosen.linear(hidden_states[chosen.token], self.gate_up_proj).chunk(2, dim=-1)  # (A, I)
        inner = self.act_fn(gate) * up * chosen.weight
        output = chosen.combine(chosen.linear(inner, self.down_proj), len(hidden_states))
        return output.to(hidden_states.dtype)

    def expert_sizes(self) -> list[int]:
        """Count the parameters of each expert."""
        return [3 * self.intermediate_dim * self.hidden_dim] * self.num_experts


def stacked_experts(
    config: UniMoETextConfig, num_experts: int | None = None, width: int | None = None, *, may_skip: bool = True
) -> Experts:
    """Build MLP experts.

    Args:
        config: Of the text model.
        num_experts: E. None: as configured.
        width: I. None: as configured.
        may_skip: Whether the index E may come. transformers' `grouped_mm` and `batched_mm` honour it only for experts
            that they believe to be sharded, with masks that cost six operations.
    """
    experts = Experts(config, num_experts, width)
    experts._is_expert_parallel = may_skip
    return experts


__all__ = ["ExpertKernels", "Experts", "GatedMLP", "stacked_experts"]
