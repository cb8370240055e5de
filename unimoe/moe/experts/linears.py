"""Stacked experts seen as `nn.Linear` modules, for tools that look for these: hooks, adapters, quantisers.

A view: each stacked parameter becomes a list of modules, such as `experts.down_proj.3`, whose weights are slices of
it, not copies. `fold_experts` undoes it. Experts of this package have it, and all of transformers that stand behind
`use_experts_implementation`. The names end in the number of the expert, since peft takes others, such as
`experts.3.down_proj`, for those of stacked parameters in older models. E experts, T tokens, K experts per token.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _default_apply_gate

from ...errors import UniMoEError
from .assignments import LINEARS

_VIEW = "_view_as_linears"


@dataclass
class View:
    """What a module of experts gave up for the view.

    Args:
        stacks: Name of each stacked parameter, biases included -> the parameter.
        maps: Name of each stacked parameter of weights -> names of the maps that the rows of an expert are cut into.
        is_transposed: Whether rows and columns change places in the stack.
        implementation: That computed the experts.
    """

    stacks: dict[str, nn.Parameter]
    maps: dict[str, tuple[str, ...]]
    is_transposed: bool
    implementation: str | None

    def slices(self, stack: str, expert: int) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Yield name, weight (o, i) and bias (o,) of each map of an expert that a stack holds; they share storage."""
        whole, bias = self.stacks[stack].data[expert], self.stacks.get(f"{stack}_bias")
        names = self.maps[stack]
        weights = (whole.T if self.is_transposed else whole).chunk(len(names))
        biases = [None] * len(names) if bias is None else bias.data[expert].chunk(len(names))
        yield from zip(names, weights, biases, strict=True)


def experts_as_linears(model: nn.Module, *, split_gate_up: bool = True) -> list[str]:
    """Show every expert's maps as `nn.Linear` modules that share their storage with the stacked parameters.

    The model computes what `eager` computes, and what changes a module, changes the model: hooks see the tokens of
    their expert alone, adapters wrap, quantisers replace. Optimizers made before hold the stacked parameters, which
    leave the model; make them anew. Undo it with `fold_experts`, also before the model is saved.

    Args:
        model: Of this package, or of transformers with stacked experts. It is changed in place.
        split_gate_up: Whether gate and up projection are two modules; otherwise they are one, `gate_up_proj`.

    Returns:
        Names of the new modules, such as `model.layers.0.mlp.experts.down_proj.3`: `target_modules` for peft.

    Raises:
        UniMoEError: If the model has no stacked experts, has them seen so already, or some that cannot be; before
            anything is changed.
    """
    found = {name: module for name, module in model.named_modules() if stacked_weights(module)}
    _refuse(model, found, split_gate_up)
    ALL_EXPERTS_FUNCTIONS.register(LINEARS, compute)
    names: list[str] = []
    for name, module in found.items():
        names += [f"{name}.{own}" for own in _unfold(module, split_gate_up)]
    for module in found.values():
        module.config._experts_implementation = LINEARS
    return names


def fold_experts(model: nn.Module) -> None:
    """Undo `experts_as_linears`: the stacked parameters are back, with what the modules' weights are by now.

    Args:
        model: It is changed in place.

    Raises:
        UniMoEError: If it is no such view, or if a module is no plain `nn.Linear` any more, which is named; before
            anything is changed.
    """
    found = {name: module for name, module in model.named_modules() if hasattr(module, _VIEW)}
    if not found:
        raise UniMoEError(type(model).__name__, "its experts are not seen as linear maps.", "There is nothing to do.")
    for name, module in found.items():
        _check_plain(name, module)
    for module in found.values():
        _fold(module)


def forget_stacks(model: nn.Module) -> None:
    """Make the view of `experts_as_linears` lasting: the stacks leave memory, and `fold_experts` is refused.

    Args:
        model: Seen as linear maps, whole or in part. It is changed in place; weights that are still slices of a stack
            get memory of their own.
    """
    found: list[Any] = [module for module in model.modules() if hasattr(module, _VIEW)]
    for module in found:
        delattr(module, _VIEW)
        module._is_hf_initialized = True  # `_init_weights` of transformers' classes looks for stacks
        for linear in (linear for maps in module.children() if isinstance(maps, nn.ModuleList) for linear in maps):
            for name, own in linear.named_parameters(recurse=False):
                if type(own) is nn.Parameter:
                    whole = own.detach().clone(memory_format=torch.contiguous_format)
                    setattr(linear, name, nn.Parameter(whole, requires_grad=own.requires_grad))


def stacked_weights(module: nn.Module) -> tuple[str, ...]:
    """Names of the stacked weights (E, o, i) of a module of experts; none of any other module."""
    if own := getattr(module, "stacked_weights", ()):  # experts of this package that transformers' kernels do not know
        return tuple(own)
    if not isinstance(getattr(module, "down_proj", None), nn.Parameter) or not hasattr(module, "is_concatenated"):
        return ()
    return ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")


def compute(experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Return the weighted sum of the chosen experts, (T, D), in the order of `eager`; experts without tokens rest.

    Args:
        experts: The module, seen as linear maps.
        hidden_states: (T, D).
        top_k_index: (T, K); E asks no expert.
        top_k_weights: (T, K).
    """
    output = torch.zeros_like(hidden_states)
    for expert in range(experts.num_experts):
        token, choice = torch.where(top_k_index == expert)
        if len(token):
            answer = ask(experts, expert, hidden_states[token]) * top_k_weights[token, choice, None]
            output.index_add_(0, token, answer.to(output.dtype))
    return output


def ask(experts: Any, expert: int, hidden_states: Tensor) -> Tensor:
    """Ask one expert of a view about every token, (T, D) for (T, D).

    Args:
        experts: The module, seen as linear maps.
        expert: Its number.
        hidden_states: (T, D).
    """
    if hasattr(experts, "gate_up_proj"):
        inner = experts._apply_gate(experts.gate_up_proj[expert](hidden_states))
    elif experts.has_gate:
        inner = experts.act_fn(experts.gate_proj[expert](hidden_states)) * experts.up_proj[expert](hidden_states)
    else:
        inner = experts.act_fn(experts.up_proj[expert](hidden_states))
    answer: Tensor = experts.down_proj[expert](inner)
    return answer


def _refuse(model: nn.Module, found: dict[str, nn.Module], split_gate_up: bool) -> None:
    where = type(model).__name__
    if any(hasattr(module, _VIEW) for module in model.modules()):
        raise UniMoEError(where, "its experts are seen as linear maps already.", "Call fold_experts first.")
    if not found:
        raise UniMoEError(where, "it has no stacked experts.", "Its maps are modules already, or it is no mixture.")
    for name, module in model.named_modules():
        kind = f"{name} ({type(module).__name__})"
        if name not in found:
            count = getattr(module, "num_experts", None)
            is_stranger = any(own.dim() == 3 and len(own) == count for own in module.parameters(recurse=False))
        else:
            is_stranger = getattr(module, "has_post_expert_norm", False)
            is_plain = getattr(type(module), "_apply_gate", _default_apply_gate) is _default_apply_gate
            if split_gate_up and not (is_plain and getattr(module, "is_concatenated", True)):
                problem = f"{kind} puts gate and up projection together in its own way."
                raise UniMoEError(where, problem, "Pass split_gate_up=False.")
        if is_stranger:
            raise UniMoEError(where, f"the experts {kind} are of a kind that is not known.")


def _unfold(module: Any, split_gate_up: bool) -> list[str]:
    """Put lists of modules in place of stacked parameters; return the names of the modules."""
    weights = stacked_weights(module)
    maps: dict[str, tuple[str, ...]] = {stack: (stack,) for stack in weights}
    if split_gate_up and "gate_up_proj" in maps:
        maps["gate_up_proj"] = ("gate_proj", "up_proj")
    held = [name for stack in weights for name in (stack, f"{stack}_bias") if name in module._parameters]
    stacks = {name: getattr(module, name) for name in held}
    view = View(stacks, maps, getattr(module, "is_transposed", False), module.config._experts_implementation)
    setattr(module, _VIEW, view)
    for name in held:
        delattr(module, name)
    lists = {name: nn.ModuleList() for stack in weights for name in maps[stack]}
    for stack in weights:
        for expert in range(module.num_experts):
            for name, weight, bias in view.slices(stack, expert):
                lists[name].append(_linear(weight, bias, stacks[stack].requires_grad))
    for name, linears in lists.items():
        module.add_module(name, linears)
    return [f"{name}.{expert}" for name, linears in lists.items() for expert in range(len(linears))]


def _linear(weight: Tensor, bias: Tensor | None, requires_grad: bool) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=requires_grad)
    return linear


def _check_plain(name: str, module: Any) -> None:
    for key in (key for keys in getattr(module, _VIEW).maps.values() for key in keys):
        for expert, linear in enumerate(getattr(module, key)):
            if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter:
                what = type(linear).__name__ if type(linear) is not nn.Linear else type(linear.weight).__name__
                raise UniMoEError(
                    f"{name}.{key}.{expert}",
                    f"it is a {what}, which cannot go back into a stack.",
                    "Merge adapters and remove what wraps it, or leave the experts as they are.",
                )


def _fold(module: Any) -> None:
    view: View = getattr(module, _VIEW)
    delattr(module, _VIEW)
    for stack, names in view.maps.items():
        _take_in(view, stack, {name: getattr(module, name) for name in names})
        for name in names:
            delattr(module, name)
    for name, parameter in view.stacks.items():
        module.register_parameter(name, parameter)
    module.config._experts_implementation = view.implementation


def _take_in(view: View, stack: str, held: dict[str, nn.ModuleList]) -> None:
    """Write into a stack what its modules hold, where that is not its own storage; a cast or moved stack is new."""
    first: Any = held[view.maps[stack][0]][0].weight
    for name in (stack, f"{stack}_bias"):
        if name in view.stacks and (first.dtype, first.device) != (view.stacks[name].dtype, view.stacks[name].device):
            old = view.stacks[name]
            view.stacks[name] = nn.Parameter(torch.empty_like(old, dtype=first.dtype, device=first.device))
    view.stacks[stack].requires_grad_(first.requires_grad)
    for expert in range(len(view.stacks[stack])):
        for name, weight, bias in view.slices(stack, expert):
            linear: Any = held[name][expert]
            for whole, own in ((weight, linear.weight), (bias, linear.bias)):
                if whole is not None and whole.data_ptr() != own.data_ptr():
                    whole.copy_(own.data)


__all__ = ["ask", "experts_as_linears", "fold_experts", "forget_stacks", "stacked_weights"]
