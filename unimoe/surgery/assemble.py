"""Assemble: dense specialists, one for each modality, become the experts of one mixture-of-experts model.

Expert 0 is the base model's feed-forward, then one expert for each specialist, in the order given. Attention, norms
and embeddings come from the base; the encoder and connector of a modality come from its specialist, which was trained
with them. (Li et al. 2024, Uni-MoE, arXiv 2405.11273, section 3.2: modality-specific experts, then unified training.)
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..configuration_unimoe import ModalityRouting, UniMoEConfig
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, GatedMLP, SparseMoeBlock
from .certificate import Certificate

Source = str | Path | UniMoEForConditionalGeneration
TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def assemble(
    base: Source,
    experts: Mapping[str, Source],
    *,
    num_experts_per_tok: int = 2,
    modality_routing: ModalityRouting = "bias",
    router_bias: float = 1.0,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Build one mixture of experts from a dense base and its dense specialists.

    Args:
        base: Dense model (or its folder) that all specialists started from.
        experts: Modality key (`image`, `audio`, `speech`) -> dense specialist (or its folder).
        num_experts_per_tok: Experts that each token passes.
        modality_routing: With `bias`, tokens of a modality start with `router_bias` added to the logit of their own
            expert; with `isolated`, they see only the base's expert and their own.
        router_bias: Initial advantage of a token's own expert, in logits.
        seed: Seed of the router's random initialisation, N(0, initializer_range).

    Returns:
        The model in evaluation mode, and a certificate that every expert computes what its source computed.

    Raises:
        ValueError: If a source is not dense, or if sources differ in architecture; both are named.
    """
    base_model, specialists = _load(base), {key: _load(source) for key, source in experts.items()}
    _check_sources(base_model, specialists)
    config = _moe_config(base_model.config, list(specialists), num_experts_per_tok, modality_routing)
    model = UniMoEForConditionalGeneration._from_config(config, dtype=base_model.dtype).eval()
    model.generation_config = copy.deepcopy(base_model.generation_config)
    _copy_dense_parts(model, base_model, specialists)
    sources = [base_model, *specialists.values()]
    generator = torch.Generator().manual_seed(seed)
    differences = []
    for index, layer in enumerate(model.model.language_model.layers):
        feed_forwards = [source.model.language_model.layers[index].mlp for source in sources]
        _fill_experts(layer.mlp.experts, feed_forwards)
        _init_router(layer.mlp, list(specialists), router_bias, config.text_config.initializer_range, generator)
        differences.append(_largest_difference(layer.mlp.experts, feed_forwards, generator))
    return model, _certificate(max(differences), base, experts, model)


def _load(source: Source) -> UniMoEForConditionalGeneration:
    if isinstance(source, UniMoEForConditionalGeneration):
        return source
    return UniMoEForConditionalGeneration.from_pretrained(source)


def _check_sources(
    base: UniMoEForConditionalGeneration, specialists: dict[str, UniMoEForConditionalGeneration]
) -> None:
    if not specialists:
        raise ValueError("assemble needs at least one specialist, e.g. experts={'image': 'runs/expert-image'}.")
    expected = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    for key, model in {"base": base, **specialists}.items():
        if key != "base" and Modality.from_key(key).encoder_key != key:
            raise ValueError(f"{key!r} has no encoder of its own; use {base.config.encoder_keys}.")
        if model.config.text_config.num_experts:
            raise ValueError(
                f"The {key} model already has {model.config.text_config.num_experts} experts; pass a dense one."
            )
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
    base: UniMoEConfig, keys: list[str], num_experts_per_tok: int, modality_routing: ModalityRouting
) -> UniMoEConfig:
    values = base.to_dict()
    isolated = modality_routing == "isolated"
    groups = {key: [0, expert] for expert, key in enumerate(keys, start=1)}
    if "image" in groups:
        groups["video"] = groups["image"]
    values["text_config"] |= {
        "num_experts": len(keys) + 1,
        "num_experts_per_tok": num_experts_per_tok,
        "moe_intermediate_size": values["text_config"]["intermediate_size"],
        "norm_topk_prob": True,
        "modality_routing": modality_routing,
        "expert_groups": groups if isolated else None,
        "router_aux_loss_scope": "modality" if isolated else "layer",
    }
    return UniMoEConfig.from_dict(values)


@torch.no_grad()
def _copy_dense_parts(
    model: UniMoEForConditionalGeneration,
    base: UniMoEForConditionalGeneration,
    specialists: dict[str, UniMoEForConditionalGeneration],
) -> None:
    """Copy everything but the feed-forwards: media parts from their specialist, the rest from the base."""
    target = model.state_dict()
    states = {key: source.state_dict() for key, source in specialists.items()}
    for name, value in base.state_dict().items():
        if name not in target:
            continue
        owner = next((key for key in states if f"encoders.{key}." in name or f"connectors.{key}." in name), None)
        target[name].copy_(states[owner][name] if owner else value)


@torch.no_grad()
def _fill_experts(experts: Experts, feed_forwards: list[GatedMLP]) -> None:
    for index, mlp in enumerate(feed_forwards):
        experts.gate_up_proj[index].copy_(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]))
        experts.down_proj[index].copy_(mlp.down_proj.weight)


@torch.no_grad()
def _init_router(
    block: SparseMoeBlock, keys: list[str], router_bias: float, std: float, generator: torch.Generator
) -> None:
    router = block.router
    router.weight.copy_(torch.randn(router.weight.shape, generator=generator) * std)
    if router.modality_bias is None:
        return
    router.modality_bias.zero_()
    for modality in Modality:
        key = modality.encoder_key
        router.modality_bias[modality, 1 + keys.index(key) if key in keys else 0] = router_bias


@torch.no_grad()
def _largest_difference(experts: Experts, feed_forwards: list[GatedMLP], generator: torch.Generator) -> float:
    """Compare each expert with its source on random hidden states, relative to the largest output."""
    probe = torch.randn(64, experts.hidden_dim, generator=generator).to(experts.down_proj)  # (T, D)
    weights = torch.ones(len(probe), 1).to(probe)
    largest = 0.0
    for index, mlp in enumerate(feed_forwards):
        expected: Tensor = mlp(probe)
        actual = experts(probe, torch.full((len(probe), 1), index), weights)
        largest = max(largest, float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)))
    return largest


def _certificate(
    difference: float, base: Source, experts: Mapping[str, Source], model: UniMoEForConditionalGeneration
) -> Certificate:
    tolerance = TOLERANCE[model.dtype]
    if difference > tolerance:
        raise ValueError(f"An expert differs from its source by {difference:.2e} > {tolerance:.0e}: this is a defect.")

    def name(source: Source) -> str:
        return str(source.name_or_path) if isinstance(source, nn.Module) else str(source)

    return Certificate(
        operation="assemble",
        kind="exact",
        claim="At assembly, before any training, each expert computes the feed-forward of its source.",
        difference=difference,
        details={
            "base": name(base),
            "experts": {key: name(source) for key, source in experts.items()},
            "expert_order": ["base", *experts],
            "num_experts_per_tok": model.config.text_config.num_experts_per_tok,
            "modality_routing": model.config.text_config.modality_routing,
        },
    )
