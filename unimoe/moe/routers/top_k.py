"""Routers that give each token the K targets with the highest scores: plain, noisy, sampled, hierarchical, hashed.

Shapes as in `router`: T tokens, D hidden size, E experts, N null experts, K experts per token, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from ...configuration_unimoe import UniMoETextConfig
from ...modality import Modality
from .gradients import probability_of_choice, sparsemixer
from .router import Router, RouterOutput, RoutingContext, precise
from .selection import limit_to_groups


class TopKRouter(Router):
    """The K targets with the highest scores, within the best groups if there are any (DeepSeek-V3).

    With `norm_topk_prob` the weights are renormalised over the chosen (Mixtral, arXiv 2401.04088, section 2), else
    they are the scores themselves (Qwen1.5-MoE, OLMoE). A balance bias moves the choice, not the weights
    (arXiv 2408.15664, eq. 3).
    """

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D): score all targets, select K of them, weigh these."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            router_logits = self.score(tokens, self.target_weight, context)
            router_logits = self.restrict(router_logits, tokens, context)  # (T, E+N)
            scores = self.normalise(router_logits)
            targets, selected = self.select(scores, router_logits, context)  # (T, K) both
            weights = self.weigh(selected, targets)
            return self.output(hidden_states.dtype, router_logits, scores, targets, weights)

    def select(self, scores: Tensor, router_logits: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """Take the K targets with the highest scores and these scores, (T, K) both; E+N and 0 where fewer are open."""
        ranking = scores
        if self.balance_bias is not None:
            rows = context.modality_ids if len(self.balance_bias) > 1 else torch.zeros_like(context.modality_ids)
            ranking = ranking + self.balance_bias.to(scores.dtype)[rows]
        if self.permitted is not None:  # a closed target scores 0, which a bias could lift above an open one
            ranking = ranking.masked_fill(router_logits.isneginf(), float("-inf"))
        if self.config.n_group > 1:
            ranking = limit_to_groups(ranking, self.config.n_group, self.config.topk_group or self.config.n_group)
        ranked, targets = ranking.topk(self.top_k, dim=-1)
        selected = ranked if ranking is scores else scores.gather(-1, targets)
        if self.permitted is None:
            return targets, selected
        closed = ranked.isneginf()
        return targets.masked_fill(closed, self.num_targets), selected.masked_fill(closed, 0.0)


class NoisyTopKRouter(TopKRouter):
    """Top-k with learned Gaussian noise on the logits in training (Shazeer et al. 2017, arXiv 1701.06538, eq. 3-5)."""

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        self.noise_weight = nn.Parameter(torch.zeros(config.num_router_targets, config.hidden_size))

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts by noisy logits in training, and record how probable each choice was."""
        if not self.training:
            return super().forward(hidden_states, context)
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            clean = self.restrict(self.score(tokens, self.target_weight, context), tokens, context)
            deviation = F.softplus(self.score(tokens, self.noise_weight, context))  # (T, E+N)
            noisy = clean + torch.randn_like(deviation) * deviation
            scores = self.normalise(noisy)
            targets, selected = self.select(scores, noisy, context)
            output = self.output(hidden_states.dtype, noisy, scores, targets, self.weigh(selected, targets))
            probability = probability_of_choice(clean, noisy, deviation, self.top_k)
            return output._replace(record=output.record._replace(load_probability=probability))


class SparseMixerRouter(TopKRouter):
    """Top-k that samples its experts in training and estimates the gradient of the choice (GRIN, arXiv 2409.12136)."""

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Sample experts in training; sampled weights are not renormalised."""
        if not self.training:
            return super().forward(hidden_states, context)
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            logits = self.restrict(self.score(tokens, self.target_weight, context), tokens, context)
            weights, targets = sparsemixer(logits, self.top_k, epsilon=self.config.sparsemixer_epsilon)
            closed = logits.gather(-1, targets).isneginf()
            weights = weights.masked_fill(closed, 0.0) * self.config.routed_scaling_factor
            targets = targets.masked_fill(closed, self.num_targets)
            return self.output(hidden_states.dtype, logits, self.normalise(logits), targets, weights)


class HierarchicalRouter(TopKRouter):
    """Two softmaxes: over groups, and over the experts of each group; an expert's probability is their product."""

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        rows = (len(Modality), config.n_group) if self.separate else (config.n_group,)
        self.group_weight = nn.Parameter(torch.empty(*rows, config.hidden_size))

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose by logits whose softmax over the experts is p(group) p(expert | group)."""
        with maybe_autocast(hidden_states.device.type, enabled=False):
            tokens = precise(hidden_states)
            experts = self.score(tokens, self.target_weight, context).unflatten(-1, (self.config.n_group, -1))
            groups = self.score(tokens, self.group_weight, context)  # (T, G)
            logits = (groups[..., None] + experts.log_softmax(dim=-1)).flatten(-2)  # (T, E)
            logits = self.restrict(logits, tokens, context)
            scores = self.normalise(logits)
            targets, selected = self.select(scores, logits, context)
            return self.output(hidden_states.dtype, logits, scores, targets, self.weigh(selected, targets))


class HashRouter(TopKRouter):
    """One expert for each vocabulary entry, drawn once (Roller et al. 2021, arXiv 2106.04426); nothing is learned.

    All placeholder tokens of a modality have one id, and so one expert.
    """

    table: Tensor

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__(config)
        del self.weight
        self.register_buffer("table", torch.zeros(config.vocab_size, dtype=torch.int32))

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose the expert of the token's id among those open to its modality.

        Raises:
            ValueError: If the ids of the tokens are not known.
        """
        if context.token_ids is None:
            raise ValueError("router_type='hash' routes by vocabulary ids. Pass input_ids, not inputs_embeds alone.")
        shape = (len(hidden_states), self.num_experts)
        is_open = torch.ones(shape, dtype=torch.bool, device=hidden_states.device)
        if self.permitted is not None:
            is_open = self.permitted[context.modality_ids]
        # Loading in bf16 makes all of a router float32, the table too; its numbers are exact there.
        rank = self.table[context.token_ids].long() % is_open.sum(dim=-1)  # (T,)
        chosen = is_open & (is_open.cumsum(dim=-1) == rank[:, None] + 1)
        logits = precise(hidden_states).new_zeros(shape).masked_fill(~chosen, float("-inf"))
        scores = self.normalise(logits)
        targets, selected = self.select(scores, logits, context)
        return self.output(hidden_states.dtype, logits, scores, targets, self.weigh(selected, targets))


__all__ = ["HashRouter", "HierarchicalRouter", "NoisyTopKRouter", "SparseMixerRouter", "TopKRouter"]
