"""Upcycle: a dense model becomes a mixture of experts that computes the same, each expert a copy of the feed-forward.

Komatsuzaki et al. 2022, Sparse Upcycling, arXiv 2212.05055, section 3. Equal experts give the dense output times the
sum of the token's combine weights: the dense model exactly if that sum is 1, whatever the router says. For the same
reason the router gets no gradient from the language loss at first: its random choice, or `noise`, parts the experts.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from ..checkpoint.loading import read_config
from ..configuration.moe import ModalityRouting
from ..configuration_unimoe import UniMoEConfig, UniMoETextConfig
from ..files.tensors import ShardWriter, open_weights
from ..files.writing import new_folder, require_new
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import Experts, GatedMLP, SparseMoeBlock
from ..moe.block import build_block
from .certificate import Certificate
from .dense_sources import (
    TOLERANCE,
    Source,
    load_dense,
    mapped_feed_forward,
    model_like,
    probe_block,
    relative_difference,
    require_dense,
    source_name,
)
from .folders import Draft, Losses, copy_settings
from .initialise import draw_router, fill_experts, fill_shared_expert, redraw_channels
from .recipe import COPIES, Recipe

FeedForward = Callable[[int], GatedMLP]
"""Gives the feed-forward of a dense layer by its index."""

_LAYERS = "model.language_model.layers."
_FIELDS = (
    "num_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "routed_scaling_factor",
    "num_null_experts",
    "modality_routing",
    "expert_type",
    "expert_rank",
)


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
    source = load_dense(dense, role="upcycled")
    plan = _Plan.of(source.config, locals())
    model = model_like(source, plan.config)
    difference = 0.0
    layers = source.model.language_model.layers
    for index, block, own in _blocks(plan, lambda index: layers[index].mlp):
        model.model.language_model.layers[index].mlp.load_state_dict(block.state_dict())
        difference = max(difference, own)
    return model, _certificate(plan, model.dtype, source_name(dense), difference)


def upcycle_folder(
    folder: str | Path, out: str | Path, *, dry_run: bool = False, **options: Any
) -> tuple[Draft, Certificate | None]:
    """Upcycle the dense model of a folder, one layer in memory at a time.

    Args:
        folder: Of the model.
        out: Of the new one, which is not there yet; what fails leaves none.
        dry_run: Stop at how far each layer would differ.
        **options: As for `upcycle`.

    Returns:
        What was decided, with the difference of each layer, and without `dry_run` the certificate.

    Raises:
        UniMoEError: If the folder cannot be read.
        ValueError: As `upcycle`.
    """
    if not dry_run:
        require_new(out)
    bound = signature(upcycle).bind(folder, **options)
    bound.apply_defaults()
    read_config(folder)  # which says in one line what is wrong with it
    config = UniMoEConfig.from_pretrained(folder)
    require_dense(config, role="upcycled")
    plan, weights = _Plan.of(config, bound.arguments), open_weights(Path(folder))

    def feed_forward(index: int) -> GatedMLP:
        return mapped_feed_forward(config.text_config, weights, f"{_LAYERS}{index}.mlp.", Path(folder))

    def certify(differences: Mapping[int, float]) -> tuple[Draft, Certificate]:
        dtype = weights[f"{_LAYERS}0.mlp.up_proj.weight"].dtype
        certificate = _certificate(plan, dtype, str(folder), max(differences.values(), default=0.0))
        losses: Losses = {index: {"all": {"difference": own}} for index, own in differences.items()}
        return Draft("upcycle", losses, partial(_write, plan, weights, feed_forward)), certificate

    if dry_run or (plan.exact and _cures(plan.config.text_config, plan.recipe, plan.noise)):  # which is refused
        draft, _ = certify({index: difference for index, _, difference in _blocks(plan, feed_forward)})
        return draft, None
    with new_folder(out) as work:
        draft, certificate = certify(_write(plan, weights, feed_forward, work))
        copy_settings(folder, work)
        certificate.save(work)
    return draft, certificate


def _write(plan: "_Plan", weights: Mapping[str, Tensor], feed_forward: FeedForward, out: Path) -> dict[int, float]:
    """Write what stays as it is, then layer by layer what is sparse, in the layout of checkpoints.

    Returns:
        Layer -> how far it differs from the dense one.
    """
    differences: dict[int, float] = {}
    text, writer = plan.config.text_config, ShardWriter(out)
    gone = tuple(f"{_LAYERS}{index}.mlp." for index in range(text.num_hidden_layers) if text.is_sparse(index))
    writer.add({name: tensor for name, tensor in weights.items() if not name.startswith(gone)})
    with torch.device("meta"):
        model = UniMoEForConditionalGeneration(plan.config)
    for index, block, differences[index] in _blocks(plan, feed_forward):
        own = {f"{_LAYERS}{index}.mlp.{name}": tensor for name, tensor in block.state_dict().items()}
        writer.add(revert_weight_conversion(model, own))
    writer.close()
    plan.config.save_pretrained(out)
    return differences


class _Plan(NamedTuple):
    """What is to become of a dense model.

    Args:
        config: Of the mixture.
        recipe: What its experts begin as.
        noise: See `upcycle`.
        exact: See `upcycle`.
        seed: See `upcycle`.
    """

    config: UniMoEConfig
    recipe: Recipe
    noise: float
    exact: bool
    seed: int

    @classmethod
    def of(cls, dense: UniMoEConfig, given: Mapping[str, Any]) -> "_Plan":
        """Plan it by the arguments of `upcycle`."""
        recipe, noise = given["recipe"], given["noise"]
        fields = {name: given[name] for name in _FIELDS}
        fields["routed_scaling_factor"] *= recipe.pieces
        fields["moe_layers"] = None if given["moe_layers"] is None else sorted(given["moe_layers"])
        _check_arguments(recipe, fields, noise)
        return cls(_moe_config(dense, recipe, fields), recipe, noise, given["exact"], given["seed"])


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


@torch.no_grad()
def _blocks(plan: _Plan, feed_forward: FeedForward) -> Iterator[tuple[int, SparseMoeBlock, float]]:
    """Make the sparse layers one after the other: index, layer, and its largest difference to the dense one."""
    text, recipe, generator = copy.deepcopy(plan.config.text_config), plan.recipe, torch.Generator()
    generator.manual_seed(plan.seed)
    text._experts_implementation = "eager"
    for index in filter(text.is_sparse, range(text.num_hidden_layers)):
        mlp = feed_forward(index)
        block = build_block(text).to(mlp.up_proj.weight.dtype).eval()
        assert isinstance(block, SparseMoeBlock)
        copies, skip = [mlp] * (block.experts.num_experts // recipe.pieces), recipe.shared_expert_intermediate_size
        fill_experts(block, copies, base=mlp, noise=plan.noise, generator=generator, skip=skip)
        if isinstance(block.experts, Experts):
            redraw_channels(block.experts, recipe.drop_ratio, generator)
        fill_shared_expert(block, mlp)
        draw_router(block, text.initializer_range, generator, repeats=recipe.repeats)
        expected, actual = probe_block(block, mlp, generator)
        yield index, block, relative_difference(actual, expected)


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


def _certificate(plan: _Plan, dtype: torch.dtype, dense: str, difference: float) -> Certificate:
    """State what holds; refuse what was asked to be exact and is not."""
    text, tolerance = plan.config.text_config, TOLERANCE[dtype]
    cures = _cures(text, plan.recipe, plan.noise)
    if not cures and difference > tolerance:
        raise ValueError(
            f"A layer differs from the dense one by {difference:.2e} > {tolerance:.0e}: this is a defect."
        )
    if cures and plan.exact:
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
            "dense": dense,
            "num_experts": text.num_experts,
            "num_experts_per_tok": text.num_experts_per_tok,
            "recipe": asdict(plan.recipe),
            "norm_topk_prob": text.norm_topk_prob,
            "routed_scaling_factor": text.routed_scaling_factor,
            "num_null_experts": text.num_null_experts,
            "modality_routing": text.modality_routing,
            "moe_layers": text.moe_layers,
            "expert_type": text.expert_type,
            "noise": plan.noise,
            "measured_on": "64 random hidden states of unit scale in each sparse layer",
        },
    )
