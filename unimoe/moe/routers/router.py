"""What all routers share: their weights, the modality axis, and what they return and record.

Everything a router can do reduces to weights and indices; the index one past the last expert means "no expert".
Shapes: T tokens, D hidden size, E experts, N null experts, K experts per token, M modalities, n shared experts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configuration_unimoe import UniMoETextConfig
from ...modality import Modality
from .gradients import straight_through
from .selection import score_apart

_TINY = 1e-20  # DeepSeek-V3: keeps the sum of scores that are all zero from dividing by zero


class RoutingContext(NamedTuple):
    """What a router may know about the tokens beyond their hidden state."""

    modality_ids: Tensor
    """`Modality` of each token, shape (T,)."""
    token_ids: Tensor | None = None
    """Vocabulary id of each token, shape (T,); None if the model was given embeddings."""
    attention_mask: Tensor | None = None
    """False for padding, bool, flattened to tokens, shape (T,). None: all tokens are real."""


class RoutingRecord(NamedTuple):
    """What losses and analysis read of a router's decision; models record one for each sparse layer.

    `stack_layers` makes one of all layers, whose tensors have a dimension L in front.
    """

    router_logits: Tensor
    """What the choice was made from, float32 or (of a float64 model) float64, (T, E+N); -inf where the modality may
    not go."""
    router_probs: Tensor
    """Scores normalised to a sum of 1 over the targets open to the token, (T, E+N)."""
    targets: Tensor
    """Chosen targets, nulls told apart, before a capacity took any away, (T, K); E+N where nothing was chosen."""
    target_weights: Tensor
    """Weights of the chosen targets, nulls with theirs, (T, K); 0 where nothing was chosen."""
    load_probability: Tensor | None = None
    """Of noisy top-k in training: how probable each target is among the K if its noise is drawn again, (T, E+N)."""

    @property
    def expert_mask(self) -> Tensor:
        """Which targets each token chose, bool, (T, E+N)."""
        return self._by_target(torch.ones_like(self.targets, dtype=torch.bool))

    @property
    def router_gates(self) -> Tensor:
        """Weight of each target, 0 where it was not chosen, (T, E+N)."""
        return self._by_target(self.target_weights)

    def _by_target(self, values: Tensor) -> Tensor:
        """Lay values of the choices (T, K) out over the targets, (T, E+N)."""
        number = self.router_logits.shape[-1]
        return values.new_zeros(*values.shape[:-1], number + 1).scatter(-1, self.targets, values)[..., :number]


class RouterOutput(NamedTuple):
    """What a router decided. Models record `router_logits` and `record` by their index."""

    router_logits: Tensor
    """See `RoutingRecord`."""
    top_k_weights: Tensor
    """Combine weights in the dtype of the hidden states, (T, K); 0 where the index is E."""
    top_k_index: Tensor
    """Expert indices, (T, K); E where no expert computes."""
    record: RoutingRecord
    """What losses and analysis read."""
    shared_weights: Tensor | None = None
    """Weights of the shared experts, if the router weighs them, (T, n)."""


class Router(nn.Module):
    """The parameters that routers have, in float32, and the steps that they share. A subclass has the `forward`.

    Null experts are the targets E, ..., E+N-1; they compute nothing.
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
        self.num_experts, self.num_targets = config.num_experts, config.num_router_targets
        # Sigmoids, experts that choose, and nulls that weigh nothing can leave a token without any weight.
        positive = config.scoring_func == "softmax" and config.router_type != "expert_choice"
        self.may_weigh_nothing = not (positive and config.null_experts_keep_mass)
        modalities, width = len(Modality), config.hidden_size
        self.num_weighed = config.num_shared_experts if config.shared_expert_weighting == "router" else 0
        self.separate = config.modality_routing == "separate"
        self.num_rows = self.num_targets - (config.num_experts - config.num_unreserved_experts)
        rows = self.num_rows + self.num_weighed
        self.weight = nn.Parameter(torch.empty(*((modalities, rows) if self.separate else (rows,)), width))
        biased, projected = config.modality_routing == "bias", config.router_modality_projection
        self.modality_bias = nn.Parameter(torch.zeros(modalities, self.num_rows)) if biased else None
        self.reserved = nn.ModuleDict({key: nn.Linear(width, len(own)) for key, own in config.reserved_in_order})
        self.projection = nn.Parameter(torch.empty(modalities, width, width)) if projected else None
        permitted = permitted_targets(config) if config.has_closed_experts else None
        # Persistent if None: accelerate, which offloads what is not persistent, takes it for a tensor.
        self.register_buffer("permitted", permitted, persistent=permitted is None)
        balanced_apart = modalities if config.router_aux_loss_scope == "modality" else 1
        balance_bias = torch.zeros(balanced_apart, self.num_targets) if config.balance_bias else None
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
        raise NotImplementedError

    @property
    def target_weight(self) -> Tensor:
        """Weights of the targets that are not reserved, (E+N, D), or (M, E+N, D) of separate routers."""
        return self.weight if not self.num_weighed else self.weight[..., : self.num_rows, :]

    def score(self, hidden_states: Tensor, weight: Tensor, context: RoutingContext) -> Tensor:
        """Give linear logits (T, C) by `weight` (C, D), or (M, C, D): then by that of the token's modality."""
        weight = weight.to(hidden_states.dtype)
        if weight.dim() == 2:
            return F.linear(hidden_states, weight)
        return of_modality(torch.einsum("td,mcd->tmc", hidden_states, weight), context.modality_ids)

    def restrict(self, router_logits: Tensor, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """Complete the logits of tokens (T, D) to (T, E+N): add the modality's bias, put in those of reserved experts,
        and close the targets that are not open to the modality.
        """
        if self.modality_bias is not None:
            router_logits = router_logits + self.modality_bias.to(router_logits.dtype)[context.modality_ids]
        linears: list[Any] = list(self.reserved.values())
        if linears:  # apart from the others, whose logits are then the same bits as without
            experts, nulls = router_logits.tensor_split([self.config.num_unreserved_experts], dim=-1)
            own = [F.linear(hidden_states, rows.weight.to(experts), rows.bias.to(experts)) for rows in linears]
            router_logits = torch.cat([experts, *own, nulls], dim=-1)
        if self.permitted is not None:
            router_logits = router_logits.masked_fill(~self.permitted[context.modality_ids], float("-inf"))
        return router_logits

    def normalise(self, router_logits: Tensor) -> Tensor:
        """Turn logits (T, E+N) into scores by `scoring_func`."""
        score = partial(torch.softmax, dim=-1) if self.config.scoring_func == "softmax" else torch.sigmoid
        if not self.reserved:
            return score(router_logits)
        widths = [len(own) for _, own in self.config.reserved_in_order]
        sizes = [self.config.num_unreserved_experts, *widths, self.num_targets - self.num_experts]
        experts, *reserved, nulls = router_logits.split(sizes, dim=-1)
        of_task = self.config.reserved_tasks.get(self.config.active_task or "")
        to_all = [place for place, (_, own) in enumerate(self.config.reserved_in_order) if own == of_task]
        return score_apart(score, experts, reserved, nulls, to_all=to_all)

    def weigh(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Make scores of chosen targets (T, K) combine weights, as `router_gradient` lets the router learn."""
        gradient = self.config.router_gradient
        weights = scores.detach() if gradient == "dense" else scores
        if not self.config.null_experts_keep_mass:
            weights = weights.masked_fill(targets >= self.num_experts, 0.0)
        if self.config.norm_topk_prob:
            total = weights.sum(dim=-1, keepdim=True)
            weights = weights / (total + _TINY if self.may_weigh_nothing else total)
        if (factor := self.config.routed_scaling_factor) != 1:
            weights, scores = weights * factor, scores * factor
        return straight_through(weights, scores) if gradient == "straight_through" else weights

    def output(
        self, dtype: torch.dtype, router_logits: Tensor, scores: Tensor, targets: Tensor, weights: Tensor
    ) -> RouterOutput:
        """Turn targets into expert indices: nulls become "no expert", with a weight of 0."""
        softmax = self.config.scoring_func == "softmax"
        router_probs = scores if softmax else scores / scores.sum(dim=-1, keepdim=True)
        record = RoutingRecord(router_logits, router_probs, targets, weights)
        if self.num_targets > self.num_experts:
            no_expert = targets >= self.num_experts
            targets = targets.masked_fill(no_expert, self.num_experts)
            weights = weights.masked_fill(no_expert, 0.0)
        return RouterOutput(router_logits, weights.to(dtype), targets, record)


def stack_layers(records: "list[RoutingRecord] | tuple[RoutingRecord, ...]") -> RoutingRecord:
    """Make one record of those of the sparse layers, whose tensors (L, T, ...) have a dimension of layers."""
    fields: list[Any] = [
        None if tensors[0] is None else torch.stack(tensors) for tensors in zip(*records, strict=True)
    ]
    return RoutingRecord(*fields)


def at_least_float32(tensor: Tensor, *, before: Tensor) -> Tensor:
    """Keep a moved tensor, or if it became less precise than float32, move the one `before` it in float32."""
    if not tensor.is_floating_point() or torch.finfo(tensor.dtype).bits >= 32:
        return tensor
    return before.to(tensor.device, torch.float32)


def precise(hidden_states: Tensor) -> Tensor:
    """Raise hidden states to float32; float64 stays. Ties of bf16 logits would make the choice depend on rounding."""
    return hidden_states if hidden_states.dtype == torch.float64 else hidden_states.float()


def of_modality(values: Tensor, modality_ids: Tensor) -> Tensor:
    """Take of values for every modality (T, M, C) those of each token's own (T, C), by `modality_ids` (T,)."""
    return values.gather(1, modality_ids[:, None, None].expand(-1, 1, values.shape[-1])).squeeze(1)


def permitted_targets(config: UniMoETextConfig) -> Tensor:
    """Say which router targets each modality may use, bool, (M, E+N); null experts are open to all."""
    permitted = torch.zeros(len(Modality), config.num_router_targets, dtype=torch.bool)
    permitted[:, config.num_experts :] = True
    for modality in Modality:
        permitted[modality, config.permitted_experts(modality)] = True
    return permitted


__all__ = [
    "Router",
    "RouterOutput",
    "RoutingContext",
    "RoutingRecord",
    "at_least_float32",
    "of_modality",
    "permitted_targets",
    "precise",
    "stack_layers",
]
