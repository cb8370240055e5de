"""The facts of a mixture of experts that findings follow from: what trains, how experts differ and move, and the load.

E experts, N null experts, L sparse layers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unimoe import Modality, UniMoEForConditionalGeneration, UniMoETextConfig
from unimoe.analysis.diversity import effective_experts
from unimoe.errors import ConfigError
from unimoe.moe.counting import count_parameters
from unimoe.moe.losses import router_loss_coefficients
from unimoe.surgery import Certificate

from ..config.train import TrainConfig
from ..monitor.metrics_file import METRICS_FILE
from ..monitor.mixture import (
    MixtureSnapshot,
    expert_distances,
    experts_moved,
    router_moved,
    router_parameters,
    sparse_blocks,
)

Load = dict[str, list[int]]
"""Modality key -> assignments of its tokens to each router target, in one layer."""


@dataclass(frozen=True)
class TaskGradients:
    """Gradients of the language loss alone, without router losses.

    Args:
        router: Norm of the gradient of each layer's router, by decoder layer.
        experts: Norm of the gradient of each layer's experts, all together.
        by_expert: Norm of the gradient of each expert's own weights.
        routed_share: Squared norm of the gradient of routers and experts, as a share of that of all parts that train
            and these.
        rows: Rows that the loss is a mean over.
        tokens: Tokens of each modality in them.
        load: Of these rows, for each sparse layer; none where routing is soft.
    """

    router: dict[int, float]
    experts: dict[int, float]
    by_expert: dict[int, list[float]]
    routed_share: float
    rows: int
    tokens: dict[str, int]
    load: list[Load]


@dataclass(frozen=True)
class LayerFacts:
    """Facts of one sparse layer. None: not examined.

    Args:
        layer: Number of the decoder layer.
        router_trains, experts_train: Whether they do, whole or by LoRA.
        distances: Of each two experts' answers, (E, E); see `expert_distances`.
        experts_moved: How far each expert's answers moved in the stage, relative.
        router_moved: How far the router's weights moved in the stage, relative; None too if it has none.
        router_gradient, experts_gradient: Norms of their gradients of the language loss.
        unread: Experts that had tokens in the examined rows, and no gradient.
        load: Assignments by modality, in the second half of the training or in the examined rows.
        first_load: The same, in the first log of the training.
    """

    layer: int
    router_trains: bool
    experts_train: bool
    distances: Tensor
    experts_moved: list[float] | None
    router_moved: float | None
    router_gradient: float | None
    experts_gradient: float | None
    unread: list[int]
    load: Load
    first_load: Load

    @property
    def pairs(self) -> Tensor:
        """Distances of all pairs of experts, in a row; one 0 for a single expert."""
        size = len(self.distances)
        first, second = torch.triu_indices(size, size, offset=1)
        return self.distances[first, second] if size > 1 else torch.zeros(1)

    def as_json(self, num_experts: int) -> dict[str, Any]:
        """Lay it out, distances as their least, mean and largest, and the load with what follows from it."""
        values = asdict(self) | {
            "distances": {
                "least": float(self.pairs.min()),
                "mean": float(self.pairs.mean()),
                "largest": float(self.pairs.max()),
            }
        }
        if self.load:
            counts = self.counts(num_experts)
            shares = counts / counts.sum().clamp(min=1)
            values["largest_share"] = float(shares.max())
            values["effective_experts"] = float(effective_experts(counts))
            values["variation"] = float(counts.std(correction=0) / counts.mean().clamp(min=1e-9))
        return values

    def counts(self, num_experts: int, modalities: Iterable[str] | None = None) -> Tensor:
        """Add up the assignments to each expert, of some modalities or all, (E,), float64; nulls are left out."""
        return total(self.load, modalities)[:num_experts] if self.load else torch.zeros(num_experts).double()


@dataclass(frozen=True)
class MixtureFacts:
    """All facts of a mixture.

    Args:
        text: Its configuration.
        layers: Of each sparse layer.
        own: Modality -> experts that are its own: a group, or the specialists that a model was assembled of.
        encoders: Modalities that have an encoder.
        present: Modalities whose tokens were seen in data or load.
        shares: `parameters` and `active`: parameters of experts and routers, as shares of all and of those that are
            active for a token. Empty: not counted.
        gradients: None: not examined.
        load_of: What the load is of, in words; empty: there is none.
        processes: Among which the experts of a layer are shared out.
        missing: What was not examined, and why.
    """

    text: UniMoETextConfig
    layers: list[LayerFacts]
    own: dict[str, list[int]]
    encoders: list[str]
    present: set[str]
    shares: dict[str, float]
    gradients: TaskGradients | None
    load_of: str
    processes: int
    missing: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """Whether the stage trains anything of the mixture."""
        return any(layer.router_trains or layer.experts_train for layer in self.layers)

    @property
    def has_load(self) -> bool:
        """Whether its tokens go to experts at all; soft mixtures mix them."""
        return self.text.router_type != "soft"

    @property
    def balance(self) -> float:
        """Coefficient of the balance loss."""
        return router_loss_coefficients(self.text)["balance"]

    def as_json(self) -> dict[str, Any]:
        """Lay them out."""
        number = self.text.num_experts
        return {
            "experts": number,
            "experts_per_token": self.text.num_experts_per_tok,
            "own_experts": self.own,
            "modalities": sorted(self.present),
            "routed_shares": self.shares,
            "routed_gradient_share": self.gradients and self.gradients.routed_share,
            "examined_rows": self.gradients.rows if self.gradients else 0,
            "load_of": self.load_of,
            "processes": self.processes,
            "not_examined": list(self.missing),
            "layers": [layer.as_json(number) for layer in self.layers],
        }


def total(load: Load, modalities: Iterable[str] | None = None) -> Tensor:
    """Add up the load of some modalities, or of all, (E+N,), float64."""
    rows = [load[key] for key in (load if modalities is None else modalities) if key in load]
    return torch.tensor(rows).double().sum(dim=0) if rows else torch.zeros(len(next(iter(load.values())))).double()


@dataclass(frozen=True)
class Evidence:
    """What facts are collected from, beside a model and what its stage says.

    Args:
        now: Experts and routers after the stage.
        before: The same before it. None: not known.
        certificate: Of the assembly that the stage began with, if it did.
        logs: Lines of `metrics.jsonl`.
        modalities: Of the stage's data, as far as they were looked at.
        gradients: Of the language loss. None: not examined.
        processes: Among which the experts of a layer are shared out.
        missing: What was not examined, and why.
    """

    now: MixtureSnapshot
    before: MixtureSnapshot | None
    certificate: Certificate | None
    logs: Sequence[Mapping[str, Any]]
    modalities: Sequence[str]
    gradients: TaskGradients | None = None
    processes: int = 1
    missing: tuple[str, ...] = ()


def collect_facts(
    model: UniMoEForConditionalGeneration, train: TrainConfig, evidence: Evidence, *, count: bool = True
) -> MixtureFacts:
    """Collect the facts of a trained mixture.

    Args:
        model: After its stage, whole.
        train: The stage's `train`.
        evidence: What was seen of it.
        count: Whether parameters are counted.

    Raises:
        ConfigError: If the load of the training is that of another model.
    """
    text, gradients = model.config.get_text_config(), evidence.gradients
    load, first, load_of = _read_load(evidence, text.num_router_targets)
    if not load and gradients is not None:
        load, first, load_of = gradients.load, [], f"{gradients.rows} rows"
    before, now = evidence.before, evidence.now
    layers = []
    for number, (layer, block) in enumerate(sparse_blocks(model)):
        is_known = before is not None and layer in before.answers
        has_router = bool(router_parameters(block))
        layers.append(
            LayerFacts(
                layer,
                router_trains=has_router and part_trains("router", layer, train),
                experts_train=part_trains("experts", layer, train),
                distances=expert_distances(now.answers[layer]),
                experts_moved=experts_moved(before.answers[layer], now.answers[layer]).tolist()
                if before and is_known
                else None,
                router_moved=router_moved(before.routers[layer], now.routers[layer])
                if before and is_known and has_router
                else None,
                router_gradient=gradients.router.get(layer) if gradients else None,
                experts_gradient=gradients.experts.get(layer) if gradients else None,
                unread=_unread(gradients, layer, number) if gradients else [],
                load=load[number] if load else {},
                first_load=first[number] if first else {},
            )
        )
    seen = {key for log in evidence.logs for key in log.get("load", ())} | set(gradients.tokens if gradients else ())
    return MixtureFacts(
        text,
        layers,
        own=own_experts(text, evidence.certificate),
        encoders=list(model.config.encoder_keys),
        present=seen | set(evidence.modalities),
        shares=routed_shares(model) if count else {},
        gradients=gradients,
        load_of=load_of,
        processes=evidence.processes,
        missing=evidence.missing,
    )


def _read_load(evidence: Evidence, targets: int) -> tuple[list[Load], list[Load], str]:
    """Read the load of the training, and see that it is that of a model with these layers and router targets."""
    try:
        load, first, load_of = training_load(evidence.logs)
        widths = {len(counts) for layer in load for counts in layer.values()}
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        load, first, load_of, widths = [], [], "", {0}
    if widths and (widths != {targets} or len(load) != len(evidence.now.answers)):
        raise ConfigError(METRICS_FILE, "is damaged: its load is none of this model.", "Take these lines out.")
    return load, first, load_of


def _unread(gradients: TaskGradients, layer: int, number: int) -> list[int]:
    """Experts of a decoder layer, the sparse layer of this number, that had tokens and no gradient."""
    if not gradients.load:
        return []
    counts = total(gradients.load[number]).tolist()
    return [expert for expert, norm in enumerate(gradients.by_expert[layer]) if norm == 0 and counts[expert] > 0]


def part_trains(part: str, layer: int, train: TrainConfig) -> bool:
    """Say whether a part trains in a decoder layer, whole or by LoRA."""
    named = {*train.parts, *(train.lora.parts if train.lora else [])}
    return part in named and (train.layers is None or layer in train.layers)


def own_experts(text: UniMoETextConfig, certificate: Certificate | None) -> dict[str, list[int]]:
    """Find the experts that are a modality's own: reserved for it, of its group, or assembled of its specialists."""
    if text.has_closed_experts:
        reserved = {key: own for key, own in text.reserved_in_order if own not in text.reserved_tasks.values()}
        return {**(text.expert_groups or {}), **reserved}
    order = certificate.details.get("expert_order", []) if certificate else []
    return {key: [n for n, own in enumerate(order) if own == key] for key in dict.fromkeys(order) if key != "base"}


def training_load(logs: Sequence[Mapping[str, Any]]) -> tuple[list[Load], list[Load], str]:
    """Read the load of a training, by sparse layer: of its second half, of its first log, and in words what it is of.

    Args:
        logs: Lines of `metrics.jsonl`; those without a load, of validation rows or of the end, are passed over.
    """
    lines = [log for log in logs if log.get("load")]
    if not lines:
        return [], [], ""
    last = lines[-1]["step"]
    late = [line for line in lines if line["step"] > last / 2]
    begin = max((line["step"] for line in lines if line["step"] <= last / 2), default=0) + 1
    return _by_layer(late), _by_layer(lines[:1]), f"steps {begin:,} to {last:,}"


def _by_layer(lines: Sequence[Mapping[str, Any]]) -> list[Load]:
    """Add up the loads of some logs, and lay them out layer -> modality -> target."""
    sums: dict[str, Tensor] = {}
    for line in lines:
        for key, counts in line["load"].items():
            sums[key] = sums.get(key, 0) + torch.tensor(counts)  # (L, E+N)
    depth = len(next(iter(sums.values())))
    return [{key: counts[layer].tolist() for key, counts in sums.items()} for layer in range(depth)]


def routed_shares(model: UniMoEForConditionalGeneration) -> dict[str, float]:
    """Count the parameters of experts and routers: their shares of all parameters, and of those that are active for a
    token.
    """
    text, counted = model.config.get_text_config(), count_parameters(model)
    all_experts = active = routers = 0
    for _, block in sparse_blocks(model):
        sizes = sorted((size for stack in block.expert_stacks for size in stack.expert_sizes()), reverse=True)
        chosen = len(sizes) if text.router_type == "soft" else text.num_experts_per_tok
        all_experts, active = all_experts + sum(sizes), active + sum(sizes[:chosen])
        routers += sum(parameter.numel() for parameter in router_parameters(block))
    return {
        "parameters": (all_experts + routers) / counted["total"],
        "active": (active + routers) / counted["active"],
    }


def modalities_of_key(key: str) -> list[str]:
    """Modalities whose tokens belong to a group or specialist of this key: films belong to pictures."""
    return [modality.key for modality in Modality if key in (modality.key, modality.encoder_key)]


def numbers(layers: Iterable[LayerFacts]) -> tuple[int, ...]:
    """Return the numbers of layers."""
    return tuple(layer.layer for layer in layers)


__all__ = [
    "Evidence",
    "LayerFacts",
    "Load",
    "MixtureFacts",
    "TaskGradients",
    "collect_facts",
    "modalities_of_key",
    "numbers",
    "total",
]
