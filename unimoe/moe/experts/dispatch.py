"""Where tokens meet experts: in this process, or wherever a token dispatcher sends them.

T tokens, D hidden size, E experts, K experts per token.
"""

from collections.abc import Callable

from torch import Tensor, nn

Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Experts of this process: (hidden_states (T, D), top_k_index (T, K), top_k_weights (T, K)) -> (T, D)."""


class TokenDispatcher(nn.Module):
    """Bring tokens to experts that are all in this process; subclasses bring them to others. It has no parameters."""

    def forward(self, compute: Compute, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts, (T, D), of which `compute` runs those of this process."""
        return compute(hidden_states, top_k_index, top_k_weights)


class DispatchedExperts(nn.Module):
    """What all stacks of experts are: a kernel (`compute`) behind a token dispatcher."""

    token_dispatcher: TokenDispatcher

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts, (T, D), for (T, D), (T, K), (T, K)."""
        return self.token_dispatcher(self.compute, hidden_states, top_k_index, top_k_weights)

    def compute(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run the experts of this process."""
        raise NotImplementedError


__all__ = ["Compute", "DispatchedExperts", "TokenDispatcher"]
