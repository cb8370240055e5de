"""What may be wrong with a mixture of experts: kinds of findings, each with its severity, its cause and its cure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Args:
        severity: `problem`: this mixture cannot learn to be more than a dense model. `warning`: a part of it does not
            do its work. `note`: worth knowing.
        meaning: What is so.
        cure: Which key to change.
    """

    severity: Severity
    meaning: str
    cure: str


KINDS: dict[str, Kind] = {
    "experts_identical": Kind(
        "problem",
        "all experts of a layer answer alike (distance below 0.0001), so that the router gets no gradient from the "
        "language loss, whichever it chooses",
        "train `experts`; begin with specialists that have trained, or with `start.assemble.noise: 0.05` and "
        "`exact: false` (`noise` of `upcycle`)",
    ),
    "weight_of_one": Kind(
        "problem",
        "each token has one expert and its weight is renormalised to 1, so that the router gets no gradient from the "
        "language loss",
        "`num_experts_per_tok: 2` at `start.assemble`; or `norm_topk_prob: false` or "
        "`router_gradient: straight_through` in its `moe`, or in the model's configuration",
    ),
    "router_without_gradient": Kind(
        "problem",
        "the router gets less than 0.00001 of its experts' gradient from the language loss, though experts differ: "
        "its probabilities are 0 or 1, or it is cut off",
        "raise `train.losses.z`, lower `train.learning_rates.router`; `router_entropy` in metrics.jsonl shows when it "
        "began",
    ),
    "collapse": Kind(
        "problem",
        "a layer's tokens go to hardly more experts than a token chooses",
        "raise `train.losses.balance` (0.01 is usual), or `balance_bias: true` in the model's configuration; lower "
        "`train.learning_rates.router`",
    ),
    "modality_without_expert": Kind(
        "problem",
        "tokens of a modality reach no expert: they go to null experts, or no expert chooses them",
        "fewer `num_null_experts`, raise `train.losses.balance`; with `expert_choice`, `modality_routing: isolated`",
    ),
    "router_frozen": Kind(
        "warning",
        "experts train and their router does not, so that it goes on choosing by what they were",
        "`train.parts: [router, ...]`",
    ),
    "experts_frozen": Kind(
        "warning",
        "the router trains and its experts do not: it can only choose among what they are",
        "`train.parts: [experts, ...]` or `train.lora.parts: [experts]`; right as it is where a stage only warms a "
        "router up",
    ),
    "router_still": Kind(
        "warning",
        "the router trains and moved by less than 0.0001 of itself",
        "raise `train.learning_rates.router` or `trainer.learning_rate`, or train for more steps",
    ),
    "experts_still": Kind(
        "warning",
        "experts train and their answers moved by less than 0.0001 of themselves",
        "raise `train.learning_rates.experts` or `trainer.learning_rate`; `train.warm_up.steps` must end before the "
        "stage does",
    ),
    "experts_alike": Kind(
        "warning",
        "experts of a layer hardly differ: by less than 0.05 on average, or some of them not at all",
        "train `experts` longer or at a higher `train.learning_rates.experts`; fewer `copies` and `base_experts`, or "
        "`start.assemble.noise`",
    ),
    "modality_absent": Kind(
        "warning",
        "a modality that has experts of its own had no token",
        "rows of it in `data.mixture` or a higher `weight`; or leave its specialist out of `start.assemble.experts`",
    ),
    "group_without_tokens": Kind(
        "warning",
        "a modality sends less than 1 % of its tokens to the experts that are its own",
        "`modality_routing: isolated`, or a higher `router_bias`, at `start.assemble`; more rows of it in "
        "`data.mixture`",
    ),
    "dead_experts": Kind(
        "warning",
        "no token of those that may reach it came to an expert",
        "raise `train.losses.balance`, lower `train.learning_rates.router`, or make fewer experts",
    ),
    "uneven_processes": Kind(
        "warning",
        "with experts shared out, the busiest process has more than 1.5 times the mean of the tokens, and the others "
        "wait",
        "raise `train.losses.balance`, or `balance_bias: true`; `capacity_factor`, or a smaller "
        "`parallel.expert_parallel_size`",
    ),
    "few_routed_parameters": Kind(
        "note",
        "experts and routers are less than a tenth of what is active for a token, so that the mixture differs little "
        "from a dense model",
        "wider or more experts for a token (`num_experts_per_tok`), or more sparse layers (`moe_layers`)",
    ),
    "modality_unseen": Kind(
        "note",
        "the model has an encoder of a modality of which no token came, so that nothing of it was learned or routed",
        "rows of it in `data.mixture`, if it is to be learned in this stage",
    ),
    "experts_unread": Kind(
        "note",
        "experts have tokens and get no gradient, for nothing reads their answers: of the last layer, only what is "
        "before a learned token counts, and no pictures or sounds are",
        "leave the last layer dense (`moe_layers`), or `modality_routing: bias` or `semi_isolated`, so that text uses "
        "them too",
    ),
    "no_choice": Kind(
        "note",
        "every modality has a single expert open to it, so that the router decides nothing",
        "more experts in `expert_groups` (several specialists or `copies`), or `modality_routing: semi_isolated`",
    ),
}
"""Every finding by its name, the gravest first; `docs/doctor.md` has the same table."""


@dataclass(frozen=True)
class Finding:
    """Something that is so in one model.

    Args:
        name: Of its kind.
        measured: What was measured, in words with its numbers; layers are not among them.
        value: The number that decided.
        layers: Decoder layers where it is so; empty where layers play no part.
        modality: Of which it is so, if it is of one.
    """

    name: str
    measured: str
    value: float
    layers: tuple[int, ...] = ()
    modality: str | None = None

    @property
    def kind(self) -> Kind:
        """What all findings of this name have in common."""
        return KINDS[self.name]

    @property
    def where(self) -> str:
        """Its layers in words; nothing where they play no part."""
        return f" in {in_layers(self.layers)}" if self.layers else ""

    def as_json(self) -> dict[str, Any]:
        """Lay it out with its severity, meaning and cure."""
        return {"severity": self.kind.severity} | asdict(self) | {"meaning": self.kind.meaning, "cure": self.kind.cure}


def in_layers(numbers: Sequence[int]) -> str:
    """Write layers out, runs of them as ranges: `layers 0-5, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"layer{'s' if len(numbers) > 1 else ''} {ranges}"


__all__ = ["KINDS", "Finding", "Kind", "Severity"]
