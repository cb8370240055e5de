"""Sparse mixture-of-experts layers: router, experts, block, losses and statistics. Knows no encoder."""

from .balance import balance_routers, update_balance_bias
from .block import SparseMoeBlock, build_block
from .experts import Experts, GatedMLP
from .further_losses import (
    entropy_loss,
    expert_overlap,
    global_entropy_loss,
    gram_loss,
    orthogonality_loss,
    score_variance_loss,
    variation_loss,
)
from .language_loss import token_balanced_loss
from .losses import (
    anneal,
    load_balancing_loss,
    router_loss_coefficients,
    router_losses,
    router_z_loss,
    weighted_router_loss,
)
from .routers import Router, RouterOutput, RoutingContext, RoutingRecord, build_router, stack_layers
from .soft import SoftMoeBlock
from .statistics import count_routing, router_load, token_groups

__all__ = [
    "Experts",
    "GatedMLP",
    "Router",
    "RouterOutput",
    "RoutingContext",
    "RoutingRecord",
    "SoftMoeBlock",
    "SparseMoeBlock",
    "anneal",
    "balance_routers",
    "build_block",
    "build_router",
    "count_routing",
    "entropy_loss",
    "expert_overlap",
    "global_entropy_loss",
    "gram_loss",
    "load_balancing_loss",
    "orthogonality_loss",
    "router_load",
    "router_loss_coefficients",
    "router_losses",
    "router_z_loss",
    "score_variance_loss",
    "stack_layers",
    "token_balanced_loss",
    "token_groups",
    "update_balance_bias",
    "variation_loss",
    "weighted_router_loss",
]
