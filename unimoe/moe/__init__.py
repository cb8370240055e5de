"""Sparse mixture-of-experts layers: router, experts, block, losses and statistics. Knows no encoder."""

from .block import SparseMoeBlock
from .experts import Experts, GatedMLP
from .losses import load_balancing_loss, router_balance_loss, router_z_loss
from .router import Router, RoutingContext, TopKRouter
from .statistics import count_routing

__all__ = [
    "Experts",
    "GatedMLP",
    "Router",
    "RoutingContext",
    "SparseMoeBlock",
    "TopKRouter",
    "count_routing",
    "load_balancing_loss",
    "router_balance_loss",
    "router_z_loss",
]
