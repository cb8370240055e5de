"""What few routers do besides: change what they see, weigh by near ties, weigh shared experts jointly, and limit the
tokens of an expert.

Each is a class that stands in front of a kind of router and calls its `forward`; `build` puts them together. Shapes as
in `router`: T tokens, D hidden size, E experts, N null experts, K experts per token, n shared experts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from .router import Router, RouterOutput, RoutingContext, of_modality, precise
from .selection import fair_load, near_tie_weights, within_capacity


class PreparedInput(Router):
    """Change what the router sees of the hidden states; the experts see them as they are."""

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Jitter tokens (T, D) in training, project them by modality, and choose."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            prepared, noise = precise(hidden_states), self.config.router_jitter_noise
            if self.training and noise:
                prepared = prepared * torch.empty_like(prepared).uniform_(1 - noise, 1 + noise)
            if self.projection is not None:
                every = torch.einsum("td,mcd->tmc", prepared, self.projection.to(prepared.dtype))
                prepared = of_modality(every, context.modality_ids)
            output = super().forward(prepared, context)
        shared = output.shared_weights
        return output._replace(
            top_k_weights=output.top_k_weights.to(hidden_states.dtype),
            shared_weights=None if shared is None else shared.to(hidden_states.dtype),
        )


class NearTieWeights(Router):
    """Weigh each choice against what nearly ties with it, not against the other choices (Uni-MoE-2.0's code).

    Hardly any two logits tie, so most tokens give all their choices the same weight, which teaches the router nothing.
    """

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D), and weigh them anew."""
        output = super().forward(hidden_states, context)
        logits, record = output.router_logits, output.record
        with maybe_autocast(hidden_states.device.type, enabled=False):
            weights = near_tie_weights(logits, record.targets, epsilon=self.config.sparsemixer_epsilon)
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-6) * self.config.routed_scaling_factor
            return self.output(hidden_states.dtype, logits, record.router_probs, record.targets, weights)


class JointWeighing(Router):
    """Share the weight between the chosen and the shared experts by one softmax (Uni-MoE-2.0, arXiv 2511.12609)."""

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D), and weigh the shared ones with them."""
        output = super().forward(hidden_states, context)
        logits, targets = output.router_logits, output.record.targets
        with maybe_autocast(hidden_states.device.type, enabled=False):
            shared_logits = self.score(precise(hidden_states), self.weight[..., self.num_rows :, :], context)
            chosen = F.pad(logits, (0, 1), value=float("-inf")).gather(-1, targets)  # (T, K)
            shares = torch.cat([chosen, shared_logits], dim=-1).softmax(dim=-1)
            routed, shared = shares.split([targets.shape[-1], self.num_weighed], dim=-1)
            weights = output.record.target_weights * routed.sum(dim=-1, keepdim=True)
            jointly = self.output(hidden_states.dtype, logits, output.record.router_probs, targets, weights)
        record = jointly.record._replace(load_probability=output.record.load_probability)
        return jointly._replace(record=record, shared_weights=shared.to(hidden_states.dtype))


class LimitedCapacity(Router):
    """Drop the choices that exceed the capacity of an expert."""

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D), each for so many tokens at most."""
        output = super().forward(hidden_states, context)
        experts, record = slice(self.num_experts), output.record
        mask = record.expert_mask[:, experts]
        is_open = ~record.router_logits[:, experts].isneginf()
        if context.attention_mask is not None:
            mask, is_open = (each & context.attention_mask[:, None] for each in (mask, is_open))
        inside = within_capacity(
            record.router_gates[:, experts].detach(),
            mask,
            capacity=float(self.config.capacity_factor or 0) * fair_load(is_open, self.top_k),
            by_weight=self.config.capacity_priority == "probability",
        )
        dropped = ~F.pad(inside, (0, 1)).gather(-1, output.top_k_index)
        return output._replace(
            top_k_weights=output.top_k_weights.masked_fill(dropped, 0.0),
            top_k_index=output.top_k_index.masked_fill(dropped, self.num_experts),
        )


__all__ = ["JointWeighing", "LimitedCapacity", "NearTieWeights", "PreparedInput"]
