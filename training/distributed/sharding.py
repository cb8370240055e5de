"""Parameters and optimizer states whole, whoever has which part of them: sharded experts, ZeRO's parts, or neither.

Every function that goes through parameters is to be called by all processes, which gather their parts in one order.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimoe.errors import ConfigError

from .processes import processes, rank


def shard_of(parameter: Tensor) -> Any:
    """Say which part of a parameter of sharded experts this process has, a `Shard`. None: all of it."""
    return getattr(parameter, "shard", None)


def unshard(parameter: Tensor, part: Tensor) -> Tensor:
    """All-gather a value of a parameter whose experts are sharded; of other parameters, return it as it is."""
    shard = shard_of(parameter)
    return part if shard is None else shard.unshard(part)


def shard(parameter: Tensor, whole: Tensor) -> Tensor:
    """Take this process's part of a value of a parameter whose experts are sharded; of others, return it as it is."""
    own = shard_of(parameter)
    return whole if own is None else own.shard(whole)


def whole_weights(model: Any, outside: Mapping[str, nn.Module] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight of a model by its name in memory, each tied one once; buffers too.

    Args:
        model: The model.
        outside: Modules that were taken out of it, by their names in it.
    """
    for scope, module in (outside or {}).items():
        for name, value in module.state_dict().items():
            yield f"{scope}.{name}", value
    for name, value in model.state_dict(keep_vars=True).items():
        if name in model.all_tied_weights_keys:
            continue
        with _gathered(value):
            yield name, unshard(value, value.detach())


def _gathered(value: Any) -> Any:
    """Have a parameter that ZeRO-3 has partitioned whole meanwhile; those that it keeps whole stay so."""
    if not hasattr(value, "ds_id") or value.ds_status.name == "AVAILABLE":
        return nullcontext()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters

    return GatheredParameters([value])


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give all processes the statistics of the first one, as DDP does; all must call this.

    Batch norms of an encoder that trains see other rows in each process. DeepSpeed leaves it at that.
    """
    if processes() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.broadcast(buffer, 0)


@torch.no_grad()
def bring_together(model: nn.Module) -> None:
    """Have a whole model in the first process, on the CPU; the others let go of theirs. All must call this."""
    parameters: Iterator[Any] = model.parameters()
    for parameter in parameters:
        with _gathered(parameter):
            whole = unshard(parameter, parameter.detach())
            value = whole.to("cpu", copy=True) if rank() == 0 else torch.empty(0)
        parameter.data = value
        if shard_of(parameter) is not None:
            del parameter.shard
    for buffer in model.buffers():
        buffer.data = buffer.data.cpu()


def optimizer_states(model: nn.Module, optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield each state of an optimizer as `STATE/PARAMETER`, of the parameter's shape, or of shape () as `step` is."""
    inner, flats = _flats(optimizer)
    _link(optimizer)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        flat = flats.get(id(parameter), parameter)
        for key, value in sorted(inner.state.get(flat, {}).items()):
            if not isinstance(value, Tensor) or value.dim() == 0:
                yield f"{key}/{name}", torch.as_tensor(value)
            elif flat is parameter:
                yield f"{key}/{name}", value
            elif value.shape != flat.shape:
                raise ConfigError(
                    f"trainer.optim: {type(inner).__name__} keeps {key!r} of another shape than its parameters, which "
                    "cannot be written whole under parallel.zero. Choose another optimizer, such as adamw_torch."
                )
            else:
                from deepspeed.utils import safe_get_full_optimizer_state

                yield f"{key}/{name}", unshard(parameter, safe_get_full_optimizer_state(parameter, key))


def put_optimizer_states(
    model: nn.Module,
    optimizer: Any,
    states: Mapping[str, set[str]],
    read: Callable[[str, str], Tensor],
) -> None:
    """Put whole states into an optimizer that has made no step; those that a parameter lacks are zeros.

    Args:
        model: Of the optimizer.
        optimizer: The trainer's.
        states: Parameter -> names of its states.
        read: State and parameter -> value.

    Raises:
        ValueError: If parameters that ZeRO keeps in one tensor have made different numbers of steps.
    """
    inner, flats = _flats(optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if not flats:
        for group in inner.param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                inner.state[parameter] = {
                    key: _on_device(read(key, name), parameter, inner) for key in states.get(name, ())
                }
        return
    members: dict[int, tuple[Tensor, list[str]]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in flats:
            flat = flats[id(parameter)]
            members.setdefault(id(flat), (flat, []))[1].append(name)
    for flat, own in members.values():
        state = _flat_state(flat, own, states, read)
        inner.state[flat] = {key: _on_device(value, flat, inner) for key, value in state.items()}
    _link(optimizer)
    for name, parameter in model.named_parameters():
        for key in sorted(states.get(name, ())):
            value = read(key, name)
            if value.dim():
                _put_part(parameter, shard(parameter, value), key)


def _flats(optimizer: Any) -> tuple[torch.optim.Optimizer, dict[int, Tensor]]:
    """Find the torch optimizer, and by a parameter's id the flat tensor in which ZeRO keeps a part of it."""
    outer = _zero(optimizer)
    if outer is None:
        return _innermost(optimizer), {}
    if hasattr(outer, "single_partition_of_fp32_groups"):  # ZeRO-1 and ZeRO-2
        pairs = zip(outer.single_partition_of_fp32_groups, outer.bit16_groups, strict=True)
    else:
        pairs = zip(outer.fp32_partitioned_groups_flat, outer.fp16_groups, strict=True)
    return outer.optimizer, {id(parameter): flat for flat, group in pairs for parameter in group}


def _zero(optimizer: Any) -> Any:
    """Find DeepSpeed's optimizer within accelerate's. None: there is none."""
    while optimizer is not None:
        if hasattr(optimizer, "single_partition_of_fp32_groups") or hasattr(optimizer, "fp32_partitioned_groups_flat"):
            return optimizer
        optimizer = getattr(optimizer, "optimizer", None)
    return None


def _innermost(optimizer: Any) -> torch.optim.Optimizer:
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _flat_state(
    flat: Tensor, names: list[str], states: Mapping[str, set[str]], read: Callable[[str, str], Tensor]
) -> dict[str, Any]:
    """Make the state of a flat tensor: zeros, and the one number for all its parameters where there is one."""
    state: dict[str, Any] = {}
    for key in sorted({key for name in names for key in states.get(name, ())}):
        first, *others = [name for name in names if key in states.get(name, ())]
        value = read(key, first)
        if value.dim():
            state[key] = torch.zeros_like(flat)
            continue
        for name in others:
            if (other := read(key, name)) != value:
                raise ValueError(
                    f"{first} has made {float(value):g} steps and {name} {float(other):g}, which one flat tensor of "
                    "ZeRO cannot keep apart. Go on without parallel.zero, as the stage was begun."
                )
        state[key] = value
    return state


def _put_part(parameter: Any, value: Tensor, key: str) -> None:
    """Let ZeRO take its part of a state of a parameter."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)
        return
    size, group = parameter.ds_tensor.numel(), parameter.ds_process_group  # the last part may be padded
    first = size * torch.distributed.get_rank(group)
    part = value.flatten()[first : first + size].to(parameter.device)
    safe_set_local_optimizer_state(parameter, nn.functional.pad(part, (0, size - len(part))), key)


def _on_device(value: Tensor, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
    """Put a state where torch's loading puts it: numbers such as `step` stay on the CPU unless a kernel reads them."""
    by_kernel = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return value.to(parameter.device) if value.dim() or by_kernel else value


def _link(optimizer: Any) -> None:
    """Let ZeRO-1 and ZeRO-2 know the states of all groups; DeepSpeed does so after the step of the first one."""
    outer = _zero(optimizer)
    if outer is not None and hasattr(outer, "single_partition_of_fp32_groups"):
        outer._hp_optimizer_states_linked = False
        outer._lazy_init_hp_params_optimizer_state()


__all__ = [
    "bring_together",
    "optimizer_states",
    "put_optimizer_states",
    "shard",
    "shard_of",
    "share_buffers",
    "unshard",
    "whole_weights",
]
