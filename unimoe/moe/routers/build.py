"""The router that a configuration describes, and its weights before training."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ...configuration_unimoe import UniMoETextConfig
from .features import JointWeighing, LimitedCapacity, NearTieWeights, PreparedInput
from .router import Router, permitted_targets
from .sets import ExpertChoiceRouter, TopPRouter
from .top_k import HashRouter, HierarchicalRouter, NoisyTopKRouter, SparseMixerRouter, TopKRouter

TABLE_NUMBERS = 2**24
"""Numbers that a hash table is drawn from: integers that float32 has."""

ROUTERS: dict[str, type[Router]] = {
    "top_k": TopKRouter,
    "noisy_top_k": NoisyTopKRouter,
    "top_p": TopPRouter,
    "hierarchical": HierarchicalRouter,
    "hash": HashRouter,
    "expert_choice": ExpertChoiceRouter,
}


def build_router(config: UniMoETextConfig) -> Router:
    """Make the router that a configuration describes."""
    kind = SparseMixerRouter if config.router_gradient == "sparsemixer" else ROUTERS[config.router_type]
    wanted = {
        PreparedInput: bool(config.router_jitter_noise) or config.router_modality_projection,
        LimitedCapacity: config.capacity_factor is not None,
        JointWeighing: config.shared_expert_weighting == "router",
        NearTieWeights: config.combine_weights == "near_tie",
    }
    features = tuple(feature for feature, is_wanted in wanted.items() if is_wanted)
    return _combine(*features, kind)(config) if features else kind(config)  # type: ignore[arg-type]


@cache
def _combine(*bases: type[Router]) -> type[Router]:
    """Make the class of a kind of router, the last of `bases`, with features in front of it."""
    name = "".join(base.__name__ for base in bases)
    return type(name, bases, {"__doc__": bases[-1].__doc__, "__reduce__": _reduce})


def _reduce(router: Router) -> tuple[Any, ...]:
    """Pickle a router whose class has no place in a module."""
    return _blank, type(router).__bases__, router.__dict__


def _blank(*bases: type[Router]) -> Router:
    kind = _combine(*bases)  # type: ignore[arg-type]
    return kind.__new__(kind)


def router_weights(model: nn.Module) -> list[Tensor]:
    """List the targets' weights of every router that has any, (E+N, D) each, or (M, E+N, D) of separate routers."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    return [router.target_weight for router in routers if not isinstance(router, HashRouter)]


def init_router(router: Router, std: float) -> None:
    """Draw a router's weights from N(0, std); noise, biases and projections start where they change nothing."""
    for name, parameter in router.named_parameters(recurse=False):
        if name in ("noise_weight", "modality_bias"):
            init.zeros_(parameter)
        elif name == "projection":
            init.copy_(parameter, torch.eye(parameter.shape[-1]).expand_as(parameter))
        else:
            init.normal_(parameter, mean=0.0, std=std)
    if router.permitted is not None:
        init.copy_(router.permitted, permitted_targets(router.config))
    if router.balance_bias is not None:
        init.zeros_(router.balance_bias)
    if isinstance(router, HashRouter):
        init.copy_(router.table, torch.randint(TABLE_NUMBERS, tuple(router.table.shape)))


__all__ = ["ROUTERS", "build_router", "init_router", "router_weights"]
