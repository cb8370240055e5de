"""Record what the routers decided, and make them decide the same again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..moe import Router, RouterOutput


@dataclass
class Routing:
    """What every router returned, in the order of the forward passes.

    Args:
        layers: Name of the router's module -> its outputs, one for each pass, as `Router.forward` gives them.
    """

    layers: dict[str, list[RouterOutput]] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """How many forward passes were recorded."""
        return max(map(len, self.layers.values()), default=0)


@contextmanager
def record(model: nn.Module) -> Iterator[Routing]:
    """Record the routing of all forward passes of a model in the block.

    A forward pass is one call, so a generation records one for the prompt and one for each new token.

    Yields:
        The routing, filled as the passes run; its tensors are detached.
    """
    routing = Routing({name: [] for name, _ in _routers(model)})

    def keep(name: str) -> Callable:
        return lambda module, arguments, output: routing.layers[name].append(_each(output, Tensor.detach))

    with _hooks(model, keep):
        yield routing


@contextmanager
def replay(model: nn.Module, routing: Routing) -> Iterator[None]:
    """Make the routers of a model return the `routing` that was recorded, pass by pass; the hidden states have no say.

    Raises:
        ValueError: If the model has other routers than those recorded, or in the block: if there are more passes than
            were recorded, or one has another number of tokens.
    """
    names = [name for name, _ in _routers(model)]
    if names != list(routing.layers):
        raise ValueError(f"The routing was recorded from the routers {list(routing.layers)}; this model has {names}.")
    recorded = {name: iter(outputs) for name, outputs in routing.layers.items()}

    def substitute(name: str) -> Callable:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: RouterOutput) -> RouterOutput:
            decided = next(recorded[name], None)
            if decided is None:
                raise ValueError(f"{name}: only {routing.passes} passes were recorded, and this is one more.")
            then, now = decided.top_k_weights, output.top_k_weights
            if then.shape != now.shape:
                raise ValueError(
                    f"{name}: (tokens, experts of each) was {tuple(then.shape)} when it was recorded, and is "
                    f"{tuple(now.shape)} now. Replay with the inputs of the recording."
                )
            return _each(decided, lambda tensor: tensor.to(now.device))._replace(top_k_weights=then.to(now))

        return hook

    with _hooks(model, substitute):
        yield


def _each(output: RouterOutput, change: Callable[[Tensor], Tensor]) -> RouterOutput:
    """Change every tensor of an output."""
    changed: RouterOutput = tree_map_only(Tensor, change, output)
    return changed


def _routers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Router)]


@contextmanager
def _hooks(model: nn.Module, make: Callable[[str], Callable]) -> Iterator[None]:
    """Hang one forward hook on every router for the length of the block."""
    handles = [module.register_forward_hook(make(name)) for name, module in _routers(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["Routing", "record", "replay"]
