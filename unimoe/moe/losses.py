"""Router losses: pure functions of what the routers recorded, in float32. Padding takes no part.

`router_losses` gives all losses of a model by name, unweighted, and `weighted_router_loss` adds them up. Each is
computed in each layer, over each group of tokens, and averaged over the layers and the groups that have tokens.
T tokens (B*S, row-major), E router targets (experts and null experts), L layers, G groups of tokens, M modalities.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..configuration.moe import MoEConfig
from .further_losses import (
    entropy_loss,
    global_entropy_loss,
    gram_loss,
    mean_over_groups,
    orthogonality_loss,
    score_variance_loss,
    variation_loss,
)
from .routers import RoutingRecord
from .statistics import group_sums, router_load, sum_over_processes, token_groups


class LossInputs(NamedTuple):
    """What a router loss reads."""

    config: MoEConfig
    record: RoutingRecord
    """Of all layers, (L, T, ...)."""
    expert_mask: Tensor
    """(L, T, E)."""
    is_open: Tensor
    """Targets that a token may choose, (L, T, E)."""
    tokens: Tensor
    """One group of all real tokens, (T, 1)."""
    modalities: Tensor
    """A group for each modality, (T, M)."""
    scoped: Tensor
    """One of the two, as `router_aux_loss_scope` says."""
    balanced: Tensor
    """That, or a group for each sequence, (T, B)."""
    load: Tensor | None = None
    group_tokens: Tensor | None = None
    router_weights: Tensor | None = None
    """(L, E, D), or (L, M, E, D) of separate routers."""
    overlaps: Tensor | None = None
    """(L,)."""


RouterLoss = Callable[[LossInputs], Tensor]
"""A loss of each layer, (L,), or the mean over layers."""


def router_losses(
    config: MoEConfig,
    record: RoutingRecord,
    *,
    modality_ids: Tensor,
    attention_mask: Tensor | None = None,
    router_weights: Sequence[Tensor] | None = None,
    overlaps: Sequence[Tensor] | None = None,
    load: Tensor | None = None,
    group_tokens: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the losses that a configuration asks for.

    With `router_aux_loss_scope="modality"`, `balance`, `importance`, `load` and `score_variance` are those of the
    tokens of each modality apart, within the targets open to them. `entropy_global` always is; `entropy` and `z` are
    means over all real tokens. With `"sequence"`, `balance` is a mean over sequences, weighted by their tokens
    (DeepSeek-V3, https://arxiv.org/abs/2412.19437, eq. 17-20), which accumulated batches add up to exactly.

    Args:
        config: Which losses (`router_losses`, those with a coefficient other than 0), and their scope.
        record: What the routers of all layers recorded, (L, T, ...), see `stack_layers`.
        modality_ids: `Modality` of each token, (B, S).
        attention_mask: 1 for real tokens, (B, S). None: all tokens count.
        router_weights: Of each layer, (E, D), or (M, E, D) of separate routers; for `orthogonality` and `gram`.
        overlaps: `expert_overlap` of each layer; for the loss of that name. Empty: none was computed (evaluation).
        load: For the balance loss of a part of a batch, (L, G, E), see `load_balancing_loss`. None: counted in these
            tokens or, with `router_aux_loss_global_batch`, over all processes.
        group_tokens: Of the load, (G,).

    Returns:
        Name -> scalar, float32. `balance` and `z` are always there, `load` and `expert_overlap` only in training,
        where noise is drawn and overlaps are computed.

    Raises:
        ValueError: If T is not B*S, or if a loss lacks `router_weights` or `overlaps`.
    """
    names = _wanted(config, record, router_weights=router_weights or None, overlaps=overlaps)
    inputs = _loss_inputs(config, record, modality_ids, attention_mask)
    if load is None and config.router_aux_loss_global_batch:
        load = router_load(inputs.expert_mask, inputs.scoped, global_batch=True)
        group_tokens = sum_over_processes(inputs.scoped.sum(dim=0))
    inputs = inputs._replace(
        load=load,
        group_tokens=group_tokens,
        router_weights=torch.stack(list(router_weights)) if router_weights else None,
        overlaps=torch.stack(list(overlaps)) if overlaps else None,
    )
    return {name: LOSSES[name](inputs).mean() for name in names}


def _loss_inputs(
    config: MoEConfig, record: RoutingRecord, modality_ids: Tensor, attention_mask: Tensor | None
) -> LossInputs:
    """Group tokens (B, S), as the scopes of losses want them, beside what their routers recorded."""
    tokens = token_groups(modality_ids, attention_mask)
    if record.router_logits.shape[-2] != len(tokens):
        raise ValueError(
            f"Router logits of {record.router_logits.shape[-2]} tokens do not fit modality ids of shape "
            f"{tuple(modality_ids.shape)}."
        )
    modalities = token_groups(modality_ids, attention_mask, per_modality=True)
    scoped = balanced = modalities if config.router_aux_loss_scope == "modality" else tokens
    if config.router_aux_loss_scope == "sequence":
        rows, length = modality_ids.shape
        balanced = torch.eye(rows, device=tokens.device).repeat_interleave(length, 0) * tokens
    is_open = torch.isfinite(record.router_logits)
    return LossInputs(config, record, record.expert_mask, is_open, tokens, modalities, scoped, balanced)


_NEEDS = {"orthogonality": "router_weights", "gram": "router_weights", "expert_overlap": "overlaps"}


def _wanted(config: MoEConfig, record: RoutingRecord, **given: Sequence[Tensor] | None) -> list[str]:
    """Name the losses that are asked for and can be there, of what is `given` by the names of arguments."""
    asked = [name for name, coefficient in (config.router_losses or {}).items() if coefficient]
    for name in asked:
        if name in _NEEDS and given[_NEEDS[name]] is None:
            raise ValueError(f"router_losses asks for {name!r}; pass {_NEEDS[name]} of each sparse layer.")
    absent = {"load": record.load_probability is None, "expert_overlap": not given["overlaps"]}
    return ["balance", "z", *(name for name in asked if not absent.get(name))]


def weighted_router_loss(config: MoEConfig, losses: dict[str, Tensor]) -> Tensor:
    """Add up router `losses` with their coefficients in `config`; entries without one (as `language`) take no part."""
    coefficients = router_loss_coefficients(config)
    parts = [
        coefficient * losses[name] for name, coefficient in coefficients.items() if coefficient and name in losses
    ]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def router_loss_coefficients(config: MoEConfig) -> dict[str, float]:
    """Return the coefficient of each router loss by its name."""
    own = {"balance": config.router_aux_loss_coef, "z": config.router_z_loss_coef}
    return own | (config.router_losses or {})


def anneal(start: float, end: float, *, steps: int, step: int) -> float:
    """Move a coefficient linearly from `start` at step 0 to `end` at step `steps`, where it stays."""
    progress = min(max(step / steps, 0.0), 1.0) if steps > 0 else 1.0
    return (1 - progress) * start + progress * end


def load_balancing_loss(
    router_probs: Tensor,
    expert_mask: Tensor,
    token_groups: Tensor,
    *,
    is_open: Tensor | None = None,
    load: Tensor | None = None,
    group_tokens: Tensor | None = None,
    by_tokens: bool = False,
) -> Tensor:
    """Penalise uneven expert use in one layer; 1 when the tokens of a group spread evenly over the targets open to it.

    Fedus et al. 2021, Switch Transformer, eq. 4-6 (https://arxiv.org/abs/2101.03961), for each group of tokens apart,
    with the load fractions summing to 1. transformers' `load_balancing_loss_func` returns K times this value and pools
    all layers and modalities first, so that two layers which collapsed on different experts look balanced; this one
    does not. The gradient flows through the probabilities only.

    A product of two means is not additive: the losses of a batch's parts, weighted by their shares of the tokens, add
    up to that of the batch only if `load` (and, with several groups, `group_tokens`) of the whole batch is given.

    Args:
        router_probs: Scores normalised over the targets open to the token, (..., T, E), of any number of layers.
        expert_mask: Which targets each token chose, (..., T, E).
        token_groups: 1 where a token belongs to a group, (T, G). A token in no group (padding) takes no part.
        is_open: Targets that a token may choose, bool, (..., T, E). None: all.
        load: How often the tokens of each group chose each target (`router_load`), or fractions of that, (..., G, E).
            None: counted here.
        group_tokens: Tokens of each group in the whole batch, (G,). None: these tokens are the whole batch.
        by_tokens: Weigh each group by its tokens, so that the losses of parts made of whole groups, weighted by their
            shares of the tokens, add up to that of the batch.

    Returns:
        Mean over the groups that have tokens, (...); dimensionless, float32. 0 if all groups are empty.

    Raises:
        ValueError: If `load` has another shape than (..., G, E).
    """
    tokens = token_groups.sum(dim=0)  # (G,)
    counts = group_sums(expert_mask, token_groups) if load is None else load.float()
    if counts.shape != (*router_probs.shape[:-2], len(tokens), router_probs.shape[-1]):
        raise ValueError(
            f"A load of shape {tuple(counts.shape)} does not fit {len(tokens)} group(s) of tokens and router "
            f"probabilities of shape {tuple(router_probs.shape)}."
        )
    fractions = counts / counts.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    probability = group_sums(router_probs, token_groups) / tokens.clamp(min=1)[:, None]  # (..., G, E)
    is_open = torch.ones_like(expert_mask) if is_open is None else is_open
    open_targets = (group_sums(is_open, token_groups) > 0).sum(dim=-1)  # (..., G)
    per_group = open_targets * (fractions.detach() * probability).sum(dim=-1)
    if by_tokens:
        return (per_group * tokens).sum(dim=-1) / tokens.sum().clamp(min=1)
    if group_tokens is None:
        return mean_over_groups(per_group, tokens)
    # A part that holds the share s of the batch's tokens, but s_g of those of group g, is to count s_g of that group.
    share = tokens.sum() / group_tokens.sum().clamp(min=1)
    surplus = tokens / group_tokens.clamp(min=1) / share.clamp(min=torch.finfo(torch.float32).tiny)
    return mean_over_groups(per_group * surplus, group_tokens)


def router_z_loss(router_logits: Tensor, token_groups: Tensor) -> Tensor:
    """Keep `router_logits` (..., T, E) small: mean over the tokens of a group of squared log-sum-exp.

    `token_groups` (T, G) is 1 where a token is in a group. Zoph et al. 2022, ST-MoE, eq. 5
    (https://arxiv.org/abs/2202.08906).
    """
    squares = router_logits.float().logsumexp(dim=-1, keepdim=True).square()  # (..., T, 1)
    tokens = token_groups.sum(dim=0)
    return mean_over_groups(group_sums(squares, token_groups).squeeze(-1) / tokens.clamp(min=1), tokens)


def _balance(x: LossInputs) -> Tensor:
    return load_balancing_loss(
        x.record.router_probs,
        x.expert_mask,
        x.balanced,
        is_open=x.is_open,
        load=x.load,
        group_tokens=x.group_tokens,
        by_tokens=x.config.router_aux_loss_scope == "sequence",
    )


def _z(x: LossInputs) -> Tensor:
    return router_z_loss(x.record.router_logits, x.tokens)


def _importance(x: LossInputs) -> Tensor:
    return variation_loss(x.record.router_gates, x.scoped, is_open=x.is_open)


def _load(x: LossInputs) -> Tensor:
    assert x.record.load_probability is not None
    return variation_loss(x.record.load_probability, x.scoped, is_open=x.is_open)


def _entropy(x: LossInputs) -> Tensor:
    return entropy_loss(x.record.router_probs, x.tokens)


def _entropy_global(x: LossInputs) -> Tensor:
    least = x.config.router_entropy_min_experts
    return global_entropy_loss(x.record.router_probs, x.modalities, min_experts=least)


def _orthogonality(x: LossInputs) -> Tensor:
    assert x.router_weights is not None
    return orthogonality_loss(x.router_weights)


def _gram(x: LossInputs) -> Tensor:
    assert x.router_weights is not None
    return gram_loss(x.router_weights)


def _score_variance(x: LossInputs) -> Tensor:
    return score_variance_loss(x.record.router_probs, x.scoped, is_open=x.is_open)


def _expert_overlap(x: LossInputs) -> Tensor:
    assert x.overlaps is not None
    return x.overlaps


LOSSES: dict[str, RouterLoss] = {
    "balance": _balance,
    "z": _z,
    "importance": _importance,
    "load": _load,
    "entropy": _entropy,
    "entropy_global": _entropy_global,
    "orthogonality": _orthogonality,
    "gram": _gram,
    "score_variance": _score_variance,
    "expert_overlap": _expert_overlap,
}
"""Router losses by name."""
