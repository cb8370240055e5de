"""Expert parallelism for training: the experts of each layer are spread over processes; routers and all else are not.

A model is loaded whole, its experts are spread in place before the optimizer is made and DeepSpeed begins, and they
are joined before it is saved: names of parameters never change, only how many experts a stack holds. DeepSpeed must
know which gradients it may not average over all processes; it asks for a subclass of its own layer, of which nothing
else is used. E experts, P processes that share them, n = E / P of each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
from torch import Tensor, nn

from unimoe.moe import Experts
from unimoe.moe.experts import LoneExpert
from unimoe.moe.latent_experts import LatentExperts
from unimoe.moe.lora_experts import LoRAExperts

from .exchange import run_experts
from .processes import launched
from .sharding import share_of

_STACKS = (Experts, LoRAExperts, LatentExperts)


@dataclass
class Share:
    """Which part of a parameter each of P processes has.

    Args:
        shape: Of the whole parameter, with the experts in a dimension of their own.
        dim: That dimension.
        experts: Whose parameter it is; they know the group of processes.
    """

    shape: tuple[int, ...]
    dim: int
    experts: "SpreadExperts"

    def cut(self, whole: Tensor) -> Tensor:
        """This process's part of a whole value."""
        part = whole.view(self.shape).chunk(self.experts.ep_size, dim=self.dim)[self.experts.ep_rank]
        shape = list(whole.shape)
        shape[0 if self.dim == 0 else -1] //= self.experts.ep_size
        return part.reshape(shape).contiguous()

    def join(self, part: Tensor) -> Tensor:
        """The whole value, of which each process of the group has a part; all of them must call this."""
        parts = [torch.empty_like(part) for _ in range(self.experts.ep_size)]
        dist.all_gather(parts, part.contiguous(), group=self.experts.ep_group)
        apart = list(self.shape)
        apart[self.dim] //= self.experts.ep_size
        whole = torch.cat([each.view(apart) for each in parts], dim=self.dim)
        shape = list(part.shape)
        shape[0 if self.dim == 0 else -1] *= self.experts.ep_size
        return whole.reshape(shape)


class SpreadExperts(nn.Module):
    """What a layer's experts become: their own class, whose `forward` sends tokens to where their experts are."""

    kind: type[nn.Module]
    num_all: int
    num_experts: int
    ep_size: int
    ep_rank: int
    ep_group: Any

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `Experts.forward`; the index is of all E experts."""
        return run_experts(
            partial(self.kind.forward, self),
            hidden_states,
            top_k_index,
            top_k_weights,
            num_experts=self.num_all,
            group=self.ep_group,
        )

    def set_deepspeed_parallelism(self, *args: Any, **kwargs: Any) -> None:
        """Make the groups of processes that share experts; DeepSpeed calls this when it begins."""
        AutoEPMoELayer.set_deepspeed_parallelism(self, *args, **kwargs)


def spread_experts(model: nn.Module, size: int, *, partitions: bool) -> None:
    """Leave each process its share of every layer's experts, and of their low-rank deltas, in place.

    Args:
        model: Whole, and the same in all processes; what trains in it is chosen already. `check_spread` has passed.
        size: P; neighbouring processes share the experts of a model.
        partitions: Whether ZeRO-3 is going to partition all parameters, frozen ones too.
    """
    for experts in [module for module in model.modules() if isinstance(module, _STACKS)]:
        _spread(experts, size)
    for wrapper in _wrappers(model):
        experts = wrapper.get_base_layer()
        down, up = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        _cut(down, Share((experts.num_all, -1, down.shape[1]), 0, experts))
        _cut(up, Share((up.shape[0], -1, experts.num_all), 2, experts))
        wrapper.num_experts = experts.num_experts
    trains = any(share_of(parameter) and parameter.requires_grad for parameter in model.parameters())
    if trains or partitions:  # else ZeRO-1 and ZeRO-2 would miss spread parameters in the optimizer
        for spread in _spread_ones(model):
            spread.__class__ = _spread_class(spread.kind, AutoEPMoELayer)


def _spread_class(kind: type[nn.Module], *bases: type[nn.Module]) -> type[nn.Module]:
    """The class of spread experts of a kind."""
    return type(f"Spread{kind.__name__}", (SpreadExperts, *bases, kind), {"kind": kind})


def _spread(experts: Any, size: int) -> None:
    """Turn the experts of a layer into the share of this process, as objects of a class that exchanges tokens."""
    experts.num_all, experts.num_experts = experts.num_experts, experts.num_experts // size
    experts.ep_size, experts.ep_rank, experts.ep_group = size, launched()[0] % size, None
    experts.ep_group_name, experts.folding_group_handles = f"ep_size_{size}", None
    kind = LoneExpert if type(experts) is Experts and experts.num_experts == 1 else type(experts)
    experts.__class__ = _spread_class(kind)
    groups = getattr(experts, "num_groups", None)
    for parameter in experts.parameters(recurse=False):
        if len(parameter) == experts.num_all or groups not in (None, 1):  # else all experts share the only group
            _cut(parameter, Share(tuple(parameter.shape), 0, experts))
    if groups not in (None, 1):
        experts.num_groups = groups // size


def _spread_ones(model: nn.Module) -> list[Any]:
    """Spread experts of a model."""
    return [module for module in model.modules() if isinstance(module, SpreadExperts)]


def _cut(parameter: nn.Parameter, share: Share) -> None:
    """Leave a parameter this process's part, and tell DeepSpeed that it is another one in each of P processes."""
    marked: Any = parameter
    marked.share, marked.allreduce = share, False
    marked.ds_zero_placement_family = "autoep_expert"
    marked.group_name = marked.ds_zero_partition_group_name = share.experts.ep_group_name
    parameter.data = share.cut(parameter.data).clone()


def _wrappers(model: nn.Module) -> Iterator[Any]:
    """What peft put around stacked experts, one for each of their parameters."""
    from peft.tuners.lora.layer import ParamWrapper

    for module in model.modules():
        if isinstance(module, ParamWrapper) and isinstance(module.get_base_layer(), SpreadExperts):
            yield module


def check_groups(model: nn.Module) -> None:
    """See to it that DeepSpeed has made the groups of processes by which experts were spread.

    Raises:
        RuntimeError: If this process has another place in its group.
    """
    for experts in _spread_ones(model):
        if (place := dist.get_rank(experts.ep_group)) != experts.ep_rank:
            raise RuntimeError(
                f"This process has share {experts.ep_rank} of the experts, but place {place} in its group."
            )


def settle_experts(model: nn.Module) -> None:
    """Let experts whose parameters are whole again be what they were before they were spread, in place."""
    for wrapper in _wrappers(model):
        wrapper.num_experts = wrapper.get_base_layer().num_all
    for experts in _spread_ones(model):
        if isinstance(experts, LatentExperts):
            experts.num_groups = experts.config.expert_latent_groups
        experts.num_experts = experts.num_all
        experts.__class__ = Experts if experts.kind is LoneExpert else experts.kind


def split_spread(optimizer: torch.optim.Optimizer) -> None:
    """Put spread parameters into groups of their own, as DeepSpeed wants them; in place."""
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        for name in sorted({getattr(parameter, "group_name", "") for parameter in group["params"]}):
            members = [parameter for parameter in group["params"] if getattr(parameter, "group_name", "") == name]
            own = {"moe": True, "name": name} if name else {}
            optimizer.param_groups.append({**group, **own, "params": members})


__all__ = ["Share", "SpreadExperts", "check_groups", "settle_experts", "split_spread", "spread_experts"]
