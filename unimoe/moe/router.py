"""Routers: hidden states and what is known of the tokens in, combine weights and expert indices out.

Everything a router can do reduces to weights and indices; the index one past the last expert means "no expert".
Shapes: T tokens, D hidden size, E experts, N null experts, K experts per token, M modalities, n shared experts.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from ..modality import Modality
from .router_gradients import sparsemixer, straight_through
from .selection import fair_load, limit_to_groups, within_capacity

_TINY = 1e-20  # DeepSeek-V3: keeps the sum of scores that are all zero from dividing by zero


class RoutingContext(NamedTuple):
    """What a router may know about the tokens beyond their hidden state."""

    modality_ids: Tensor
    """`Modality` of each token, shape (T,)."""
    token_ids: Tensor | None = None
    """Vocabulary id of each token, shape (T,); None if the model was given embeddings."""
    real: Tensor | None = None
    """False for padding, bool, shape (T,). None: all tokens are real."""


class RouterOutput(NamedTuple):
    """What a router decided, and what losses and analysis read; models record these by their index."""

    router_logits: Tensor
    """What the choice was made from, float32 or (of a float64 model) float64, (T, E+N); -inf where the modality may
    not go."""
    top_k_weights: Tensor
    """Combine weights in the dtype of the hidden states, (T, K); 0 where the index is E."""
    top_k_index: Tensor
    """Expert indices, (T, K); E where no expert computes."""
    expert_mask: Tensor
    """Which targets each token chose, nulls told apart, before a capacity took any away, bool, (T, E+N)."""
    router_probs: Tensor
    """Scores normalised to a sum of 1 over the targets open to the token, (T, E+N)."""
    router_gates: Tensor
    """Weight of each target, 0 where it was not chosen, nulls with theirs, (T, E+N)."""
    load_probability: Tensor | None = None
    """Of noisy top-k in training: how probable each target is among the K if its noise is drawn again, (T, E+N)."""
    shared_weights: Tensor | None = None
    """Weights of the shared experts, if the router weighs them, (T, n)."""


class Router(nn.Module):
    """What all routers share: logits, the modality axis, weights of the chosen targets, null experts, capacity.

    Null experts are the targets E, ..., E+N-1; they compute nothing. A subclass says how targets are chosen.
    """

    weight: nn.Parameter
    modality_bias: nn.Parameter | None
    projection: nn.Parameter | None
    permitted: Tensor | None
    balance_bias: Tensor | None

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.config = config
        self.top_k = config.num_experts_per_tok
        self.num_experts = config.num_experts
        targets, modalities, width = config.num_router_targets, len(Modality), config.hidden_size
        self.num_weighed = config.num_shared_experts if config.shared_expert_weighting == "router" else 0
        self.separate = config.modality_routing == "separate"
        rows = (modalities, targets + self.num_weighed) if self.separate else (targets + self.num_weighed,)
        self.weight = nn.Parameter(torch.empty(*rows, width))
        biased, projected = config.modality_routing == "bias", config.router_modality_projection
        self.modality_bias = nn.Parameter(torch.zeros(modalities, targets)) if biased else None
        self.projection = nn.Parameter(torch.empty(modalities, width, width)) if projected else None
        permitted = permitted_targets(config) if config.is_isolated else None
        # Persistent if None: accelerate, which offloads what is not persistent, takes it for a tensor.
        self.register_buffer("permitted", permitted, persistent=permitted is None)
        balanced_apart = modalities if config.router_aux_loss_scope == "modality" else 1
        balance_bias = torch.zeros(balanced_apart, targets) if config.balance_bias else None
        self.register_buffer("balance_bias", balance_bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Router":
        """Move as every module, but not below float32: rounded weights would choose other experts.

        `to`, `half` and `bfloat16` of any module around this one come here.
        """
        return super()._apply(lambda tensor: at_least_float32(fn(tensor), before=tensor), recurse)

    def keep_float32(self) -> "Router":
        """Raise to float32 what was built in less, where the default dtype of torch is less."""
        return self._apply(lambda tensor: tensor)

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> RouterOutput:
        """Choose experts for tokens of shape (T, D)."""
        # At least float32, under autocast too: ties of bf16 logits would make the choice depend on rounding.
        precise = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            prepared = self.prepare(hidden_states.to(precise), context)
            logits = self.logits(prepared, context)  # (T, E+N+n)
            logits, shared_logits = logits.split([self.config.num_router_targets, self.num_weighed], dim=-1)
            logits, load_probability = self.perturb(self.restrict(logits, context), prepared)
            scores = logits.softmax(-1) if self.config.scoring_func == "softmax" else logits.sigmoid()
            targets, weights = self.pick(logits, scores, context)  # (T, K) both
            shared_weights = None
            if self.num_weighed:
                weights, shared_weights = weigh_jointly(logits, targets, weights, shared_logits)
                shared_weights = shared_weights.to(hidden_states.dtype)
        probs = scores if self.config.scoring_func == "softmax" else scores / scores.sum(-1, keepdim=True)
        output = self.finish(hidden_states.dtype, logits, probs, targets, weights, context)
        return output._replace(load_probability=load_probability, shared_weights=shared_weights)

    def prepare(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """What the router sees of the hidden states (T, D); the experts see them as they are."""
        noise = self.config.router_jitter_noise
        if self.training and noise:
            hidden_states = hidden_states * torch.empty_like(hidden_states).uniform_(1 - noise, 1 + noise)
        if self.projection is not None:
            every = torch.einsum("td,mcd->tmc", hidden_states, self.projection.to(hidden_states.dtype))
            hidden_states = of_modality(every, context.modality_ids)
        return hidden_states

    def logits(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """Linear router logits (T, E+N+n); with `separate`, by the weights of the token's modality."""
        weight = self.weight.to(hidden_states.dtype)
        if not self.separate:
            return F.linear(hidden_states, weight)
        return of_modality(torch.einsum("td,med->tme", hidden_states, weight), context.modality_ids)

    def restrict(self, logits: Tensor, context: RoutingContext) -> Tensor:
        """Add the modality's bias to logits (T, E+N), or close the targets that are not open to it."""
        if self.modality_bias is not None:
            logits = logits + self.modality_bias.to(logits.dtype)[context.modality_ids]
        if self.permitted is not None:
            logits = logits.masked_fill(~self.permitted[context.modality_ids], float("-inf"))
        return logits

    def perturb(self, logits: Tensor, prepared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Add noise to the logits (T, E+N), and say how probable each target is then; here: neither."""
        return logits, None

    def pick(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """Choose targets and weigh them.

        Returns:
            Targets (T, K), each row without repetition, and their weights (T, K); where nothing is chosen, `nothing`.
        """
        targets, chosen = self.choose(logits, scores, context)
        weights = scores.gather(-1, targets).masked_fill(~chosen, 0.0)
        gradient = self.config.router_gradient
        if gradient == "straight_through":
            path = weights * self.config.routed_scaling_factor
            weights = straight_through(self.normalise(weights, targets), path)
        else:
            weights = self.normalise(weights.detach() if gradient == "dense" else weights, targets)
        return torch.where(chosen, targets, self.nothing), weights

    def choose(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """Targets (T, K), and which of them are chosen, bool (T, K)."""
        raise NotImplementedError

    @property
    def nothing(self) -> int:
        """Where a target (T, K) is none: one past the null experts."""
        return self.config.num_router_targets

    def normalise(self, weights: Tensor, targets: Tensor) -> Tensor:
        """Make scores of the chosen targets (T, K) combine weights."""
        if not self.config.null_experts_keep_mass:
            weights = weights.masked_fill(targets >= self.num_experts, 0.0)
        if self.config.norm_topk_prob:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + _TINY)
        return weights * self.config.routed_scaling_factor

    def finish(
        self,
        dtype: torch.dtype,
        logits: Tensor,
        probs: Tensor,
        targets: Tensor,
        weights: Tensor,
        context: RoutingContext,
    ) -> RouterOutput:
        """Drop what exceeds the capacity, and turn targets into expert indices."""
        by_target = logits.new_zeros(len(logits), self.nothing + 1)
        gates = by_target.scatter(-1, targets, weights)[:, : self.nothing]
        mask = by_target.scatter(-1, targets, 1.0)[:, : self.nothing] > 0
        kept = targets < self.num_experts
        if self.config.capacity_factor is not None:
            experts = slice(self.num_experts)
            real = context.real[:, None] if context.real is not None else torch.ones_like(mask[:, :1])
            is_open = real & ~logits[:, experts].isneginf()
            inside = within_capacity(
                gates[:, experts].detach(),
                mask[:, experts] & real,
                places=self.config.capacity_factor * fair_load(is_open, self.top_k),
                by_weight=self.config.capacity_priority == "probability",
            )
            inside = F.pad(inside, (0, self.nothing + 1 - self.num_experts))
            kept = kept & inside.gather(-1, targets)
        return RouterOutput(
            router_logits=logits,
            top_k_weights=weights.masked_fill(~kept, 0.0).to(dtype),
            top_k_index=targets.masked_fill(~kept, self.num_experts),
            expert_mask=mask,
            router_probs=probs,
            router_gates=gates,
        )


class TopKRouter(Router):
    """The K targets with the highest scores, within the best groups if there are any (DeepSeek-V3).

    With `norm_topk_prob` the weights are renormalised over the chosen (Mixtral, arXiv 2401.04088, section 2), else
    they are the scores themselves (Qwen1.5-MoE, OLMoE). A balance bias moves the choice, not the weights
    (arXiv 2408.15664, eq. 3).
    """

    def choose(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """See `Router.choose`."""
        ranking = scores
        if self.balance_bias is not None:
            rows = context.modality_ids if len(self.balance_bias) > 1 else torch.zeros_like(context.modality_ids)
            ranking = scores + self.balance_bias.to(scores.dtype)[rows]
        if self.permitted is not None:  # a closed target scores 0, which a bias could lift above an open one
            ranking = ranking.masked_fill(logits.isneginf(), float("-inf"))
        if self.config.n_group > 1:
            ranking = limit_to_groups(ranking, self.config.n_group, self.config.topk_group or self.config.n_group)
        ranked, targets = ranking.topk(self.top_k, dim=-1)
        return targets, ~ranked.isneginf()


class SparseMixerRouter(TopKRouter):
    """Top-k that samples its experts in training and estimates the gradient of the choice (GRIN, arXiv 2409.12136)."""

    def pick(self, logits: Tensor, scores: Tensor, context: RoutingContext) -> tuple[Tensor, Tensor]:
        """See `Router.pick`; sampled weights are not renormalised."""
        if not self.training:
            return super().pick(logits, scores, context)
        weights, targets = sparsemixer(logits, self.top_k, epsilon=self.config.sparsemixer_epsilon)
        chosen = ~logits.gather(-1, targets).isneginf()
        weights = weights.masked_fill(~chosen, 0.0) * self.config.routed_scaling_factor
        return torch.where(chosen, targets, self.nothing), weights


def at_least_float32(tensor: Tensor, *, before: Tensor) -> Tensor:
    """A moved tensor, or if it became less precise than float32, the one `before` it, moved and in float32."""
    if not tensor.is_floating_point() or torch.finfo(tensor.dtype).bits >= 32:
        return tensor
    return before.to(tensor.device, torch.float32)


def of_modality(values: Tensor, modality_ids: Tensor) -> Tensor:
    """Of values for every modality (T, M, C), those of each token's own (T, C)."""
    return values.gather(1, modality_ids[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def weigh_jointly(logits: Tensor, targets: Tensor, weights: Tensor, shared_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Share the weight between the chosen and the shared experts by one softmax (Uni-MoE-2.0, arXiv 2511.12609).

    Args:
        logits: (T, E+N).
        targets: (T, K); E+N where nothing is chosen.
        weights: Of the chosen, (T, K); multiplied by the share of all chosen.
        shared_logits: (T, n).

    Returns:
        Weights of the chosen (T, K) and of the shared experts (T, n).
    """
    chosen = F.pad(logits, (0, 1), value=float("-inf")).gather(-1, targets)
    shares = torch.cat([chosen, shared_logits], dim=-1).softmax(dim=-1)
    routed, shared = shares.split([targets.shape[-1], shared_logits.shape[-1]], dim=-1)
    return weights * routed.sum(dim=-1, keepdim=True), shared


def permitted_targets(config: UniMoETextConfig) -> Tensor:
    """Which router targets each modality may use, bool, (M, E+N); null experts are open to all."""
    permitted = torch.zeros(len(Modality), config.num_router_targets, dtype=torch.bool)
    permitted[:, config.num_experts :] = True
    for modality in Modality:
        permitted[modality, config.permitted_experts(modality)] = True
    return permitted
