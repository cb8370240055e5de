"""Expert parallelism for training: the experts of each layer are sharded over processes; routers and all else are not.

A model is loaded whole. Its experts are sharded in place before the optimizer is made and DeepSpeed begins, and they
are unsharded before it is saved: names of parameters never change, only how many experts a stack holds. Tokens reach
the experts of other processes through the stack's token dispatcher. E experts, P processes that share them, n = E / P
of each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
from torch import Tensor, nn

from unimoe.moe.experts import DispatchedExperts, TokenDispatcher
from unimoe.moe.experts.dispatch import Compute
from unimoe.moe.experts.latent import LatentExperts

from .exchange import run_experts
from .processes import launched


class AllToAllDispatcher(TokenDispatcher):
    """Send tokens to the processes that have their experts, and the answers back."""

    ep_group: Any

    def __init__(self, num_experts: int, ep_size: int) -> None:
        nn.Module.__init__(self)  # not that of DeepSpeed's layer, which a subclass inherits
        self.num_experts, self.ep_size, self.ep_rank = num_experts, ep_size, launched()[0] % ep_size
        self.ep_group, self.ep_group_name, self.folding_group_handles = None, f"ep_size_{ep_size}", None

    def forward(self, compute: Compute, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """See `TokenDispatcher.forward`; the index is of all E experts."""
        return run_experts(
            compute, hidden_states, top_k_index, top_k_weights, num_experts=self.num_experts, group=self.ep_group
        )

    def set_deepspeed_parallelism(self, *args: Any, **kwargs: Any) -> None:
        """Make the groups of processes that share experts; DeepSpeed calls this when it begins."""
        AutoEPMoELayer.set_deepspeed_parallelism(self, *args, **kwargs)


class AutoEPDispatcher(AllToAllDispatcher, AutoEPMoELayer):
    """The dispatcher by which DeepSpeed learns that it may not average some gradients over all processes.

    DeepSpeed looks for its own layer, of which nothing else is used here. It need not own the experts' parameters:
    ZeRO reads from marks on each parameter which processes have the same one (see `_mark`).
    """


@dataclass
class Shard:
    """Which part of a parameter each of P processes has.

    Args:
        shape: Of the whole parameter, with the experts in a dimension of their own.
        dim: That dimension.
        dispatcher: Of the experts; it knows the group of processes.
    """

    shape: tuple[int, ...]
    dim: int
    dispatcher: AllToAllDispatcher

    def shard(self, whole: Tensor) -> Tensor:
        """Take this process's part of a whole value."""
        part = whole.view(self.shape).chunk(self.dispatcher.ep_size, dim=self.dim)[self.dispatcher.ep_rank]
        shape = list(whole.shape)
        shape[0 if self.dim == 0 else -1] //= self.dispatcher.ep_size
        return part.reshape(shape).contiguous()

    def unshard(self, part: Tensor) -> Tensor:
        """All-gather the whole value, of which each process of the group has a part; all of them must call this."""
        parts = [torch.empty_like(part) for _ in range(self.dispatcher.ep_size)]
        dist.all_gather(parts, part.contiguous(), group=self.dispatcher.ep_group)
        apart = list(self.shape)
        apart[self.dim] //= self.dispatcher.ep_size
        whole = torch.cat([each.view(apart) for each in parts], dim=self.dim)
        shape = list(part.shape)
        shape[0 if self.dim == 0 else -1] *= self.dispatcher.ep_size
        return whole.reshape(shape)


def shard_experts(model: nn.Module, size: int, *, partitions: bool) -> None:
    """Leave each process its shard of every layer's experts, and of their low-rank deltas, in place.

    Args:
        model: Whole, and the same in all processes; what trains in it is chosen already. `check_experts` has passed.
        size: P; neighbouring processes share the experts of a model.
        partitions: Whether ZeRO-3 is going to partition all parameters, frozen ones too.
    """
    layouts = list(_layouts(model))
    # ZeRO-1 and ZeRO-2 would miss sharded parameters in the optimizer if none trained.
    is_marked = partitions or any(parameter.requires_grad for _, parameter, _, _ in layouts)
    kind = AutoEPDispatcher if is_marked else AllToAllDispatcher
    for experts in _stacks(model):
        experts.token_dispatcher = kind(experts.num_experts, size)
        experts.num_experts //= size
        if isinstance(experts, LatentExperts) and experts.num_groups > 1:
            experts.num_groups //= size
    for experts, parameter, shape, dim in layouts:
        _mark(parameter, Shard(shape, dim, experts.token_dispatcher))
    for wrapper in _wrappers(model):
        wrapper.num_experts = wrapper.get_base_layer().num_experts


def _stacks(model: nn.Module) -> list[Any]:
    """List the stacks of experts of a model."""
    return [module for module in model.modules() if isinstance(module, DispatchedExperts)]


def _layouts(model: nn.Module) -> Iterator[tuple[Any, nn.Parameter, tuple[int, ...], int]]:
    """Yield what is sharded: experts, a parameter of theirs, its shape with the experts apart, and their dimension."""
    for experts in _stacks(model):
        by_group = getattr(experts, "num_groups", 1) > 1  # else all experts share the only group
        for parameter in experts.parameters(recurse=False):
            if len(parameter) == experts.num_experts or by_group:
                yield experts, parameter, tuple(parameter.shape), 0
    for wrapper in _wrappers(model):
        experts = wrapper.get_base_layer()
        down, up = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        yield experts, down, (experts.num_experts, -1, down.shape[1]), 0
        yield experts, up, (up.shape[0], -1, experts.num_experts), 2


def _mark(parameter: nn.Parameter, shard: Shard) -> None:
    """Leave a parameter this process's part, and tell DeepSpeed that it is another one in each of P processes."""
    marked: Any = parameter
    marked.shard, marked.allreduce = shard, False
    marked.ds_zero_placement_family = "autoep_expert"
    marked.group_name = marked.ds_zero_partition_group_name = shard.dispatcher.ep_group_name
    parameter.data = shard.shard(parameter.data).clone()


def _wrappers(model: nn.Module) -> Iterator[Any]:
    """Yield what peft put around stacked experts, one for each of their parameters."""
    from peft.tuners.lora.layer import ParamWrapper

    for module in model.modules():
        if isinstance(module, ParamWrapper) and isinstance(module.get_base_layer(), DispatchedExperts):
            yield module


def check_groups(model: nn.Module) -> None:
    """See to it that DeepSpeed has made the groups of processes by which experts were sharded.

    Raises:
        RuntimeError: If this process has another rank in its group.
    """
    for experts in _stacks(model):
        dispatcher = experts.token_dispatcher
        if (rank := dist.get_rank(dispatcher.ep_group)) != dispatcher.ep_rank:
            raise RuntimeError(
                f"This process has shard {dispatcher.ep_rank} of the experts, but rank {rank} in its group."
            )


def unshard_experts(model: nn.Module) -> None:
    """Let experts whose parameters are whole again be what they were before they were sharded, in place."""
    for experts in _stacks(model):
        experts.num_experts = experts.token_dispatcher.num_experts
        experts.token_dispatcher = TokenDispatcher()
        if isinstance(experts, LatentExperts):
            experts.num_groups = experts.config.expert_latent_groups
    for wrapper in _wrappers(model):
        wrapper.num_experts = wrapper.get_base_layer().num_experts


def split_sharded(optimizer: torch.optim.Optimizer) -> None:
    """Put sharded parameters into groups of their own, as DeepSpeed wants them; in place."""
    groups = optimizer.param_groups[:]
    optimizer.param_groups.clear()
    for group in groups:
        for name in sorted({getattr(parameter, "group_name", "") for parameter in group["params"]}):
            members = [parameter for parameter in group["params"] if getattr(parameter, "group_name", "") == name]
            own = {"moe": True, "name": name} if name else {}
            optimizer.param_groups.append({**group, **own, "params": members})


__all__ = [
    "AllToAllDispatcher",
    "AutoEPDispatcher",
    "Shard",
    "check_groups",
    "shard_experts",
    "split_sharded",
    "unshard_experts",
]
