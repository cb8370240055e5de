"""Routers: hidden states (and the tokens' modality) in, `(router_logits, top_k_weights, top_k_index, expert_mask)`
out.

Everything a router can do reduces to weights and indices; the index one past the last expert means "no expert".
Shapes: T tokens, D hidden size, E experts, N null experts, K experts per token, M modalities.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from ..modality import Modality


class RoutingContext(NamedTuple):
    """What a router may know about the tokens beyond their hidden state."""

    modality_ids: Tensor
    """`Modality` of each token, shape (T,)."""


class TopKRouter(nn.Module):
    """Route each token to the K experts with the highest softmax probability.

    With `norm_topk_prob` the weights are renormalised over the chosen experts (Mixtral, arXiv 2401.04088, section 2),
    otherwise they are the probabilities themselves (Qwen1.5-MoE, OLMoE). Modality awareness is applied to the logits
    before the softmax: a bias for each modality, or a mask that leaves only the experts which the modality may use.

    Null experts are E, ..., E+N-1 in `router_logits` and `expert_mask`; they compute nothing, and keep their weight,
    so that the routed output is attenuated (Uni-MoE-2.0, arXiv 2511.12609).
    """

    permitted: Tensor | None
    modality_bias: nn.Parameter | None

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.num_experts
        self.norm_topk_prob = config.norm_topk_prob
        targets = config.num_experts + config.num_null_experts
        self.weight = nn.Parameter(torch.empty(targets, config.hidden_size))
        biased, isolated = config.modality_routing == "bias", config.modality_routing == "isolated"
        self.modality_bias = nn.Parameter(torch.zeros(len(Modality), targets)) if biased else None
        self.register_buffer("permitted", permitted_targets(config) if isolated else None, persistent=False)

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose experts.

        Args:
            hidden_states: Shape (T, D).
            context: The tokens' modality.

        Returns:
            router_logits: What the softmax saw, float32 or (of a float64 model) float64, (T, E+N); -inf where the
                modality may not go.
            top_k_weights: Combine weights in the dtype of the hidden states, (T, K); 0 where the index is E.
            top_k_index: Expert indices, (T, K); E where no expert computes.
            expert_mask: Which targets each token chose, nulls told apart, bool, (T, E+N).
        """
        # At least float32, under autocast too: ties of bf16 logits would make the choice depend on rounding.
        precise = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            router_logits = F.linear(hidden_states.to(precise), self.weight.to(precise))
        router_logits = self.modality_logits(router_logits, context)
        probabilities = router_logits.softmax(dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)  # (T, K)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        expert_mask = torch.zeros_like(router_logits, dtype=torch.bool).scatter(-1, chosen, True)
        weights = weights.masked_fill(chosen >= self.num_experts, 0.0)
        return router_logits, weights.to(hidden_states.dtype), chosen.clamp(max=self.num_experts), expert_mask

    def modality_logits(self, router_logits: Tensor, context: RoutingContext) -> Tensor:
        """Apply the modality mode to logits of shape (T, E+N)."""
        if self.modality_bias is not None:
            return router_logits + self.modality_bias.to(router_logits.dtype)[context.modality_ids]
        if self.permitted is not None:
            return router_logits.masked_fill(~self.permitted[context.modality_ids], float("-inf"))
        return router_logits


Router = TopKRouter


def permitted_targets(config: UniMoETextConfig) -> Tensor:
    """Which router targets each modality may use, bool, (M, E+N); null experts are open to all."""
    permitted = torch.zeros(len(Modality), config.num_experts + config.num_null_experts, dtype=torch.bool)
    permitted[:, config.num_experts :] = True
    for modality in Modality:
        permitted[modality, config.permitted_experts(modality)] = True
    return permitted
