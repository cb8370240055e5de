"""Assemble: dense specialists, one for each modality, become the experts of one mixture-of-experts model.

Expert 0 is the base model's feed-forward, then one expert for each specialist, in the order given. Attention, norms
and embeddings come from the base; the encoder and connector of a modality come from its specialist, which was trained
with them. (Li et al. 2024, Uni-MoE, arXiv 2405.11273, section 3.2: modality-specific experts, then unified training.)
"""

from collections.abc import Mapping
from typing import Any

import torch

from ..configuration_moe import ModalityRouting
from ..configuration_unimoe import UniMoEConfig
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, GatedMLP, SparseMoeBlock
from .certificate import Certificate
from .dense_sources import (
    TOLERANCE,
    Source,
    draw_router,
    fill_experts,
    load_dense,
    mlp_experts,
    probe_states,
    relative_difference,
    source_name,
    sparse_like,
)

# Fields of the configuration that follow from the specialists, or whose weights no specialist has.
_DECIDED = {
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "expert_type",
    "modality_routing",
    "expert_groups",
    "expert_group_intermediate_sizes",
    "shared_expert_intermediate_size",
}


def assemble(
    base: Source,
    experts: Mapping[str, Source],
    *,
    num_experts_per_tok: int = 2,
    modality_routing: ModalityRouting = "bias",
    moe: Mapping[str, Any] | None = None,
    router_bias: float = 1.0,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Build one mixture of experts from a dense base and its dense specialists.

    Args:
        base: Dense model (or its folder) that all specialists started from.
        experts: Modality key (`image`, `audio`, `speech`) -> dense specialist (or its folder).
        num_experts_per_tok: Experts that each token passes.
        modality_routing: With `bias`, tokens of a modality start with `router_bias` added to the logit of their own
            expert; with `semi_isolated`, they see only the base's expert and their own; with `isolated`, their own.
        moe: Further fields of `MoEConfig`, e.g. `{"router_type": "top_p", "num_null_experts": 1}`.
        router_bias: Initial advantage of a token's own expert, in logits.
        seed: Seed of the router's random initialisation, N(0, initializer_range).

    Returns:
        The model in evaluation mode, and a certificate that every expert computes what its source computed.

    Raises:
        ValueError: If a source is not dense, or if sources differ in architecture; both are named. If `moe` has a
            field that assembly decides, or that fits no other.
    """
    base_model = load_dense(base, role="base")
    specialists = {key: load_dense(source, role=key) for key, source in experts.items()}
    _check_sources(base_model, specialists)
    config = _moe_config(base_model.config, list(specialists), num_experts_per_tok, modality_routing, moe or {})
    model = sparse_like(base_model, config)
    _copy_media_parts(model, specialists)
    sources = [base_model, *specialists.values()]
    generator = torch.Generator().manual_seed(seed)
    differences = []
    for index, layer in enumerate(model.model.language_model.layers):
        if not isinstance(layer.mlp, SparseMoeBlock):
            continue
        feed_forwards = [source.model.language_model.layers[index].mlp for source in sources]
        stacked = mlp_experts(layer.mlp)
        fill_experts(stacked, feed_forwards)
        draw_router(layer.mlp, config.text_config.initializer_range, generator)
        _prefer_own_expert(layer.mlp, list(specialists), router_bias)
        differences.append(_largest_difference(stacked, feed_forwards, generator))
    return model, _certificate(max(differences), base, experts, model)


def _check_sources(
    base: UniMoEForConditionalGeneration, specialists: dict[str, UniMoEForConditionalGeneration]
) -> None:
    if not specialists:
        raise ValueError("assemble needs at least one specialist, e.g. experts={'image': 'runs/expert-image'}.")
    expected = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    for key, model in {"base": base, **specialists}.items():
        if key != "base" and Modality.from_key(key).encoder_key != key:
            raise ValueError(f"{key!r} has no encoder of its own; use {base.config.encoder_keys}.")
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        if differing := sorted(
            name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)
        ):
            name = differing[0]
            raise ValueError(
                f"The {key} specialist does not fit the base: {name} is {shapes.get(name)} against "
                f"{expected.get(name)}. "
                "All specialists must have started from this base."
            )


def _moe_config(
    base: UniMoEConfig,
    keys: list[str],
    num_experts_per_tok: int,
    modality_routing: ModalityRouting,
    moe: Mapping[str, Any],
) -> UniMoEConfig:
    """Describe the mixture: what assembly decides, and further fields.

    Raises:
        ValueError: If a further field is one that assembly decides.
    """
    if decided := sorted(moe.keys() & _DECIDED):
        raise ValueError(f"moe: {', '.join(decided)} cannot be given; the specialists decide what the experts are.")
    values = base.to_dict()
    groups = {key: [expert] for expert, key in enumerate(keys, start=1)}
    if modality_routing == "isolated":
        groups["text"] = [0]
    isolated = modality_routing in ("isolated", "semi_isolated")
    values["text_config"] |= {
        "num_experts": len(keys) + 1,
        "num_experts_per_tok": num_experts_per_tok,
        "moe_intermediate_size": values["text_config"]["intermediate_size"],
        "norm_topk_prob": True,
        "modality_routing": modality_routing,
        "expert_groups": groups if isolated else None,
        "router_aux_loss_scope": "modality" if isolated else "layer",
        **moe,
    }
    return UniMoEConfig.from_dict(values)


@torch.no_grad()
def _copy_media_parts(
    model: UniMoEForConditionalGeneration, specialists: dict[str, UniMoEForConditionalGeneration]
) -> None:
    """Copy the encoder and the connector of a modality from its specialist."""
    places = model.state_dict()
    for key, source in specialists.items():
        for name, value in source.state_dict().items():
            if f"encoders.{key}." in name or f"connectors.{key}." in name:
                places[name].copy_(value)


@torch.no_grad()
def _prefer_own_expert(block: SparseMoeBlock, keys: list[str], router_bias: float) -> None:
    """Give the tokens of each modality an advantage at their own expert."""
    bias = block.router.modality_bias
    if bias is None:
        return
    bias.zero_()
    for modality in Modality:
        key = modality.encoder_key
        bias[modality, 1 + keys.index(key) if key in keys else 0] = router_bias


@torch.no_grad()
def _largest_difference(experts: Experts, feed_forwards: list[GatedMLP], generator: torch.Generator) -> float:
    """Compare each expert with its source on random hidden states, relative to the largest output."""
    probe = probe_states(experts.hidden_dim, experts.down_proj, generator)
    weights = torch.ones(len(probe), 1).to(probe)
    return max(
        relative_difference(experts(probe, torch.full((len(probe), 1), index), weights), mlp(probe))
        for index, mlp in enumerate(feed_forwards)
    )


def _certificate(
    difference: float, base: Source, experts: Mapping[str, Source], model: UniMoEForConditionalGeneration
) -> Certificate:
    tolerance = TOLERANCE[model.dtype]
    if difference > tolerance:
        raise ValueError(f"An expert differs from its source by {difference:.2e} > {tolerance:.0e}: this is a defect.")

    return Certificate(
        operation="assemble",
        kind="exact",
        claim="At assembly, before any training, each expert computes the feed-forward of its source.",
        difference=difference,
        details={
            "base": source_name(base),
            "experts": {key: source_name(source) for key, source in experts.items()},
            "expert_order": ["base", *experts],
            "num_experts_per_tok": model.config.text_config.num_experts_per_tok,
            "modality_routing": model.config.text_config.modality_routing,
        },
    )
