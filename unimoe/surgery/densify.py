"""Densify: a mixture of experts becomes a dense model, whose feed-forwards are made of the experts of each layer.

A dense feed-forward treats all tokens alike, so each expert gets one gate for all of them. This computes what the
mixture computed where its weights are the same for every token, or all its experts are equal; else the difference is
measured. Each layer is put together, and compared, in float64. E experts, I width, D hidden size, T tokens.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..checkpoint.loading import load_model
from ..configuration.moe import MoEConfig
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, GatedMLP, SparseMoeBlock
from ..moe.experts import AnyExperts, GroupedExperts
from ..moe.experts.assignments import LINEARS
from ..moe.experts.latent import LatentExperts
from ..moe.experts.lora import LoRAExperts
from .certificate import Certificate
from .dense_sources import (
    TOLERANCE,
    Source,
    model_like,
    probe_block,
    probe_context,
    probe_states,
    relative_difference,
    source_name,
)

Densification = Literal["concatenate", "average", "extract"]

# When each is exact.
_EXACT: dict[Densification, str] = {
    "concatenate": "Experts side by side are exact where each has one weight for all tokens, or all are equal.",
    "average": "The average is exact where all experts are equal.",
    "extract": "One expert is exact where all are equal.",
}
# Fields of sparse layers alone, which go back to their defaults.
_SPARSE = MoEConfig.__annotations__.keys() - {"hidden_size", "intermediate_size", "num_hidden_layers"}


class _Channels(NamedTuple):
    """Inner channels of a feed-forward: what each reads, twice, and what it writes, (I, D) each."""

    gate: Tensor
    up: Tensor
    down: Tensor

    def times(self, factor: Tensor) -> "_Channels":
        """Scale what they write: all of it, or by factors (I, 1)."""
        return self._replace(down=self.down * factor)


def densify(
    model: Source,
    *,
    how: Densification = "concatenate",
    weights: Sequence[float] | None = None,
    expert: int | None = None,
    exact: bool = True,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Turn the experts of every sparse layer into one feed-forward.

    Shared experts become further channels of it, in each case. LoRA and latent experts are multiplied out first.

    Args:
        model: A mixture of experts, or its folder. It stays as it is.
        how: `concatenate`: all experts side by side, each times its gate. `average`: the mean of their weights.
            `extract`: one expert. The last two are scaled by the sum of the gates.
        weights: Of the experts, in all layers; their sum plays no part. None: for `concatenate` the gates, the mean
            weight that the router gives each expert for random hidden states of all modalities; else equal ones.
        expert: Index of the one to `extract`, in all layers.
        exact: Refuse a result that differs from the mixture.
        seed: Of the random hidden states.

    Returns:
        The dense model in evaluation mode, and a certificate: `exact`, or `measured`, the largest difference of any
        layer on random hidden states. Where layers need fewer channels than others, the rest of theirs are 0.

    Raises:
        ValueError: If the model is dense, its tokens do not choose by themselves, or arguments do not fit it; or under
            `exact` if the result differs, with the difference.
    """
    source = model if isinstance(model, UniMoEForConditionalGeneration) else load_model(model)
    _check_model(source.config.text_config)
    _check_arguments(source.config.text_config, how, weights, expert)
    layers = range(source.config.text_config.num_hidden_layers)
    feed_forwards = tuple(f"model.language_model.layers.{index}.mlp." for index in layers)
    dense = model_like(source, _dense_config(source.config, how, expert), without=feed_forwards)
    chosen = {"how": how, "weights": None if weights is None else list(weights), "expert": expert}
    difference = _fill_layers(dense, source, chosen, torch.Generator().manual_seed(seed))
    return dense, _certificate(source, dense, difference, {"mixture": source_name(model), **chosen}, exact=exact)


def _check_model(text: UniMoETextConfig) -> None:
    if text.num_experts == 0:
        raise ValueError("The model has no experts; densify takes a mixture of experts.")
    if text.reserved_experts:
        raise ValueError("Some experts are reserved, and a dense model has no modality or task to open them to.")
    if obstacle := text.generation_obstacle:
        raise ValueError(f"A dense model treats each token by itself, and this mixture does not: {obstacle}.")
    if text._experts_implementation == LINEARS:
        raise ValueError("The experts are seen as linear maps. Call fold_experts first.")


def _check_arguments(
    text: UniMoETextConfig, how: Densification, weights: Sequence[float] | None, expert: int | None
) -> None:
    if how not in _EXACT:
        raise ValueError(f"how is {how!r}; choose {', '.join(_EXACT)}.")
    if (how == "extract") != (expert is not None):
        raise ValueError("expert is the index for how='extract': give it there, and there alone.")
    if expert is not None and not 0 <= expert < text.num_experts:
        raise ValueError(f"expert is {expert}, but there are {text.num_experts} experts (0-based).")
    if how == "average" and len(widths := sorted(set(text.expert_widths()))) > 1:
        raise ValueError(f"The experts are {widths} channels wide, which have no average. Concatenate or extract.")
    if weights is None:
        return
    if how == "extract":
        raise ValueError("weights are for how='concatenate' and how='average'; 'extract' takes one expert.")
    if len(weights) != text.num_experts:
        raise ValueError(f"Found {len(weights)} weight(s) for {text.num_experts} experts. Give one for each.")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights are {list(weights)}; none may be negative, and not all 0.")


def _dense_config(mixture: UniMoEConfig, how: Densification, expert: int | None) -> UniMoEConfig:
    text, values = mixture.text_config, mixture.to_dict()
    widths = text.expert_widths()
    width = sum(widths) if how == "concatenate" else widths[expert or 0]
    width += text.num_shared_experts * text.shared_expert_intermediate_size
    if not all(text.is_sparse(index) for index in range(text.num_hidden_layers)):
        width = max(width, text.intermediate_size)
    values["text_config"] = {name: value for name, value in values["text_config"].items() if name not in _SPARSE}
    values["text_config"]["intermediate_size"] = width
    return UniMoEConfig.from_dict(values)


@torch.no_grad()
def _fill_layers(
    dense: UniMoEForConditionalGeneration,
    source: UniMoEForConditionalGeneration,
    chosen: dict[str, Any],
    generator: torch.Generator,
) -> float:
    """Fill every feed-forward; return the largest difference of one to its sparse layer, before it is rounded."""
    difference = 0.0
    for dense_layer, layer in zip(dense.model.language_model.layers, source.model.language_model.layers, strict=True):
        mlp, given = (copy.deepcopy(each.mlp).double().eval() for each in (dense_layer, layer))
        if isinstance(given, SparseMoeBlock):
            given.config._experts_implementation = "eager"  # of the copy, which is in float64
            routed, shared = _mean_weights(given, generator)
            _fill(mlp, [*_routed_channels(given, routed, **chosen), *_shared_channels(given, shared)])
            actual, expected = probe_block(given, mlp, generator)
            difference = max(difference, relative_difference(actual, expected))
        else:
            _fill(mlp, [_channels(given)])
        dense_layer.mlp.load_state_dict(mlp.state_dict())
    return difference


def _mean_weights(block: SparseMoeBlock, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Average the weights of random hidden states: of each expert (E,), and of each shared expert (n,)."""
    config = block.config
    states = probe_states(config.hidden_size, torch.empty((), dtype=torch.float64), generator)
    routing = block.router(states, probe_context(states, config.vocab_size))
    shared = states.new_ones(config.num_shared_experts)
    if routing.shared_weights is not None:
        shared = routing.shared_weights.mean(dim=0)
    elif block.shared_expert_gate is not None:
        shared = shared * block.shared_expert_gate(states).sigmoid().mean()
    return routing.record.router_gates[:, : config.num_experts].mean(dim=0), shared


def _routed_channels(
    block: SparseMoeBlock, gates: Tensor, *, how: Densification, weights: Sequence[float] | None, expert: int | None
) -> list[_Channels]:
    """Make channels of experts (E) and their gates (E,)."""
    every, total = _expert_channels(block.experts), gates.sum()
    if block.aliases is not None:
        every = [every[expert] for expert in block.aliases]
    if expert is not None:
        return [every[expert].times(total)]
    shares = gates.new_tensor(weights or [1.0] * len(every))
    shares = shares / shares.sum()
    if how == "average":
        gate, up, down = (torch.tensordot(shares, torch.stack(own), dims=1) for own in zip(*every, strict=True))
        return [_Channels(gate, up, down).times(total)]
    gates = gates if weights is None else shares * total
    return [own.times(gate) for own, gate in zip(every, gates, strict=True)]


def _expert_channels(experts: AnyExperts) -> list[_Channels]:
    """List the channels of each expert, in order."""
    if isinstance(experts, GroupedExperts):
        found: dict[int, _Channels] = {}
        for members, group in zip(experts.members, experts.banks, strict=True):
            assert isinstance(group, Experts)
            found |= dict(zip(members, _expert_channels(group), strict=True))
        return [found[expert] for expert in range(experts.num_experts)]
    stack = experts.materialize() if isinstance(experts, LoRAExperts | LatentExperts) else experts
    gates, ups = stack.gate_up_proj.chunk(2, dim=1)
    return [_Channels(*matrices) for matrices in zip(gates, ups, stack.down_proj.mT, strict=True)]


def _shared_channels(block: SparseMoeBlock, gates: Tensor) -> list[_Channels]:
    if block.shared_expert is None:
        return []
    return [_channels(block.shared_expert).times(gates.repeat_interleave(block.shared_width)[:, None])]


def _channels(mlp: GatedMLP) -> _Channels:
    return _Channels(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T)


def _fill(mlp: GatedMLP, parts: Sequence[_Channels]) -> None:
    """Put channels side by side into a feed-forward that is at least as wide; the rest of it becomes 0."""
    for matrix, own in zip(_channels(mlp), zip(*parts, strict=True), strict=True):
        rows = torch.cat(own)
        matrix.zero_()[: len(rows)] = rows


def _certificate(
    source: UniMoEForConditionalGeneration,
    dense: UniMoEForConditionalGeneration,
    difference: float,
    details: dict[str, Any],
    *,
    exact: bool,
) -> Certificate:
    """State what holds; refuse what was asked to be exact and is not."""
    keeps = difference <= TOLERANCE[torch.float64]
    if exact and not keeps:
        raise ValueError(
            f"This densification is not exact: a layer differs from the mixture by {difference:.2g} of its largest "
            f"output. {_EXACT[details['how']]} Pass exact=False to have it measured."
        )
    text, claim = source.config.text_config, "Before any training, the dense model computes what the mixture computed"
    return Certificate(
        operation="densify",
        kind="exact" if keeps else "measured",
        claim=f"{claim}, but for rounding." if keeps else f"{claim}, up to the difference in any one layer.",
        difference=difference,
        details={
            **details,
            "num_experts": text.num_experts,
            "num_experts_per_tok": text.num_experts_per_tok,
            "expert_type": text.expert_type,
            "intermediate_size": dense.config.text_config.intermediate_size,
            "measured_on": "64 random hidden states of unit scale in each sparse layer, in float64",
        },
    )


__all__ = ["Densification", "densify"]
