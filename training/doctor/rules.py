"""From facts to findings. A finding that another one explains is left out, so that the cause stands alone.

The bounds are choices: far from what healthy trainings gave, and from what the planted failures of the tests gave.
"""

from collections.abc import Callable, Iterator

from .facts import MixtureFacts
from .findings import KINDS, Finding
from .learning import equal_experts, frozen_parts, lost_gradient, still_parts, unread_experts
from .load import collapsed_layers, dead_experts, starving_modalities, uneven_processes

FEW = 0.1
"""Share of the active parameters below which experts and routers are few."""

Rule = Callable[[MixtureFacts], Iterator[Finding]]


def find(facts: MixtureFacts) -> list[Finding]:
    """Find what is wrong with a mixture, the gravest first."""
    gravest_first = list(KINDS)
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: gravest_first.index(finding.name))


def is_healthy(findings: list[Finding]) -> bool:
    """Say whether nothing but notes was found."""
    return all(finding.kind.severity == "note" for finding in findings)


def few_parameters(facts: MixtureFacts) -> Iterator[Finding]:
    """Say so where experts and routers are a small part of what a token meets."""
    share = facts.shares.get("active", 1.0)
    if share < FEW:
        yield Finding("few_routed_parameters", f"{share:.1%} of the active parameters", share)


RULES: tuple[Rule, ...] = (
    equal_experts,
    lost_gradient,
    collapsed_layers,
    starving_modalities,
    frozen_parts,
    still_parts,
    dead_experts,
    uneven_processes,
    few_parameters,
    unread_experts,
)


__all__ = ["find", "is_healthy"]
