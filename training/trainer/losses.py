"""The losses of a stage: their coefficients at each of its steps, and a language loss that balances modalities."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unimoe import MEDIA, UniMoETextConfig
from unimoe.moe import anneal, router_loss_coefficients

from ..config.train import Annealed, LossConfig
from ..data.batching.collator import IGNORED


def set_coefficients(text: UniMoETextConfig, losses: LossConfig, *, step: int) -> None:
    """Put the coefficients of the router losses at an optimiser step into the model's configuration.

    Args:
        text: Where the model reads them.
        losses: What the stage asks for.
        step: Optimiser steps that are done.

    Raises:
        ValueError: If the model's routers cannot have such a loss.
    """
    coefficients = router_loss_coefficients(text)
    for name in sorted(LossConfig.model_fields.keys() - {"language"}):
        value = getattr(losses, name)
        if isinstance(value, Annealed):
            value = anneal(value.start, value.end, steps=value.steps, step=step)
        if value is not None:
            coefficients[name] = value
    text.router_aux_loss_coef = coefficients.pop("balance")
    text.router_z_loss_coef = coefficients.pop("z")
    text.router_losses = coefficients or None
    text.validate_architecture()


def balance_over_all(text: UniMoETextConfig) -> None:
    """Balance experts over the batches of all processes (Qiu et al. 2025, arXiv 2501.11873): as one process would.

    The load of a `sequence` needs no other process.
    """
    if text.num_experts and text.router_aux_loss_scope != "sequence":
        text.router_aux_loss_global_batch = True


GROUPS = 1 << (max(MEDIA) + 1)
"""Groups of rows: one for every set of modalities."""


def row_groups(inputs: dict[str, Any]) -> Tensor:
    """Say for each token which modalities the media of its row have, as a number with a bit for each; (B, S), int64.

    Rows of one set of modalities are a group: those with pictures, those with pictures and speech, those with text
    alone (0).

    Args:
        inputs: Of the model: `mm_token_type_ids` (B, S), padded with 0; rows of a pack, without `attention_mask`, are
            told apart by `position_ids` that begin again.
    """
    kinds = inputs["mm_token_type_ids"]
    rows = torch.arange(len(kinds), device=kinds.device)[:, None].expand_as(kinds)
    if inputs.get("attention_mask") is None and (positions := inputs.get("position_ids")) is not None:
        plain = positions[0] if positions.dim() == 3 else positions  # (1, S)
        rows = (plain == 0).long().cumsum(dim=-1) - 1
    groups = torch.zeros_like(kinds)
    for modality in MEDIA:
        has = torch.zeros(kinds.numel(), dtype=kinds.dtype, device=kinds.device)  # there are no more rows than tokens
        has.scatter_reduce_(0, rows.reshape(-1), (kinds == modality).to(kinds.dtype).reshape(-1), "amax")
        groups += has[rows] << int(modality)
    return groups


def count_labels(inputs: dict[str, Any]) -> Tensor:
    """Labels of the rows of each group, (GROUPS,), int64. The first token of a row has nothing before it to learn."""
    is_label = inputs["labels"][:, 1:] != IGNORED
    return torch.bincount(row_groups(inputs)[:, 1:][is_label], minlength=GROUPS)


def label_weights(inputs: dict[str, Any], counts: Tensor) -> Tensor:
    """Weight of each label with which all groups of a step count alike, however many labels they have; (B, S).

    A label of one of G groups, which has n labels in the step, weighs 1 / (G n); so the weighted sum is the mean over
    the groups of the means over their labels.

    Args:
        inputs: Of the model.
        counts: Labels of each group in the whole step, all its batches and processes together, (GROUPS,).
    """
    weights = 1 / (counts.clamp(min=1) * (counts > 0).sum()).float()
    return weights[row_groups(inputs)]


def weighted_loss(logits: Tensor, labels: Tensor, vocab_size: int, *, label_weights: Tensor, **kwargs: Any) -> Tensor:
    """Add up the cross-entropies of the labels, each with its weight, in float32.

    Takes the place of transformers' `ForCausalLMLoss` as a model's `loss_function`.

    Args:
        logits: (B, S, V).
        labels: Not shifted, -100 where nothing is learned, (B, S).
        vocab_size: V.
        label_weights: (B, S).
        **kwargs: Of other loss functions; not read.
    """
    targets = F.pad(labels, (0, 1), value=IGNORED)[:, 1:].reshape(-1)
    weights = F.pad(label_weights, (0, 1))[:, 1:].reshape(-1)
    losses = F.cross_entropy(logits.float().reshape(-1, vocab_size), targets, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum()


__all__ = ["count_labels", "label_weights", "row_groups", "set_coefficients", "weighted_loss"]
