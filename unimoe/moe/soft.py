"""Soft mixture of experts: every expert sees mixtures of all tokens of a sequence (Puigcerver et al. 2023).

B sequences, S tokens, D hidden size, E experts, P slots (E times the slots of an expert).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration_unimoe import UniMoETextConfig
from .experts import AnyExperts, build_experts
from .routers import RoutingContext


class SoftMoeBlock(nn.Module):
    """Dispatch, experts, combine (arXiv 2308.00951, section 2.1), with the normalisation of its section 2.3.

    A token's output depends on the whole sequence, later tokens too, so this block cannot generate.
    """

    aliases: None = None
    """No experts are merged; see `SparseMoeBlock`."""

    def __init__(self, config: UniMoETextConfig) -> None:
        super().__init__()
        self.num_slots = config.num_experts * config.slots_per_expert
        self.slots_per_expert = config.slots_per_expert
        self.slots = nn.Parameter(torch.empty(self.num_slots, config.hidden_size))
        self.scale = nn.Parameter(torch.ones(()))
        self.experts = build_experts(config, may_skip=False)  # every slot has an expert

    def forward(self, hidden_states: Tensor, context: RoutingContext) -> Tensor:
        """Map hidden states (B, S, D) to (B, S, D); padding enters no slot."""
        mask = None if context.attention_mask is None else context.attention_mask.view(hidden_states.shape[:2])
        dispatch, combine = self.mixing(hidden_states, mask)
        inputs = torch.einsum("bsp,bsd->bpd", dispatch, hidden_states)
        expert = torch.arange(self.num_slots, device=inputs.device) // self.slots_per_expert  # (P,)
        index = expert.repeat(len(inputs))[:, None]  # (B*P, 1)
        outputs = self.experts(inputs.flatten(0, 1), index, torch.ones_like(index, dtype=inputs.dtype))
        return torch.einsum("bsp,bpd->bsd", combine, outputs.view_as(inputs))

    @property
    def expert_stacks(self) -> list[AnyExperts]:
        """The module that holds the experts; see `SparseMoeBlock`."""
        return [self.experts]

    def mixing(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute dispatch and combine weights, (B, S, P) each; columns of the first, rows of the second sum to 1."""
        precise = torch.promote_types(hidden_states.dtype, torch.float32)
        with torch.autocast(hidden_states.device.type, enabled=False):
            tokens = F.normalize(hidden_states.to(precise), dim=-1)
            slots = self.scale.to(precise) * F.normalize(self.slots.to(precise), dim=-1)
            logits = F.linear(tokens, slots)  # (B, S, P)
            combine = logits.softmax(dim=-1)
            if attention_mask is not None:
                logits = logits.masked_fill(~attention_mask[..., None], torch.finfo(precise).min)
            dispatch = logits.softmax(dim=1)
        return dispatch.to(hidden_states.dtype), combine.to(hidden_states.dtype)


__all__ = ["SoftMoeBlock"]
