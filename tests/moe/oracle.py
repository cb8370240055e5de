"""Slow reference of every router: one token at a time, plain Python and numpy float64, from the words of the papers.

It shares no line with `unimoe.moe`: of the package it reads only the fields of a configuration, and it takes a
router's parameters as arrays by name (`weight`, `modality_bias`, ...). A target is what a router chooses from: the E
experts 0..E-1, then the N null experts. Ties go to the lower index.

Choices that the papers leave open, and what stands here: the routed scaling factor does not scale shared experts; a
modality's bias is added to the logits of the experts, in a hierarchical router to those of the flat product;
`probability` ranks a token by its largest weight, for all of its experts; an expert has room for
ceil(K * T * factor / E) of them, T being all tokens that are no padding; expert choice takes the expert's fair load,
rounded up: the sum, over the tokens that may use it, of K over the experts open to the token (K * T / E where all
are open to all).
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Parameters = dict[str, np.ndarray]


class Choice(NamedTuple):
    """Where one token goes."""

    chosen: list[int]
    """Targets, best first."""
    weights: dict[int, float]
    """Combine weight of each chosen expert."""
    nulls: dict[int, float]
    """What each chosen null keeps of the weight."""
    shared: list[float] | None = None
    """Weights of the shared experts, where the router gives them."""
    logits: list[float] | None = None
    """Of all targets; -inf where the modality may not go. None: the router has none."""
    probabilities: list[float] | None = None
    """Scores of all targets over their sum."""


class Token(NamedTuple):
    """What a router knows of one token."""

    hidden: np.ndarray
    modality: int = 0
    token_id: int = 0
    real: bool = True


KEYS = ["text", "image", "video", "audio", "speech"]
"""Modality ids are positions in this list."""


def permitted_targets(config: Any, modality: int) -> list[int]:
    """Targets that a token of this modality may choose, ascending."""
    targets = range(config.num_experts + config.num_null_experts)
    reserved = config.reserved_experts or {}
    of_task = reserved.get(f"task_{config.active_task}", [])
    others = [expert for expert in _of_others(reserved, modality, otherwise=[]) if expert not in of_task]
    if config.modality_routing in ("isolated", "semi_isolated"):
        others += _of_others(config.expert_groups, modality, otherwise=config.expert_groups.get("text", []))
    return [target for target in targets if target not in others]


def _of_others(groups: dict[str, list[int]], modality: int, *, otherwise: list[int]) -> list[int]:
    """Experts of groups that are not this modality's."""
    key = KEYS[modality]
    if key == "video" and key not in groups:
        key = "image"
    own = groups.get(key, otherwise)
    return [expert for group in groups.values() for expert in group if expert not in own]


def route(token: Token, parameters: Parameters, config: Any) -> Choice:
    """Route one token as it is routed in evaluation, without a limit of capacity."""
    open_targets = permitted_targets(config, token.modality)
    if config.router_type == "hash":
        expert = open_targets[int(parameters["table"][token.token_id]) % len(open_targets)]
        return Choice([expert], {expert: float(config.routed_scaling_factor)}, {})
    logits, shared_logits = target_logits(token, parameters, config)
    scores = scores_of(logits, config)
    bias = _balance_bias(parameters, config, token.modality)
    chosen = choose({e: scores[e] + bias[e] for e in open_targets}, config)
    by_ties = config.combine_weights == "near_tie"
    gates = weigh_near_ties(chosen, logits, config) if by_ties else weigh(chosen, scores, config)
    shared = None
    if config.shared_expert_weighting == "router":
        gates, shared = _weigh_with_shared(gates, [logits[e] for e in chosen], shared_logits)
    weights = {e: g * config.routed_scaling_factor for e, g in gates.items() if e < config.num_experts}
    nulls = {e: g * config.routed_scaling_factor for e, g in gates.items() if e >= config.num_experts}
    return Choice(chosen, weights, nulls, shared, logits, _probabilities(scores))


def target_logits(token: Token, parameters: Parameters, config: Any) -> tuple[list[float], list[float]]:
    """Logits of all targets, -inf where the modality may not go, and those of the shared experts."""
    modality, targets = token.modality, config.num_experts + config.num_null_experts
    hidden = token.hidden.astype(np.float64)
    if config.router_modality_projection:
        hidden = parameters["projection"][modality] @ hidden

    def products(name: str) -> list[float]:
        rows = parameters[name][modality] if config.modality_routing == "separate" else parameters[name]
        return [float(np.dot(row, hidden)) for row in rows]

    reserved = sorted((own, key) for key, own in (config.reserved_experts or {}).items())
    targets -= sum(len(own) for own, _ in reserved)
    logits, shared = products("weight")[:targets], products("weight")[targets:]
    if config.router_type == "hierarchical":
        logits = _hierarchical_logits(logits, products("group_weight"), config)
    if config.modality_routing == "bias":
        logits = [logit + float(b) for logit, b in zip(logits, parameters["modality_bias"][modality], strict=True)]
    for own, key in reserved:
        rows, biases = parameters[f"reserved.{key}.weight"], parameters[f"reserved.{key}.bias"]
        logits[own[0] : own[0]] = [float(np.dot(row, hidden) + b) for row, b in zip(rows, biases, strict=True)]
    permitted = permitted_targets(config, modality)
    return [logit if target in permitted else -math.inf for target, logit in enumerate(logits)], shared


def _hierarchical_logits(logits: list[float], group_logits: list[float], config: Any) -> list[float]:
    """Logits whose softmax is p(group) p(expert | group): that of the group and log p(expert | group)."""
    size = config.num_experts // config.n_group
    members = [logits[start : start + size] for start in range(0, config.num_experts, size)]
    return [
        group_logit + math.log(p)
        for group_logit, group in zip(group_logits, members, strict=True)
        for p in softmax(group)
    ]


def softmax(logits: Sequence[float]) -> list[float]:
    """Exponentials over their sum; 0 for -inf."""
    highest = max(logits)
    exponentials = [math.exp(logit - highest) for logit in logits]
    return [value / sum(exponentials) for value in exponentials]


def scores_of(logits: list[float], config: Any) -> list[float]:
    """What experts are compared and weighed by."""
    if config.scoring_func == "sigmoid":
        return [1 / (1 + math.exp(-logit)) if logit > -math.inf else 0.0 for logit in logits]
    return softmax(logits)


def _probabilities(scores: list[float]) -> list[float]:
    total = sum(scores)
    return [score / total for score in scores]


def _balance_bias(parameters: Parameters, config: Any, modality: int) -> list[float]:
    if not config.balance_bias:
        return [0.0] * (config.num_experts + config.num_null_experts)
    rows = parameters["balance_bias"]
    return [float(b) for b in rows[modality if len(rows) > 1 else 0]]


def choose(scores: dict[int, float], config: Any) -> list[int]:
    """The targets that a token with these (biased) scores of the targets open to it goes to, best first."""
    if config.n_group > 1:
        scores = _within_best_groups(scores, config)
    order = sorted(scores, key=lambda target: (-scores[target], target))
    if config.router_type != "top_p":
        return order[: config.num_experts_per_tok]
    count, mass = 0, 0.0
    while count < len(order) and mass < config.router_top_p:
        mass += scores[order[count]]
        count += 1
    return order[: min(max(count, config.min_experts_per_tok), config.num_experts_per_tok)]


def _within_best_groups(scores: dict[int, float], config: Any) -> dict[int, float]:
    """Only the experts of the best groups; a group is as good as the sum of its two best scores."""
    size = config.num_experts // config.n_group
    members = [[e for e in range(g * size, (g + 1) * size) if e in scores] for g in range(config.n_group)]
    quality = {
        g: sum(sorted((scores[e] for e in group), reverse=True)[:2]) for g, group in enumerate(members) if group
    }
    best = sorted(quality, key=lambda g: (-quality[g], g))[: config.topk_group]
    return {e: scores[e] for g in best for e in members[g]}


def weigh(chosen: list[int], scores: list[float], config: Any) -> dict[int, float]:
    """Combine weight of each chosen target, before scaling, from the scores without the balance bias."""
    gates = {target: scores[target] for target in chosen}
    if config.norm_topk_prob:
        total = sum(gates.values())
        gates = {target: gate / total for target, gate in gates.items()}
    if config.num_null_experts and not config.null_experts_keep_mass:
        total = sum(gate for target, gate in gates.items() if target < config.num_experts)
        gates = {target: gate / total if target < config.num_experts else 0.0 for target, gate in gates.items()}
    return gates


def weigh_near_ties(chosen: list[int], logits: list[float], config: Any) -> dict[int, float]:
    """Combine weights of Uni-MoE-2.0, DCMoE and UniMoE-Audio in evaluation: best first, each choice over those left
    whose logits come within twice the relative gap of its own; then over their sum and a millionth.
    """
    left = [target for target, logit in enumerate(logits) if logit > -math.inf]
    gates = {}
    for target in chosen:
        own, near = logits[target], 0.0
        for other in left:
            scale = max(abs(own), abs(logits[other]))
            if scale == 0 or (own - logits[other]) / scale <= 2 * config.sparsemixer_epsilon:
                near += math.exp(logits[other])
        gates[target] = math.exp(own) / near
        left.remove(target)
    total = sum(gates.values()) + 1e-6
    return {target: gate / total for target, gate in gates.items()}


def _weigh_with_shared(
    gates: dict[int, float], chosen_logits: list[float], shared_logits: list[float]
) -> tuple[dict[int, float], list[float]]:
    """One softmax over the chosen targets and all shared experts; the share of the chosen multiplies their weights."""
    joint = softmax(chosen_logits + shared_logits)
    routed = sum(joint[: len(chosen_logits)])
    return {target: gate * routed for target, gate in gates.items()}, joint[len(chosen_logits) :]


def route_by_expert_choice(tokens: Sequence[Token], parameters: Parameters, config: Any) -> list[Choice]:
    """Every expert takes the tokens that score it highest among those that are no padding and may use it."""
    scores = []
    for token in tokens:
        logits, _ = target_logits(token, parameters, config)
        scores.append((logits, scores_of(logits, config)))
    taken: list[list[int]] = [[] for _ in tokens]
    for expert in range(config.num_experts):
        able = _able(tokens, expert, config)
        places = math.ceil(fair_load(tokens, expert, config))
        for t in sorted(able, key=lambda t: (-scores[t][1][expert], t))[:places]:
            taken[t].append(expert)
    choices = []
    for chosen, (logits, score) in zip(taken, scores, strict=True):
        gates = weigh(chosen, score, config) if chosen else {}
        weights = {expert: gate * config.routed_scaling_factor for expert, gate in gates.items()}
        choices.append(Choice(chosen, weights, {}, None, logits, _probabilities(score)))
    return choices


def _able(tokens: Sequence[Token], expert: int, config: Any) -> list[int]:
    """Tokens that are no padding and may use the expert."""
    return [t for t, x in enumerate(tokens) if x.real and expert in permitted_targets(config, x.modality)]


def fair_load(tokens: Sequence[Token], expert: int, config: Any) -> Fraction:
    """Tokens of an expert if every token went to K experts, evenly among those open to it."""
    load = Fraction(0)
    for t in _able(tokens, expert, config):
        experts = [target for target in permitted_targets(config, tokens[t].modality) if target < config.num_experts]
        load += Fraction(config.num_experts_per_tok, len(experts))
    return load


def limit_capacity(choices: Sequence[Choice], tokens: Sequence[Token], config: Any) -> list[Choice]:
    """Take each expert from its tokens of the lowest priority until it has C; the others keep their weights."""
    kept = [dict(choice.weights) for choice in choices]
    priority = [max(choice.weights.values(), default=0.0) for choice in choices]
    for expert in range(config.num_experts):
        queue = [t for t in _able(tokens, expert, config) if expert in kept[t]]
        if config.capacity_priority == "probability":
            queue.sort(key=lambda t: (-priority[t], t))
        capacity = math.ceil(fair_load(tokens, expert, config) * Fraction(str(config.capacity_factor)))
        for t in queue[capacity:]:
            del kept[t][expert]
    return [choice._replace(weights=weights) for choice, weights in zip(choices, kept, strict=True)]


def route_batch(tokens: Sequence[Token], parameters: Parameters, config: Any) -> list[Choice]:
    """Route a batch as it is routed in evaluation."""
    if config.router_type == "expert_choice":
        return route_by_expert_choice(tokens, parameters, config)
    choices = [route(token, parameters, config) for token in tokens]
    return choices if config.capacity_factor is None else limit_capacity(choices, tokens, config)
