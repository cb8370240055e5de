"""Routers whose tokens differ in how many experts they get: nucleus (top-p), and experts that choose their tokens.

Shapes as in `router`: T tokens, D hidden size, E experts, N null experts, K experts per token at most.
"""

import torch
from torch import Tensor
from transformers.utils.generic import maybe_autocast

from .router import Router, RouterOutput, RoutingContext, precise
from .selection import expert_choice, smallest_prefix


class TopPRouter(Router):
    """The smallest set of targets whose probabilities reach `router_top_p` (arXiv 2403.07652, eq. 3-4).

    Null experts are targets like others (Uni-MoE-2.0, arXiv 2511.12609). Of equal probabilities the lower index counts
    as the larger. A token has at least `min_experts_per_tok` targets and at most K.
    """

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D): as many as it takes."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            logits = self.restrict(self.score(tokens, self.target_weight, context), tokens, context)
            scores = self.normalise(logits)  # (T, E+N)
            ordered, targets = scores.sort(dim=-1, descending=True, stable=True)
            size = smallest_prefix(ordered, self.config.router_top_p).clamp(min=self.config.min_experts_per_tok)
            selected, targets = ordered[:, : self.top_k], targets[:, : self.top_k]  # (T, K) both
            left_out = torch.arange(self.top_k, device=scores.device) >= size[:, None]
            if self.permitted is not None:
                left_out = left_out | logits.gather(-1, targets).isneginf()
            targets = targets.masked_fill(left_out, self.num_targets)
            weights = self.weigh(selected.masked_fill(left_out, 0.0), targets)
            return self.output(hidden_states.dtype, logits, scores, targets, weights)


class ExpertChoiceRouter(Router):
    """Each expert takes the tokens that score highest with it (Zhou et al. 2022, arXiv 2202.09368, section 3.2).

    An expert takes as many tokens as it would have if those it is open to were spread evenly, K for each, rounded up.
    What a token gets depends on all tokens of the batch, so this router cannot generate.
    """

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Let experts choose among tokens of shape (T, D); the output's K is E."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            logits = self.restrict(self.score(tokens, self.target_weight, context), tokens, context)
            scores = self.normalise(logits)  # (T, E)
            is_open = ~logits.isneginf()
            if context.attention_mask is not None:
                is_open = is_open & context.attention_mask[:, None]
            left_out = ~expert_choice(scores, is_open, experts_per_token=self.top_k)
            targets = torch.arange(self.num_experts, device=scores.device).expand_as(scores)
            targets = targets.masked_fill(left_out, self.num_targets)
            weights = self.weigh(scores.masked_fill(left_out, 0.0), targets)
            return self.output(hidden_states.dtype, logits, scores, targets, weights)


__all__ = ["ExpertChoiceRouter", "TopPRouter"]
