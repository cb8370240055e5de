"""Findings about where tokens go: collapse, modalities that starve, dead experts, processes that wait."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from unimoe import Modality
from unimoe.analysis.diversity import effective_experts

from .facts import LayerFacts, MixtureFacts, modalities_of_key, numbers, total
from .findings import Finding

COLLAPSED = 0.1
"""Share of the way from K effective experts to all of them up to which a layer has collapsed."""
UNROUTED = 0.01
"""Share of a modality's assignments below which they do not count."""
JUDGED = 200
"""Assignments that an expert would have of an even load, below which nothing is said: tokens of a row go together."""
UNEVEN = 1.5
"""Tokens of the busiest process over the mean."""


class _Collapse(NamedTuple):
    """A layer that has collapsed: effective experts, of how many, and the busiest one's share, now and at first."""

    effective: float
    layer: LayerFacts
    reach: int
    share: float
    first: float


def collapsed_layers(facts: MixtureFacts) -> Iterator[Finding]:
    """Find layers whose tokens go to hardly more experts than one token chooses."""
    found = [collapse for layer in facts.layers for collapse in _collapses(facts, layer)]
    if not found:
        return
    worst = min(found, key=lambda collapse: collapse.effective)
    layers = [layer for layer in facts.layers if any(layer is collapse.layer for collapse in found)]
    bias = ", balance_bias on" if facts.text.balance_bias else ""
    yield Finding(
        "collapse",
        f"{worst.effective:.1f} effective experts of {worst.reach} in layer {worst.layer.layer}, the busiest has "
        f"{worst.share:.0%} of the tokens' choices, at first {worst.first:.0%} ({facts.load_of}; balance coefficient "
        f"{facts.balance:g}{bias})",
        worst.effective,
        numbers(layers),
    )


def _collapses(facts: MixtureFacts, layer: LayerFacts) -> Iterator[_Collapse]:
    """Collapses of a layer: of all its experts, or of those of an isolated group."""
    text = facts.text
    chosen = text.min_experts_per_tok if text.router_type == "top_p" else text.num_experts_per_tok
    for experts, keys in _pools(facts):
        if not layer.load or len(experts) <= chosen:
            continue
        counts = total(layer.load, keys)[experts]
        effective = float(effective_experts(counts))
        if counts.sum() < JUDGED * len(experts) or effective >= chosen + COLLAPSED * (len(experts) - chosen):
            continue
        first = total(layer.first_load or layer.load, keys)[experts]
        shares = (float(each.max() / each.sum().clamp(min=1)) for each in (counts, first))
        yield _Collapse(effective, layer, len(experts), *shares)


def _pools(facts: MixtureFacts) -> Iterator[tuple[list[int], list[str] | None]]:
    """Experts whose tokens are judged together, and the modalities of these (None: all): all, or an isolated group."""
    text = facts.text
    if text.modality_routing != "isolated":
        yield text.open_experts, None
        return
    groups: dict[tuple[int, ...], list[str]] = {}
    for modality in Modality:
        groups.setdefault(tuple(text.permitted_experts(modality)), []).append(modality.key)
    yield from ((list(experts), keys) for experts, keys in groups.items())


def starving_modalities(facts: MixtureFacts) -> Iterator[Finding]:
    """Find modalities that reach no expert, and those with experts of their own that are absent or go elsewhere."""
    if not any(layer.load for layer in facts.layers):
        return
    for modality in Modality:
        if _came(facts, modality.key) and (share := _real_share(facts, modality.key)) < UNROUTED:
            measured = f"{modality.key}: {share:.1%} of its choices are experts ({facts.load_of})"
            yield Finding("modality_without_expert", measured, share, modality=modality.key)
    for key in facts.encoders:
        if key not in facts.own and not any(_came(facts, each) for each in modalities_of_key(key)):
            yield Finding("modality_unseen", f"no token of {key} ({facts.load_of})", 0.0, modality=key)
    for key, experts in facts.own.items():
        named, keys = ", ".join(map(str, experts)), modalities_of_key(key)
        if not any(_came(facts, each) for each in keys):
            yield Finding("modality_absent", f"no {key}; experts {named} are its own", 0.0, modality=key)
            continue
        most = max(_share_of(layer, keys, experts) for layer in facts.layers)
        if most < UNROUTED:
            measured = f"{key}: at most {most:.2%} of its choices in a layer are its experts {named} ({facts.load_of})"
            yield Finding("group_without_tokens", measured, most, modality=key)


def _came(facts: MixtureFacts, key: str) -> bool:
    """Whether a token of a modality came; experts that choose may have left all of them out."""
    if any(sum(layer.load.get(key, ())) for layer in facts.layers):
        return True
    return key in facts.present and facts.text.router_type == "expert_choice"


def _real_share(facts: MixtureFacts, key: str) -> float:
    """Share of a modality's choices that are experts and not nulls; 0 if it has none."""
    rows = [layer.load[key] for layer in facts.layers if key in layer.load]
    counts = torch.tensor(rows).double().sum(dim=0) if rows else torch.zeros(1)
    return float(counts[: facts.text.num_experts].sum() / counts.sum().clamp(min=1))


def _share_of(layer: LayerFacts, keys: list[str], experts: list[int]) -> float:
    counts = total(layer.load, keys)
    return float(counts[experts].sum() / counts.sum().clamp(min=1))


def dead_experts(facts: MixtureFacts) -> Iterator[Finding]:
    """Find experts without a token that neither a collapse nor a starving modality explains."""
    collapsed = {layer for finding in collapsed_layers(facts) for layer in finding.layers}
    starving = {finding.modality for finding in starving_modalities(facts)}
    explained = {expert for key, experts in facts.own.items() if key in starving for expert in experts}
    dead = [
        (layer.layer, expert)
        for layer in facts.layers
        if layer.layer not in collapsed
        for expert in range(facts.text.num_experts)
        if expert not in explained and _is_dead(facts, layer, expert)
    ]
    if dead:
        named = ", ".join(f"{expert} of layer {layer}" for layer, expert in dead[:6])
        more = f" and {len(dead) - 6} more" if len(dead) > 6 else ""
        yield Finding(
            "dead_experts",
            f"{len(dead)} of {len(facts.layers) * facts.text.num_experts} experts: {named}{more} ({facts.load_of})",
            len(dead),
            tuple(dict.fromkeys(layer for layer, _ in dead)),
        )


def _is_dead(facts: MixtureFacts, layer: LayerFacts, expert: int) -> bool:
    """Whether an expert had no token where an even load would have given it enough to judge."""
    expected = 0.0
    for modality in Modality:
        permitted, counts = facts.text.permitted_experts(modality), layer.load.get(modality.key)
        if counts and expert in permitted:
            if counts[expert]:
                return False
            expected += sum(counts) / len(permitted)
    return expected >= JUDGED


def uneven_processes(facts: MixtureFacts) -> Iterator[Finding]:
    """Find layers of whose tokens one process has many more than the mean, where experts are shared out."""
    ratios = {layer.layer: busiest_process(facts, layer) for layer in facts.layers}
    uneven = [layer for layer in facts.layers if ratios[layer.layer] > UNEVEN]
    if uneven:
        most = max(ratios.values())
        measured = f"the busiest of {facts.processes} processes has {most:.2f} times the mean ({facts.load_of})"
        yield Finding("uneven_processes", measured, most, numbers(uneven))


def busiest_process(facts: MixtureFacts, layer: LayerFacts) -> float:
    """Return the assignments of the busiest process over the mean of all; neighbouring experts share a process.

    Args:
        facts: Say how many processes there are.
        layer: Whose load it is; without one, 1.
    """
    counts = layer.counts(facts.text.num_experts).reshape(facts.processes, -1).sum(dim=-1)
    return float(counts.max() / counts.mean()) if counts.sum() else 1.0


__all__ = ["busiest_process", "collapsed_layers", "dead_experts", "starving_modalities", "uneven_processes"]
