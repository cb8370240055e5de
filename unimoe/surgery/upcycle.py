"""Upcycle: a dense model becomes a mixture of experts that computes the same, each expert a copy of the feed-forward.

Komatsuzaki et al. 2022, Sparse Upcycling, arXiv 2212.05055, section 3. Equal experts give the dense output times the
sum of the token's combine weights: the dense model exactly if that sum is 1, whatever the router says. For the same
reason the router gets no gradient from the language loss at first: its random choice, or `noise`, parts the experts.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from ..configuration.moe import ModalityRouting
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, SparseMoeBlock
from .certificate import Certificate
from .dense_sources import (
    TOLERANCE,
    Source,
    load_dense,
    model_like,
    probe_block,
    relative_difference,
    source_name,
)
from .initialise import draw_router, fill_experts, fill_shared_expert, redraw_channels
from .recipe import COPIES, Recipe


def upcycle(
    dense: Source,
    *,
    num_experts: int = 4,
    num_experts_per_tok: int = 2,
    recipe: Recipe = COPIES,
    norm_topk_prob: bool = True,
    routed_scaling_factor: float = 1.0,
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

    Args:
        dense: Model, or its folder.
        num_experts: Experts of each sparse layer (E).
        num_experts_per_tok: Experts that each token passes (K).
        recipe: What the experts begin as. LoRA experts begin as copies.
        norm_topk_prob: Renormalise the weights of the chosen experts to a sum of 1; else, if K < E, outputs shrink.
        routed_scaling_factor: Of the combine weights. E / K makes up on average for outputs that shrink.
        num_null_experts: Router targets that compute nothing; they shrink the output too.
        modality_routing: `shared`, `bias` or `separate`; see `MoEConfig`. Isolated groups come from `assemble`.
        moe_layers: Layers that become sparse. None: all.
        expert_type: `mlp`: copies. `lora`: one frozen copy, changed by each expert (MixLoRA, arXiv 2404.15159).
        expert_rank: Of `lora`.
        noise: Standard deviation of what is added to each copy, relative to that of the matrix.
        exact: Refuse settings under which the result differs from the dense model.
        seed: Seed of the router, N(0, initializer_range), of the noise and of what a recipe draws.

    Returns:
        The model in evaluation mode, and a certificate: `exact`, or `measured` on random hidden states, the largest
        difference of any layer.

    Raises:
        ValueError: If the source is not dense, or under `exact` the result differs; the message gives the difference.
    """
    fields: dict[str, Any] = {"num_experts": num_experts, "num_experts_per_tok": num_experts_per_tok}
    fields |= {"norm_topk_prob": norm_topk_prob, "routed_scaling_factor": routed_scaling_factor * recipe.pieces}
    fields |= {"num_null_experts": num_null_experts, "modality_routing": modality_routing}
    fields |= {"moe_layers": None if moe_layers is None else sorted(moe_layers)}
    fields |= {"expert_type": expert_type, "expert_rank": expert_rank}
    _check_arguments(recipe, fields, noise)
    source = load_dense(dense, role="upcycled")
    model = model_like(source, _moe_config(source.config, recipe, fields))
    difference = _upcycle_layers(model, source, recipe, noise, torch.Generator().manual_seed(seed))
    return model, _certificate(model, dense, difference, recipe, noise, exact=exact)


def _check_arguments(recipe: Recipe, fields: dict[str, Any], noise: float) -> None:
    if noise and fields["expert_type"] == "lora":
        raise ValueError("noise is added to copies; LoRA experts share one, which stays as it is.")
    if recipe != COPIES and fields["expert_type"] == "lora":
        raise ValueError(
            f"LoRA experts change one copy of the whole feed-forward. Use expert_type='mlp' for {recipe}."
        )
    if fields["modality_routing"] in ("isolated", "semi_isolated"):
        raise ValueError("upcycle makes equal experts, which no modality owns. For isolated routing use assemble.")


def _moe_config(dense: UniMoEConfig, recipe: Recipe, fields: dict[str, Any]) -> UniMoEConfig:
    values = dense.to_dict()
    text = values["text_config"]
    text |= recipe.fields(text["intermediate_size"], fields["num_experts"], fields["num_experts_per_tok"]) | fields
    return UniMoEConfig.from_dict(values)


def _upcycle_layers(
    model: UniMoEForConditionalGeneration,
    dense: UniMoEForConditionalGeneration,
    recipe: Recipe,
    noise: float,
    generator: torch.Generator,
) -> float:
    """Fill the experts of every sparse layer and draw its router; return the largest difference of a layer."""
    difference, std = 0.0, model.config.text_config.initializer_range
    for layer, dense_layer in zip(model.model.language_model.layers, dense.model.language_model.layers, strict=True):
        block, mlp = layer.mlp, dense_layer.mlp
        if isinstance(block, SparseMoeBlock):
            copies, skip = [mlp] * (block.experts.num_experts // recipe.pieces), recipe.shared_expert_intermediate_size
            fill_experts(block, copies, base=mlp, noise=noise, generator=generator, skip=skip)
            if isinstance(block.experts, Experts):
                redraw_channels(block.experts, recipe.drop_ratio, generator)
            fill_shared_expert(block, mlp)
            draw_router(block, std, generator, repeats=recipe.repeats)
            expected, actual = probe_block(block, mlp, generator)
            difference = max(difference, relative_difference(actual, expected))
    return difference


def _cures(text: UniMoETextConfig, recipe: Recipe, noise: float) -> list[str]:
    """List what must be set for copies to add up to the dense output; nothing if they do."""
    shrinks = not text.norm_topk_prob and text.num_experts_per_tok < text.num_experts
    wrong = {
        "norm_topk_prob=True": shrinks,
        "routed_scaling_factor=1": text.routed_scaling_factor != recipe.pieces,
        "num_null_experts=0": text.num_null_experts > 0,
        "noise=0": noise != 0,
        "drop_ratio=0": recipe.drop_ratio > 0,
        "virtual_groups=True": recipe.pieces > 1 and not recipe.virtual_groups,
    }
    return [cure for cure, is_wrong in wrong.items() if is_wrong]


def _certificate(
    model: UniMoEForConditionalGeneration,
    dense: Source,
    difference: float,
    recipe: Recipe,
    noise: float,
    *,
    exact: bool,
) -> Certificate:
    """State what holds; refuse what was asked to be exact and is not."""
    text, tolerance = model.config.text_config, TOLERANCE[model.dtype]
    cures = _cures(text, recipe, noise)
    if not cures and difference > tolerance:
        raise ValueError(
            f"A layer differs from the dense one by {difference:.2e} > {tolerance:.0e}: this is a defect."
        )
    if cures and exact:
        raise ValueError(
            f"This upcycling is not exact: a layer differs from the dense one by {difference:.2g} of its largest "
            f"output. Use {', '.join(cures)}, or pass exact=False."
        )
    claim = "At upcycling, before any training, the model computes what the dense model computed"
    return Certificate(
        operation="upcycle",
        kind="measured" if cures else "exact",
        claim=f"{claim}, up to the difference in any one layer." if cures else f"{claim}.",
        difference=difference,
        details={
            "dense": source_name(dense),
            "num_experts": text.num_experts,
            "num_experts_per_tok": text.num_experts_per_tok,
            "recipe": asdict(recipe),
            "norm_topk_prob": text.norm_topk_prob,
            "routed_scaling_factor": text.routed_scaling_factor,
            "num_null_experts": text.num_null_experts,
            "modality_routing": text.modality_routing,
            "moe_layers": text.moe_layers,
            "expert_type": text.expert_type,
            "noise": noise,
            "measured_on": "64 random hidden states of unit scale in each sparse layer",
        },
    )
