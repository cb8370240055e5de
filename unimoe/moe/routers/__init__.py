"""Routers: hidden states and what is known of the tokens in, combine weights and expert indices out."""

from .build import build_router, init_router, router_weights
from .router import Router, RouterOutput, RoutingContext, RoutingRecord, stack_layers
from .top_k import HashRouter, TopKRouter

__all__ = [
    "HashRouter",
    "Router",
    "RouterOutput",
    "RoutingContext",
    "RoutingRecord",
    "TopKRouter",
    "build_router",
    "init_router",
    "router_weights",
    "stack_layers",
]
