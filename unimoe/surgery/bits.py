"""How many bits the weights of each expert get: as many for all, or more for experts that matter more."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UniMoEError
from ..moe.experts.linears import stacked_weights
from .mixture import SparseLayer, sparse_layers
from .saliency import Saliency, Score

Bits = Mapping[int, Sequence[int]]
"""Index of a sparse layer -> bits of a weight of each expert; as many as a float has: the expert stays as it is."""


def as_plan(layers: Sequence[SparseLayer], bits: int | Bits) -> Bits:
    """Write bits as a plan, and check it.

    Args:
        layers: Of the model, in floats.
        bits: Of all experts, or the plan.

    Raises:
        UniMoEError: If the plan does not name each expert once, or names what is not on offer or changes nothing.
    """
    counts = {layer.index: layer.experts.num_experts for layer in layers}
    plan = {layer: [bits] * count for layer, count in counts.items()} if isinstance(bits, int) else bits
    if {layer: len(own) for layer, own in plan.items()} != counts:
        named = ", ".join(f"{layer} ({count} experts)" for layer, count in counts.items())
        raise UniMoEError("bits", "the plan does not name each expert once.", f"The sparse layers are {named}.")
    used, most = {own for layer in plan.values() for own in layer}, float_bits(layers)
    if wrong := sorted(used - {4, 8, most}):
        raise UniMoEError("bits", f"{wrong[0]} bits are not on offer.", f"Choose 8, 4, or {most} for what stays.")
    if used == {most}:
        raise UniMoEError("bits", f"floats of this model have {most}.", "Choose 8 or 4 for at least one expert.")
    return plan


def plan_bits(model: Any, found: Saliency, budget: float, score: Score = "reap") -> Bits:
    """Share out bits to experts: those that matter most get more.

    All get the nearest number on offer (4, 8, that of floats) that is not above the budget, and one expert after the
    other the next one, by its share of the score of its layer, for as long as the budget lasts.

    Args:
        model: In floats.
        found: How much its experts matter.
        budget: Mean bits of a weight of the experts, without scales; never exceeded.
        score: As for `LayerUse.score`.

    Raises:
        UniMoEError: If the budget is below 4, or so large that nothing would be quantised.
    """
    layers = sparse_layers(model)
    levels = (4, 8, float_bits(layers))
    if not levels[0] <= budget < levels[-1]:
        problem = f"a budget of {budget:g} bits is not on offer; floats of this model have {levels[-1]}."
        raise UniMoEError("budget", problem, f"Choose at least {levels[0]} and fewer than {levels[-1]}.")
    low = max(level for level in levels if level <= budget)
    high = min(level for level in levels if level > budget)
    sizes = {(layer.index, expert): size for layer in layers for expert, size in _sizes(layer).items()}
    scores = found.scores(score)
    shares = {layer: own / own.sum().clamp(min=1e-300) for layer, own in scores.items()}
    plan = {layer.index: [low] * layer.experts.num_experts for layer in layers}
    left = (budget - low) * sum(sizes.values())
    for layer, expert in sorted(sizes, key=lambda place: (-float(shares[place[0]][place[1]]), place)):
        left -= (high - low) * sizes[layer, expert]
        if left < 0:
            break
        plan[layer][expert] = high
    return plan


def mean_bits(model: Any, bits: Bits) -> float:
    """Mean bits of a weight of the experts by a plan, without scales.

    Args:
        model: In floats.
        bits: The plan.
    """
    layers = sparse_layers(model)
    sizes = [(size, bits[layer.index][expert]) for layer in layers for expert, size in _sizes(layer).items()]
    return sum(size * own for size, own in sizes) / sum(size for size, _ in sizes)


def float_bits(layers: Sequence[SparseLayer]) -> int:
    """Bits of a weight of the experts of a model in floats."""
    stack = layers[0].stacks[0][0]
    return int(8 * getattr(stack, stacked_weights(stack)[0]).itemsize)


def _sizes(layer: SparseLayer) -> dict[int, int]:
    """Expert -> how many weights it has in stacks."""
    return {
        expert: sum(getattr(stack, name)[0].numel() for name in stacked_weights(stack))
        for stack, members in layer.stacks
        for expert in members
    }


__all__ = ["Bits", "as_plan", "float_bits", "mean_bits", "plan_bits"]
