"""Sparse mixture-of-experts layers: router, experts, block, losses and statistics. Knows no encoder."""

from .balance import balance_routers, update_balance_bias
from .block import SparseMoeBlock
from .experts import Experts, GatedMLP
from .losses import load_balancing_loss, router_balance_loss, router_z_loss
from .router import Router, RouterOutput, RoutingContext
from .router_types import build_router
from .soft import SoftMoeBlock
from .statistics import count_routing

__all__ = [
    "Experts",
    "GatedMLP",
    "Router",
    "RouterOutput",
    "RoutingContext",
    "SoftMoeBlock",
    "SparseMoeBlock",
    "balance_routers",
    "build_router",
    "count_routing",
    "load_balancing_loss",
    "router_balance_loss",
    "router_z_loss",
    "update_balance_bias",
]
