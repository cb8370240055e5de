"""What operations see of a mixture, of this package or of transformers: its sparse layers and what reaches experts.

T tokens, D hidden size, E experts, K experts per token.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UniMoEError
from ..moe import SparseMoeBlock
from ..moe.experts import GroupedExperts
from ..moe.experts.linears import stacked_weights

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")

_ROUTERS = {"router", "gate"}
OnRouted = Callable[["SparseLayer", Tensor, Tensor, Tensor], None]
"""Called with a layer, hidden states (T, D), expert indices (T, K) and combine weights (T, K)."""


@dataclass(frozen=True)
class SparseLayer:
    """A feed-forward of a decoder layer that is a mixture of experts.

    Args:
        index: Of the decoder layer.
        name: Of the module.
        block: The module, with a router and experts.
    """

    index: int
    name: str
    block: Any

    @property
    def experts(self) -> Any:
        """Module of the experts."""
        return self.block.experts

    @property
    def stacks(self) -> list[tuple[Any, list[int]]]:
        """Each module of stacked experts, and the numbers of its experts in order: several where widths differ."""
        if isinstance(self.experts, GroupedExperts):
            return list(zip(self.experts.banks, self.experts.members, strict=True))
        return [(self.experts, list(range(self.experts.num_experts)))]

    @property
    def router(self) -> Any:
        """Module that chooses them."""
        return next(module for name, module in self.block.named_children() if name in _ROUTERS)


def sparse_layers(model: nn.Module) -> list[SparseLayer]:
    """List the sparse layers of a model.

    Args:
        model: Of this package, or of transformers with stacked experts behind a router of their own.

    Raises:
        UniMoEError: If it has none, or some whose experts take in all tokens (soft mixtures), is quantised, or has
            reserved experts.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        problem = "it is quantised, and its experts are in no stacks any more."
        raise UniMoEError(type(model).__name__, problem, "Pass the model in floats; quantise last.")
    found = [
        SparseLayer(int(place[1]), name, module)
        for name, module in model.named_modules()
        if (place := LAYER.search(f"{name}.")) and _is_sparse(module)
    ]
    if not found:
        problem = "it has no layer of experts that a router chooses among."
        raise UniMoEError(type(model).__name__, problem, "Pass a mixture; of soft ones each token asks every expert.")
    if any(getattr(layer.block, "reserved_experts", None) for layer in found):
        problem = "it has experts that are reserved for a modality or task, which this operation would not see."
        raise UniMoEError(type(model).__name__, problem, "Do this first, and extend the model then.")
    return found


def _is_sparse(module: nn.Module) -> bool:
    if isinstance(module, SparseMoeBlock):
        return True
    experts = getattr(module, "experts", None)
    return (
        isinstance(experts, nn.Module) and bool(stacked_weights(experts)) and bool(_ROUTERS & module._modules.keys())
    )


@contextmanager
def routed(model: nn.Module, on_routed: OnRouted) -> Iterator[None]:
    """Show a function what reaches the experts of a model in the block: the routing that the model really uses.

    Args:
        model: As for `sparse_layers`.
        on_routed: Called in each sparse layer of each forward pass, before the experts compute.
    """

    def hook(layer: SparseLayer) -> Callable:
        return lambda module, arguments: on_routed(layer, *arguments)

    handles = [layer.experts.register_forward_pre_hook(hook(layer)) for layer in sparse_layers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gated_stacks(layer: SparseLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return gate (E, I, D), up (E, I, D) and down projections (E, D, I) of the experts of a layer.

    Raises:
        UniMoEError: If they are of another kind: with biases, latent, LoRA, or of several widths.
    """
    experts = layer.experts
    is_plain = stacked_weights(experts) == ("gate_up_proj", "down_proj") and not getattr(experts, "has_bias", False)
    if not is_plain or getattr(experts, "is_transposed", False) or getattr(experts, "num_groups", 0):
        problem = f"the experts are {type(experts).__name__}, and not plain gated feed-forwards of one width."
        raise UniMoEError(layer.name, problem, "Do this before they become of such a kind, or materialise them.")
    gate, up = experts.gate_up_proj.detach().chunk(2, dim=1)
    return gate, up, experts.down_proj.detach()


def rebuild(model: Any, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Build a model of the same class from a changed configuration, in evaluation mode.

    Args:
        model: Of which class, dtype, and way to compute and generate are taken.
        config: Of the new one.
        tensors: All of its weights by name.
    """
    new = type(model)._from_config(config, dtype=model.dtype).eval()
    new.set_experts_implementation(model.config._experts_implementation)
    new.generation_config = copy.deepcopy(model.generation_config)
    own = new.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            require_shape(type(model), name, tensor, own.get(name))
            own[name].copy_(tensor)
    return new


def require_shape(model_class: type, name: str, made: Tensor, wanted: Tensor | None) -> None:
    """Refuse a tensor that the class of a changed model has no place for.

    Args:
        model_class: Class of the model.
        name: Of the tensor.
        made: The tensor.
        wanted: What the new model has of that name.

    Raises:
        UniMoEError: If there is none, or one of another shape.
    """
    if wanted is None or wanted.shape != made.shape:
        found = "has none of it" if wanted is None else f"wants {tuple(wanted.shape)}"
        problem = f"{name} would be {tuple(made.shape)}, and the class {found}."
        raise UniMoEError(
            model_class.__name__, problem, "Its routers or experts are of a kind that is not known here."
        )


__all__ = ["LAYER", "OnRouted", "SparseLayer", "gated_stacks", "rebuild", "require_shape", "routed", "sparse_layers"]
