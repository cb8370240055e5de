"""Findings about learning: what trains and moves, whether experts differ, what the language loss teaches routers."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from unimoe import Modality

from .facts import LayerFacts, MixtureFacts, numbers
from .findings import Finding

IDENTICAL = 1e-4
"""Distance below which experts count as one."""
ALIKE = 0.05
"""Mean distance of a layer's experts below which they hardly differ."""
STILL = 1e-4
"""Relative movement in a stage below which a part stands still."""
NO_GRADIENT = 1e-5
"""Gradient of a router, relative to that of its experts, below which there is none but rounding."""


def frozen_parts(facts: MixtureFacts) -> Iterator[Finding]:
    """Find layers of which experts train without their router, or the router without them."""
    if facts.text.router_type == "hash":  # which learns nothing by design
        return
    alone = [layer for layer in facts.layers if layer.experts_train and not layer.router_trains]
    if alone:
        norms = [layer.router_gradient for layer in alone if layer.router_gradient is not None]
        more = f"; its gradient of the language loss would be {max(norms):.2g}" if norms else ""
        yield Finding("router_frozen", f"experts train, the router does not{more}", len(alone), numbers(alone))
    alone = [layer for layer in facts.layers if layer.router_trains and not layer.experts_train]
    if alone:
        yield Finding("experts_frozen", "the router trains, experts do not", len(alone), numbers(alone))


def still_parts(facts: MixtureFacts) -> Iterator[Finding]:
    """Find layers whose router or experts train and did not move."""
    moved = {layer.layer: layer.router_moved for layer in facts.layers if layer.router_moved is not None}
    still = [layer for layer in facts.layers if layer.router_trains and moved.get(layer.layer, 1.0) < STILL]
    if still:
        most = max(moved[layer.layer] for layer in still)
        yield Finding("router_still", f"moved by {most:.1e} at most", most, numbers(still))
    moved = {layer.layer: max(layer.experts_moved) for layer in facts.layers if layer.experts_moved}
    still = [layer for layer in facts.layers if layer.experts_train and moved.get(layer.layer, 1.0) < STILL]
    if still:
        most = max(moved[layer.layer] for layer in still)
        yield Finding("experts_still", f"answers moved by {most:.1e} at most", most, numbers(still))


def equal_experts(facts: MixtureFacts) -> Iterator[Finding]:
    """Find layers whose experts are one and the same, or hardly differ."""
    identical = _identical(facts)
    if identical:
        most = max(float(layer.pairs.max()) for layer in identical)
        measured = f"largest distance {most:.1e}{_measured_gradient(identical)}"
        yield Finding("experts_identical", measured, most, numbers(identical))
    alike = [
        layer
        for layer in facts.layers
        if layer not in identical
        and facts.text.num_experts > 1
        and (layer.pairs.mean() < ALIKE or layer.pairs.min() < IDENTICAL)
    ]
    if alike:
        mean = min(float(layer.pairs.mean()) for layer in alike)
        same = sorted({pair for layer in alike for pair in _same_pairs(layer.distances)})
        pairs = f"; the same: {', '.join(f'{a} and {b}' for a, b in same[:4])}" if same else ""
        yield Finding("experts_alike", f"mean distance {mean:.2g}{pairs}", mean, numbers(alike))


def lost_gradient(facts: MixtureFacts) -> Iterator[Finding]:
    """Find routers that the language loss does not teach: no choice, a weight of 1, or another cause.

    Those whose experts are identical are explained by these.
    """
    if facts.text.router_type in ("hash", "soft"):
        return
    if has_no_choice(facts):
        yield Finding("no_choice", "one expert is open to each modality", 1.0)
        return
    if has_weight_of_one(facts):
        measured = f"num_experts_per_tok is 1, norm_topk_prob true{_measured_gradient(facts.layers)}"
        yield Finding("weight_of_one", measured, 1.0, numbers(facts.layers))
        return
    ratios = {layer.layer: _ratio(layer) for layer in facts.layers if layer not in _identical(facts)}
    lost = [layer for layer in facts.layers if (ratio := ratios.get(layer.layer)) is not None and ratio < NO_GRADIENT]
    if lost:
        most = max(ratios[layer.layer] or 0.0 for layer in lost)
        yield Finding("router_without_gradient", f"{most:.1e} of the experts' gradient", most, numbers(lost))


def unread_experts(facts: MixtureFacts) -> Iterator[Finding]:
    """Find experts whose answers nothing reads."""
    layers = [layer for layer in facts.layers if layer.unread]
    if layers:
        number = sum(len(layer.unread) for layer in layers)
        named = "; ".join(f"{', '.join(map(str, layer.unread))} of layer {layer.layer}" for layer in layers[:3])
        yield Finding("experts_unread", f"{number} experts: {named}", number, numbers(layers))


def has_no_choice(facts: MixtureFacts) -> bool:
    """Say whether each modality that is there has one router target."""
    text = facts.text
    present = [modality for modality in Modality if modality.key in facts.present]
    one_open = all(len(text.permitted_experts(modality)) == 1 for modality in present)
    return text.is_isolated and not text.num_null_experts and bool(present) and one_open


def has_weight_of_one(facts: MixtureFacts) -> bool:
    """Say whether the weight of a token's only expert is 1 whatever the router says, which teaches it nothing."""
    text = facts.text
    one = text.num_experts_per_tok == 1 and bool(text.norm_topk_prob)
    weighed_elsewhere = text.shared_expert_weighting == "router" or text.router_type == "expert_choice"
    return one and text.router_gradient == "plain" and not weighed_elsewhere


def _identical(facts: MixtureFacts) -> list[LayerFacts]:
    return [layer for layer in facts.layers if facts.text.num_experts > 1 and layer.pairs.max() < IDENTICAL]


def _same_pairs(distances: Tensor) -> list[tuple[int, int]]:
    first, second = (distances < IDENTICAL).triu(diagonal=1).nonzero(as_tuple=True)
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _ratio(layer: LayerFacts) -> float | None:
    """Gradient of a router relative to that of its experts; None if it was not examined, or they have none."""
    if layer.router_gradient is None or not layer.experts_gradient:
        return None
    return layer.router_gradient / layer.experts_gradient


def _measured_gradient(layers: Sequence[LayerFacts]) -> str:
    ratios = [ratio for layer in layers if (ratio := _ratio(layer)) is not None]
    return f"; the router's gradient is {max(ratios):.1e} of the experts'" if ratios else ""


__all__ = [
    "equal_experts",
    "frozen_parts",
    "has_no_choice",
    "has_weight_of_one",
    "lost_gradient",
    "still_parts",
    "unread_experts",
]
