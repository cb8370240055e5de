"""How the fields of `MoEConfig` must fit together: each check says whether it holds, and what is wrong if not."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..modality import Modality

if TYPE_CHECKING:
    from .moe import MoEConfig

Checks = Iterator[tuple[bool, str]]
TASK_PREFIX = "task_"
"""Of keys of `reserved_experts` that name a task."""


def check_moe(config: "MoEConfig", *, router_losses: Sequence[str]) -> Checks:
    """Check the fields of a sparse layer against each other.

    Args:
        config: With experts.
        router_losses: Names of the router losses that there are.

    Yields:
        Whether a check holds, and what is wrong if it does not.
    """
    checks = (_check_experts, _check_reserved, _check_layers, _check_choice, _check_weights)
    for check in (*checks, _check_gradient, _check_groups, _check_aliases):
        yield from check(config)
    yield from _check_losses(config, router_losses)


def _check_experts(config: "MoEConfig") -> Checks:
    experts, targets = config.num_experts, config.num_router_targets
    yield config.num_null_experts >= 0, f"num_null_experts is {config.num_null_experts}; it cannot be negative."
    yield (
        1 <= config.num_experts_per_tok <= targets,
        f"num_experts_per_tok ({config.num_experts_per_tok}) must lie between 1 and num_experts + num_null_experts "
        f"({targets}).",
    )
    yield config.expert_rank >= 1, f"expert_rank is {config.expert_rank}; it is at least 1."
    groups = config.expert_latent_groups
    yield (
        groups >= 1 and experts % max(groups, 1) == 0,
        f"expert_latent_groups ({groups}) does not divide the {experts} experts.",
    )
    yield (
        config.num_shared_experts >= 1,
        f"num_shared_experts is {config.num_shared_experts}; use a width of 0 for none.",
    )
    yield (
        config.shared_expert_weighting == "one" or config.shared_expert_intermediate_size > 0,
        f"shared_expert_weighting={config.shared_expert_weighting!r} needs shared_expert_intermediate_size.",
    )


def _check_layers(config: "MoEConfig") -> Checks:
    for name in ("moe_layers", "mlp_only_layers"):
        for index in getattr(config, name) or []:
            yield (
                0 <= index < config.num_hidden_layers,
                f"{name} names layer {index}, but there are {config.num_hidden_layers} layers (0-based).",
            )
    yield config.decoder_sparse_step >= 1, f"decoder_sparse_step is {config.decoder_sparse_step}; it is at least 1."
    yield (
        config.moe_layers is None or (config.decoder_sparse_step == 1 and not config.mlp_only_layers),
        "moe_layers lists the sparse layers; leave decoder_sparse_step and mlp_only_layers out.",
    )


def _check_choice(config: "MoEConfig") -> Checks:
    kind, experts, nulls = config.router_type, config.num_experts, config.num_null_experts
    groups, kept, k = config.n_group, config.topk_group or config.n_group, config.num_experts_per_tok
    yield groups >= 1 and experts % max(groups, 1) == 0, f"n_group ({groups}) does not divide the {experts} experts."
    if groups > 1:
        yield kind in ("top_k", "hierarchical"), f"n_group is for router_type top_k or hierarchical, not {kind}."
        yield experts // groups >= 2, f"n_group ({groups}) leaves fewer than two experts in a group."
        yield 1 <= kept <= groups, f"topk_group ({kept}) must lie between 1 and n_group ({groups})."
        yield k <= kept * experts // groups, f"{kept} groups hold fewer than num_experts_per_tok ({k}) experts."
        yield nulls == 0, "null experts belong to no group: set num_null_experts=0, or n_group=1."
    yield kind != "hash" or k == 1, f"router_type='hash' gives each token one expert; num_experts_per_tok is {k}."
    yield (
        config.null_experts_keep_mass or bool(config.norm_topk_prob),
        "null_experts_keep_mass=False renormalises over the real experts; set norm_topk_prob=True.",
    )
    yield kind != "hierarchical" or groups > 1, "router_type='hierarchical' needs n_group > 1."
    yield (
        config.scoring_func == "softmax" or kind in ("top_k", "expert_choice"),
        f"scoring_func='sigmoid' is for router_type top_k or expert_choice; {kind} needs probabilities.",
    )
    yield not config.balance_bias or kind == "top_k", f"balance_bias is for router_type top_k, not {kind}."
    yield 0 < config.router_top_p <= 1, f"router_top_p is {config.router_top_p}; it lies in (0, 1]."
    least = config.min_experts_per_tok
    yield 1 <= least <= k, f"min_experts_per_tok ({least}) must lie between 1 and num_experts_per_tok ({k})."
    yield least == 1 or kind == "top_p", "min_experts_per_tok is for router_type='top_p'."
    whole = kind in ("hash", "expert_choice", "soft")
    yield nulls == 0 or not whole, f"router_type={kind!r} has no use for null experts; set num_null_experts=0."
    blind = kind in ("hash", "soft")
    yield (
        not (blind and config.router_modality_projection),
        f"router_type={kind!r} has no router that router_modality_projection could change.",
    )
    yield not (blind and config.router_jitter_noise), f"router_type={kind!r} has no router_jitter_noise."
    yield (
        config.shared_expert_weighting != "router" or (not whole and config.scoring_func == "softmax"),
        "shared_expert_weighting='router' needs router_type top_k, noisy_top_k, top_p or hierarchical, and softmax.",
    )
    yield config.slots_per_expert >= 1, f"slots_per_expert is {config.slots_per_expert}; it is at least 1."
    capacity = config.capacity_factor
    yield capacity is None or capacity > 0, f"capacity_factor is {capacity}; it is positive, or None for no limit."
    yield (
        capacity is None or kind not in ("expert_choice", "soft"),
        f"router_type={kind!r} fills its experts evenly by itself; leave capacity_factor out.",
    )
    yield (
        0 <= config.router_jitter_noise < 1,
        f"router_jitter_noise is {config.router_jitter_noise}; it lies in [0, 1).",
    )


def _check_weights(config: "MoEConfig") -> Checks:
    epsilon = config.sparsemixer_epsilon
    yield epsilon >= 0, f"sparsemixer_epsilon is {epsilon}; it cannot be negative."
    if config.combine_weights == "scores":
        return
    given = f"combine_weights={config.combine_weights!r}"
    yield (
        config.router_type in ("top_k", "top_p")
        and config.scoring_func == "softmax"
        and not config.balance_bias
        and config.n_group == 1,
        f"{given} compares the logits that experts are chosen by: it needs router_type top_k or top_p, scoring_func "
        "softmax, no balance_bias and no groups.",
    )
    yield (
        bool(config.norm_topk_prob) and config.null_experts_keep_mass,
        f"{given} renormalises over all choices, nulls too; set norm_topk_prob=True and null_experts_keep_mass=True.",
    )
    yield (
        config.router_gradient == "plain",
        f"{given} has no other gradient than that of its weights; router_gradient is {config.router_gradient!r}, set "
        "it to 'plain'.",
    )


def _check_gradient(config: "MoEConfig") -> Checks:
    kind, gradient = config.router_type, config.router_gradient
    yield (
        gradient == "plain" or kind in ("top_k", "noisy_top_k", "top_p", "hierarchical"),
        f"router_gradient={gradient!r} is for routers that weigh their choice, not {kind}.",
    )
    yield (
        gradient != "sparsemixer"
        or (kind == "top_k" and config.scoring_func == "softmax" and not config.balance_bias and config.n_group == 1),
        "router_gradient='sparsemixer' samples from one softmax: it needs router_type top_k, scoring_func softmax, no "
        "balance_bias and no groups.",
    )
    yield (
        gradient == "plain" or config.shared_expert_weighting != "router",
        f"router_gradient={gradient!r} cannot be used with shared_expert_weighting='router'.",
    )


_OF_ALL_EXPERTS = {"orthogonality", "gram", "expert_overlap"}
"""Router losses that compare each expert with every other."""


def _check_reserved(config: "MoEConfig") -> Checks:
    if not (reserved := config.reserved_experts):
        return
    for key, own in reserved.items():
        if key.startswith(TASK_PREFIX):
            problem = f"reserved_experts: {key!r} names no task; write letters, digits and _ after {TASK_PREFIX!r}."
            yield re.fullmatch(r"\w+", key.removeprefix(TASK_PREFIX)) is not None, problem
        else:
            yield Modality.from_key(key) is not Modality.TEXT, "reserved_experts: text is in every row; name a medium."
        yield bool(own), f"reserved_experts[{key!r}] names no expert; leave it out."
    first = config.num_unreserved_experts
    yield first >= 1, f"reserved_experts: all {config.num_experts} experts are reserved; one at least is for all."
    yield (
        [expert for _, own in config.reserved_in_order for expert in own] == list(range(first, config.num_experts)),
        f"reserved_experts {reserved} are not the last of the {config.num_experts} experts (0-based), one modality "
        f"or task after the other; they are {first} to {config.num_experts - 1}.",
    )
    yield config.expert_type == "mlp", f"reserved_experts is for expert_type='mlp', not {config.expert_type!r}."
    yield config.expert_aliases is None, "reserved_experts are not merged; leave expert_aliases out."
    yield (
        config.router_type in ("top_k", "top_p") and config.n_group == 1,
        "reserved_experts belong to no group, and their tokens choose them: they need router_type top_k or top_p, and "
        "n_group=1.",
    )
    compared = _OF_ALL_EXPERTS & (config.router_losses or {}).keys()
    yield (
        config.router_gradient != "dense" and not compared,
        "reserved_experts are closed to most tokens: they cannot be used with router_gradient='dense', nor with the "
        f"router losses {', '.join(sorted(_OF_ALL_EXPERTS))}.",
    )


def _check_groups(config: "MoEConfig") -> Checks:
    mode, groups = config.modality_routing, config.expert_groups or {}
    if not config.is_isolated:
        yield not groups, "expert_groups needs modality_routing='isolated' or 'semi_isolated'."
        yield not config.expert_group_intermediate_sizes, "expert_group_intermediate_sizes needs expert_groups."
        yield (
            mode == "shared" or config.router_type not in ("hash", "soft"),
            f"router_type={config.router_type!r} has no router logits for modality_routing={mode!r} to change.",
        )
        return
    yield bool(groups), f"modality_routing={mode!r} needs expert_groups."
    yield (
        config.router_type != "soft",
        f"router_type='soft' mixes all tokens; modality_routing={mode!r} keeps them apart.",
    )
    yield (
        config.router_aux_loss_scope == "modality",
        f"modality_routing={mode!r} needs router_aux_loss_scope='modality': groups of different load cannot be "
        "balanced against each other.",
    )
    for key, experts in groups.items():
        Modality.from_key(key)
        yield len(set(experts)) == len(experts), f"expert_groups[{key!r}] names an expert twice: {experts}."
        yield (
            all(0 <= expert < config.num_unreserved_experts for expert in experts),
            f"expert_groups[{key!r}] = {experts} goes beyond the {config.num_unreserved_experts} experts (0-based).",
        )
        for other, theirs in groups.items():
            yield (
                set(experts) == set(theirs) or not set(experts) & set(theirs),
                f"expert_groups of {key!r} and {other!r} overlap: {experts} and {theirs}. Make them disjoint or "
                "equal; with 'semi_isolated', experts of no group are common to all.",
            )
    yield from _check_reach(config)


def _check_aliases(config: "MoEConfig") -> Checks:
    if config.expert_aliases is None:
        return
    one_kind = config.expert_type == "mlp" and not config.expert_group_intermediate_sizes
    yield one_kind, "expert_aliases is for experts of expert_type='mlp' and of one width."
    yield config.router_type != "soft", "router_type='soft' chooses no experts; leave expert_aliases out."
    layers, experts = sum(map(config.is_sparse, range(config.num_hidden_layers))), config.num_experts
    given = len(config.expert_aliases)
    yield given == layers, f"expert_aliases has {given} list(s) for {layers} sparse layer(s); give each its own."
    for number, aliases in enumerate(config.expert_aliases):
        what = f"expert_aliases[{number}]"
        yield len(aliases) == experts, f"{what} has {len(aliases)} entries for {experts} experts."
        used = sorted(set(aliases))
        yield (
            used == list(range(len(used))),
            f"{what} names the experts {used} of the stack; it is to name 0, 1, ... without a gap.",
        )


def _check_reach(config: "MoEConfig") -> Checks:
    """Say what every modality can reach, and how the groups of modalities meet other groups and widths."""
    mode, groups = config.modality_routing, config.expert_groups or {}
    grouped = {expert for group in groups.values() for expert in group}
    rest = sorted(set(range(config.num_unreserved_experts)) - grouped)
    yield mode == "semi_isolated" or "text" in groups, "modality_routing='isolated' needs a group for 'text'."
    yield (
        (mode == "semi_isolated") == bool(rest),
        f"experts {rest} are in no group; that is for modality_routing='semi_isolated', which needs such experts.",
    )
    size = config.num_experts // config.n_group
    for modality in Modality:
        permitted = config.permitted_experts(modality)
        yield bool(permitted), f"{modality.key} tokens may use no expert; give {modality.key!r} a group."
        reached = {expert // size for expert in permitted}
        yield (
            config.n_group == 1
            or (len(permitted) == len(reached) * size and len(reached) >= (config.topk_group or config.n_group)),
            f"n_group ({config.n_group}): each of its groups must be open or closed to {modality.key} as a whole, and "
            f"at least topk_group ({config.topk_group}) open.",
        )
    sizes = config.expert_group_intermediate_sizes or {}
    for key in sizes:
        yield key in groups, f"expert_group_intermediate_sizes names {key!r}, which has no entry in expert_groups."
    yield not sizes or config.expert_type == "mlp", "expert_group_intermediate_sizes is for expert_type='mlp'."


def _check_losses(config: "MoEConfig", router_losses: Sequence[str]) -> Checks:
    for name in config.router_losses or {}:
        yield (
            name in router_losses,
            f"router_losses: no loss {name!r}; there are {', '.join(router_losses)}.",
        )
    yield (
        not (config.router_losses and config.router_type in ("hash", "soft")),
        f"router_losses: router_type={config.router_type!r} has no router that a loss could teach.",
    )
    least = config.router_entropy_min_experts
    yield (
        least is None or 1 <= least <= config.num_router_targets,
        f"router_entropy_min_experts ({least}) must lie between 1 and the {config.num_router_targets} router targets.",
    )
    yield (
        not (config.router_aux_loss_global_batch and config.router_aux_loss_scope == "sequence"),
        "router_aux_loss_global_batch: the sequences of a batch are whole in each process; use another scope.",
    )
    yield (
        "load" not in (config.router_losses or {}) or config.router_type == "noisy_top_k",
        "router_losses: 'load' needs router_type='noisy_top_k', whose noise makes loads differentiable.",
    )


__all__ = ["TASK_PREFIX", "check_moe"]
