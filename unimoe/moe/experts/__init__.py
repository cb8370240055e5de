"""Experts: (hidden_states, top_k_index, top_k_weights) -> hidden_states, in several families."""

from .build import AnyExperts, build_experts, init_experts, outputs_of_choices
from .dispatch import DispatchedExperts, TokenDispatcher
from .groups import GroupedExperts
from .linears import experts_as_linears, fold_experts
from .mlp import Experts, GatedMLP, stacked_experts
from .reserved import ReservedExperts

__all__ = [
    "AnyExperts",
    "DispatchedExperts",
    "Experts",
    "GatedMLP",
    "GroupedExperts",
    "ReservedExperts",
    "TokenDispatcher",
    "build_experts",
    "experts_as_linears",
    "fold_experts",
    "init_experts",
    "outputs_of_choices",
    "stacked_experts",
]
