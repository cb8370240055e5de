"""Upcycle: a dense model becomes a mixture of experts that computes the same, each expert a copy of the feed-forward.

Komatsuzaki et al. 2022, Sparse Upcycling, arXiv 2212.05055, section 3. Equal experts give the dense output times the
sum of the token's combine weights: the dense model exactly if that sum is 1, whatever the router says.
"""

from collections.abc import Sequence
from typing import Literal

import torch

from ..configuration.moe import ModalityRouting
from ..configuration_unimoe import UniMoEConfig
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import GatedMLP, RoutingContext, SparseMoeBlock
from .certificate import Certificate
from .dense_sources import (
    TOLERANCE,
    Source,
    load_dense,
    probe_states,
    relative_difference,
    source_name,
    sparse_like,
)
from .initialise import draw_router, fill_experts


def upcycle(
    dense: Source,
    *,
    num_experts: int = 4,
    num_experts_per_tok: int = 2,
    norm_topk_prob: bool = True,
    num_null_experts: int = 0,
    modality_routing: ModalityRouting = "shared",
    moe_layers: Sequence[int] | None = None,
    expert_type: Literal["mlp", "lora"] = "mlp",
    expert_rank: int = 8,
    noise: float = 0.0,
    exact: bool = True,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Turn the feed-forwards of a dense model into experts.

    Equal experts give the router no gradient from the language loss at first; random routing or `noise` parts them.

    Args:
        dense: Model, or its folder.
        num_experts: Experts of each sparse layer (E).
        num_experts_per_tok: Experts that each token passes (K).
        norm_topk_prob: Renormalise the weights of the chosen experts to a sum of 1; else, if K < E, outputs shrink.
        num_null_experts: Router targets that compute nothing; they shrink the output too.
        modality_routing: `shared`, `bias` or `separate`; see `MoEConfig`. Isolated groups come from `assemble`.
        moe_layers: Layers that become sparse. None: all.
        expert_type: `mlp`: copies. `lora`: one frozen copy, changed by each expert (MixLoRA, arXiv 2404.15159).
        expert_rank: Of `lora`.
        noise: Standard deviation of what is added to each copy, relative to that of the matrix.
        exact: Refuse settings under which the result differs from the dense model.
        seed: Seed of the router, N(0, initializer_range), and of the noise.

    Returns:
        The model in evaluation mode, and a certificate: `exact`, or `measured` on random hidden states, the largest
        difference of any layer.

    Raises:
        ValueError: If the source is not dense, or under `exact` the result differs; the message gives the difference.
    """
    if noise and expert_type == "lora":
        raise ValueError("noise is added to copies; LoRA experts share one, which stays as it is.")
    if modality_routing in ("isolated", "semi_isolated"):
        raise ValueError("upcycle makes equal experts, which no modality owns. For isolated routing use assemble.")
    source = load_dense(dense, role="upcycled")
    config = _moe_config(
        source.config,
        num_experts=num_experts,
        num_experts_per_tok=num_experts_per_tok,
        norm_topk_prob=norm_topk_prob,
        num_null_experts=num_null_experts,
        modality_routing=modality_routing,
        moe_layers=None if moe_layers is None else sorted(moe_layers),
        expert_type=expert_type,
        expert_rank=expert_rank,
    )
    model = sparse_like(source, config)
    difference = _upcycle_layers(model, source, noise, torch.Generator().manual_seed(seed))
    keeps = noise == 0 and num_null_experts == 0 and (norm_topk_prob or num_experts_per_tok == num_experts)
    return model, _certificate(source, dense, config, difference, keeps=keeps, exact=exact, noise=noise)


def _moe_config(dense: UniMoEConfig, **fields: object) -> UniMoEConfig:
    values = dense.to_dict()
    values["text_config"] |= {"moe_intermediate_size": values["text_config"]["intermediate_size"], **fields}
    return UniMoEConfig.from_dict(values)


def _upcycle_layers(
    model: UniMoEForConditionalGeneration,
    dense: UniMoEForConditionalGeneration,
    noise: float,
    generator: torch.Generator,
) -> float:
    """Fill the experts of every sparse layer and draw its router; return the largest difference of a layer."""
    difference = 0.0
    for layer, dense_layer in zip(model.model.language_model.layers, dense.model.language_model.layers, strict=True):
        if isinstance(layer.mlp, SparseMoeBlock):
            copies = [dense_layer.mlp] * layer.mlp.experts.num_experts
            fill_experts(layer.mlp, copies, base=dense_layer.mlp, noise=noise, generator=generator)
            draw_router(layer.mlp, model.config.text_config.initializer_range, generator)
            difference = max(difference, _difference(layer.mlp, dense_layer.mlp, generator))
    return difference


@torch.no_grad()
def _difference(block: SparseMoeBlock, mlp: GatedMLP, generator: torch.Generator) -> float:
    """Compare the sparse feed-forward with the dense one on hidden states of all modalities."""
    probe = probe_states(mlp.down_proj.out_features, mlp.down_proj.weight, generator)
    modalities = torch.arange(len(probe)) % len(Modality)
    return relative_difference(block(probe[None], RoutingContext(modalities))[0], mlp(probe))


def _certificate(
    source: UniMoEForConditionalGeneration,
    name: Source,
    config: UniMoEConfig,
    difference: float,
    *,
    keeps: bool,
    exact: bool,
    noise: float,
) -> Certificate:
    """State what holds; refuse what was asked to be exact and is not."""
    text, tolerance = config.text_config, TOLERANCE[source.dtype]
    if keeps and difference > tolerance:
        raise ValueError(
            f"A layer differs from the dense one by {difference:.2e} > {tolerance:.0e}: this is a defect."
        )
    if exact and not keeps:
        raise ValueError(
            f"This upcycling is not exact: a layer differs from the dense one by {difference:.2g} of its largest "
            "output. Use norm_topk_prob=True, num_null_experts=0 and noise=0, or pass exact=False."
        )
    claim = "At upcycling, before any training, the model computes what the dense model computed"
    return Certificate(
        operation="upcycle",
        kind="exact" if keeps else "measured",
        claim=f"{claim}." if keeps else f"{claim}, up to the difference in any one layer.",
        difference=difference,
        details={
            "dense": source_name(name),
            "num_experts": text.num_experts,
            "num_experts_per_tok": text.num_experts_per_tok,
            "norm_topk_prob": text.norm_topk_prob,
            "num_null_experts": text.num_null_experts,
            "modality_routing": text.modality_routing,
            "moe_layers": text.moe_layers,
            "expert_type": text.expert_type,
            "noise": noise,
            "measured_on": "64 random hidden states of unit scale in each sparse layer",
        },
    )
