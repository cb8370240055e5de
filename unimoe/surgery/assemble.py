"""Assemble: dense specialists become the experts of one mixture-of-experts model, any number of each.

First come the experts of the base model, then those of each specialist, in the order given. Attention, norms and
embeddings come from the base or are averaged; the encoder and connector of a modality come from its specialist, which
was trained with them. (Li et al. 2024, Uni-MoE, arXiv 2405.11273, section 3.2: modality-specific experts, then unified
training; Sukhbaatar et al. 2024, Branch-Train-MiX, arXiv 2403.07816, section 2.2: the average.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration.moe import ModalityRouting
from ..configuration_unimoe import UniMoEConfig
from ..modality import Modality
from ..modeling_unimoe import UniMoEForConditionalGeneration
from ..moe import SparseMoeBlock
from .certificate import Certificate
from .dense_sources import TOLERANCE, Source, largest_difference, load_dense, model_like, source_name
from .initialise import draw_router, fill_experts, fill_shared_expert
from .shared_parts import SharedParts, combine_shared_parts

# Fields of the configuration that follow from the arguments, or whose weights no specialist has.
_DECIDED = {
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "modality_routing",
    "expert_aliases",
    "expert_groups",
    "expert_group_intermediate_sizes",
}


@dataclass(frozen=True)
class _Expert:
    """What one expert, or one run of slices, begins as.

    Args:
        key: Modality that it is of; `base` for the base.
        name: Its source, for the certificate.
        model: Its source.
    """

    key: str
    name: str
    model: UniMoEForConditionalGeneration


def assemble(
    base: Source,
    experts: Mapping[str, Source | Sequence[Source]],
    *,
    num_experts_per_tok: int = 2,
    base_experts: int = 1,
    copies: int = 1,
    pieces: int = 1,
    noise: float = 0.0,
    shared_parts: SharedParts = "base",
    modality_routing: ModalityRouting = "bias",
    moe: Mapping[str, Any] | None = None,
    router_bias: float = 1.0,
    exact: bool = True,
    seed: int = 0,
) -> tuple[UniMoEForConditionalGeneration, Certificate]:
    """Build one mixture of experts from a dense base and its dense specialists.

    Args:
        base: Dense model (or its folder) that all specialists started from.
        experts: Modality key (`image`, `audio`, `speech`, `text`) -> dense specialist (or its folder), or several.
        num_experts_per_tok: Experts that each token passes.
        base_experts: Experts that begin as the base's feed-forward.
        copies: Experts that begin as the feed-forward of each specialist.
        pieces: Each of these is cut into so many slices of its width, an expert each, which add up to it.
        noise: Standard deviation of what is added to each expert's weights, relative to that of the matrix.
        shared_parts: Where all else comes from, see `combine_shared_parts`: the base, or an average.
        modality_routing: With `bias`, tokens of a modality start with `router_bias` (logits) added at their own
            experts; with `semi_isolated`, they see only the base's experts and their own; with `isolated`, their own.
        moe: Further fields of `MoEConfig`, e.g. `{"router_type": "top_p", "num_null_experts": 1}`. With
            `expert_type: lora`, experts are low-rank changes of the base's feed-forward; an `expert_rank` of that of
            the specialists' training keeps them whole. Shared experts begin as the base's first channels.
        router_bias: Of `bias`, see `modality_routing`.
        exact: Refuse settings under which an expert computes something else than its source.
        seed: Of the router, N(0, initializer_range), of noise, and of what LoRA draws.

    Returns:
        The model in evaluation mode, and a certificate that every expert (its slices together) computes what its
        source computed; with `exact=False` the largest difference, measured on random hidden states.

    Raises:
        ValueError: If a source is not dense or of another architecture, if a field of `moe` does not fit, or under
            `exact` an expert differs from its source; the message names both sides.
    """
    base_model, specialists = load_dense(base, role="base"), _load_specialists(experts)
    _check_sources(base_model, specialists, base_experts=base_experts, copies=copies, pieces=pieces)
    all_experts = [_Expert("base", source_name(base), base_model)] * base_experts
    all_experts += [expert for expert in specialists for _ in range(copies)]
    keys = [expert.key for expert in all_experts for _ in range(pieces)]
    fields = {"num_experts_per_tok": num_experts_per_tok, "modality_routing": modality_routing}
    model = model_like(base_model, _moe_config(base_model.config, keys, pieces, fields, moe or {}))
    changed = combine_shared_parts(model, base_model, [(e.key, e.model) for e in specialists], how=shared_parts)
    generator = torch.Generator().manual_seed(seed)
    difference = _fill_layers(model, base_model, all_experts, keys, noise, router_bias, generator)
    details = {"base": source_name(base), "experts": _names(specialists), "expert_order": keys, "pieces": pieces}
    details |= {"noise": noise, "shared_parts": shared_parts, "left_to_the_base": changed}
    return model, _certificate(model, difference, details, exact=exact)


def assembled_config(
    base: UniMoEConfig,
    experts: Mapping[str, int],
    *,
    num_experts_per_tok: int = 2,
    base_experts: int = 1,
    copies: int = 1,
    pieces: int = 1,
    modality_routing: ModalityRouting = "bias",
    moe: Mapping[str, Any] | None = None,
    **others: Any,
) -> UniMoEConfig:
    """Describe the model that `assemble` would make, without its sources.

    Args:
        base: Configuration of the base, and so of all specialists.
        experts: Modality key -> number of its specialists.
        num_experts_per_tok: As in `assemble`.
        base_experts: As in `assemble`.
        copies: As in `assemble`.
        pieces: As in `assemble`.
        modality_routing: As in `assemble`.
        moe: As in `assemble`.
        **others: Arguments of `assemble` that decide weights only.
    """
    keys = ["base"] * base_experts * pieces
    keys += [key for key, number in experts.items() for _ in range(number * copies * pieces)]
    fields = {"num_experts_per_tok": num_experts_per_tok, "modality_routing": modality_routing}
    return _moe_config(base, keys, pieces, fields, moe or {})


def _load_specialists(experts: Mapping[str, Any]) -> list[_Expert]:
    """Load the specialists of all modalities, in order."""
    named = [
        (key, source)
        for key, given in experts.items()
        for source in (given if isinstance(given, list | tuple) else [given])
    ]
    return [_Expert(key, source_name(source), load_dense(source, role=key)) for key, source in named]


def _fill_layers(
    model: UniMoEForConditionalGeneration,
    base: UniMoEForConditionalGeneration,
    experts: Sequence[_Expert],
    keys: Sequence[str],
    noise: float,
    router_bias: float,
    generator: torch.Generator,
) -> float:
    """Fill experts and routers of all sparse layers; return the largest difference of an expert to its source."""
    difference = 0.0
    for index, layer in enumerate(model.model.language_model.layers):
        if not isinstance(layer.mlp, SparseMoeBlock):
            continue
        sources = [expert.model.model.language_model.layers[index].mlp for expert in experts]
        dense = base.model.language_model.layers[index].mlp
        fill_experts(layer.mlp, sources, base=dense, noise=noise, generator=generator)
        fill_shared_expert(layer.mlp, dense)
        draw_router(layer.mlp, model.config.text_config.initializer_range, generator)
        _prefer_own_experts(layer.mlp, keys, router_bias)
        difference = max(difference, largest_difference(layer.mlp, sources, generator))
    return difference


def _names(specialists: Sequence[_Expert]) -> dict[str, str | list[str]]:
    """List the sources of each modality, as they were given: one, or several."""
    names: dict[str, list[str]] = {}
    for expert in specialists:
        names.setdefault(expert.key, []).append(expert.name)
    return {key: found[0] if len(found) == 1 else found for key, found in names.items()}


def _check_sources(
    base: UniMoEForConditionalGeneration,
    specialists: Sequence[_Expert],
    *,
    base_experts: int,
    copies: int,
    pieces: int,
) -> None:
    if not specialists:
        raise ValueError("assemble needs at least one specialist, e.g. experts={'image': 'runs/expert-image'}.")
    for name, number, least in (("base_experts", base_experts, 0), ("copies", copies, 1), ("pieces", pieces, 1)):
        if number < least:
            raise ValueError(f"{name} is {number}; it is at least {least}.")
    width = base.config.text_config.intermediate_size
    if width % pieces:
        raise ValueError(f"pieces ({pieces}) does not divide the {width} channels of a feed-forward.")
    expected = {name: tuple(parameter.shape) for name, parameter in base.named_parameters()}
    for expert in specialists:
        key = expert.key
        if Modality.from_key(key).encoder_key != key:
            raise ValueError(f"{key!r} has no encoder of its own; use {[*base.config.encoder_keys, 'text']}.")
        shapes = {name: tuple(parameter.shape) for name, parameter in expert.model.named_parameters()}
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
    base: UniMoEConfig, keys: Sequence[str], pieces: int, fields: Mapping[str, Any], moe: Mapping[str, Any]
) -> UniMoEConfig:
    """Describe the mixture: what the arguments decide, and further fields.

    Raises:
        ValueError: If a further field is one that the arguments decide, or the experts cannot be had of dense models.
    """
    if decided := sorted(moe.keys() & _DECIDED):
        raise ValueError(f"moe: {', '.join(decided)} cannot be given; sources and arguments of assemble decide it.")
    if (kind := moe.get("expert_type", "mlp")) not in ("mlp", "lora"):
        raise ValueError(f"moe: expert_type {kind!r} holds no feed-forwards. Choose mlp or lora.")
    if kind == "lora" and pieces > 1:
        raise ValueError("pieces: LoRA experts change a whole feed-forward. Leave pieces out.")
    values = base.to_dict()
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    common = groups.pop("base", [])
    if fields["modality_routing"] == "isolated":
        groups["text"] = sorted([*common, *groups.get("text", [])])
    isolated = fields["modality_routing"] in ("isolated", "semi_isolated")
    values["text_config"] |= {
        "num_experts": len(keys),
        "moe_intermediate_size": values["text_config"]["intermediate_size"] // pieces,
        "norm_topk_prob": True,
        "expert_groups": groups if isolated else None,
        "router_aux_loss_scope": "modality" if isolated else "layer",
        **fields,
        **moe,
    }
    return UniMoEConfig.from_dict(values)


@torch.no_grad()
def _prefer_own_experts(block: SparseMoeBlock, keys: Sequence[str], router_bias: float) -> None:
    """Give the tokens of each modality an advantage at their own experts, or at those of the base."""
    bias = block.router.modality_bias
    if bias is None:
        return
    bias.zero_()
    for modality in Modality:
        key = modality.encoder_key if modality.encoder_key in keys else "base"
        bias[modality, [index for index, own in enumerate(keys) if own == key]] = router_bias


def _certificate(
    model: UniMoEForConditionalGeneration, difference: float, details: dict[str, Any], *, exact: bool
) -> Certificate:
    """State what holds; refuse what was asked to be exact and is not."""
    tolerance, text = TOLERANCE[model.dtype], model.config.text_config
    keeps = difference <= tolerance
    lossless = text.expert_type == "mlp" and details["noise"] == 0
    if lossless and not keeps:
        raise ValueError(f"An expert differs from its source by {difference:.2e} > {tolerance:.0e}: this is a defect.")
    if exact and not keeps:
        raise ValueError(
            f"An expert differs from its source by {difference:.2g} of its largest output. Use noise=0 and, for "
            f"expert_type='lora', a rank of at least that of the specialists' changes (expert_rank is "
            f"{text.expert_rank}), or pass exact=False."
        )
    claim = "At assembly, before any training, each expert computes the feed-forward of its source"
    if details["pieces"] > 1:
        claim = claim.replace("each expert computes", f"each {details['pieces']} neighbouring experts add up to")
    return Certificate(
        operation="assemble",
        kind="exact" if keeps else "measured",
        claim=f"{claim}." if keeps else f"{claim}, up to the difference in any one of them.",
        difference=difference,
        details={
            **details,
            "num_experts_per_tok": text.num_experts_per_tok,
            "modality_routing": text.modality_routing,
            "expert_type": text.expert_type,
            "moe_layers": [index for index in range(text.num_hidden_layers) if text.is_sparse(index)],
            "measured_on": "64 random hidden states of unit scale in each sparse layer",
        },
    )
