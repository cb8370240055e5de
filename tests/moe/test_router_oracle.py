"""Every router against the oracle, token by token, and the claims that each makes."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from moe.oracle import choose, softmax, weigh
from moe.router_checks import (
    MODES,
    D,
    E,
    arrays,
    check_balance_bias_steers_choice_only,
    check_nulls_add_nothing,
    check_parity,
    check_top_p_is_minimal,
    make_config,
    make_router,
    make_tokens,
    oracle_choices,
    randomise,
    routed_weights,
)
from pairwise import pairs_in_fast_tests, pairwise_array

from unimoe import Modality, UniMoEForCausalLM
from unimoe.errors import ConfigError
from unimoe.moe import RoutingContext, SparseMoeBlock
from unimoe.moe.balance import update_balance_bias

GROUPED = {"n_group": 4, "topk_group": 2}
ROUTERS: dict[str, dict[str, Any]] = {
    "top_1": {"num_experts_per_tok": 1},
    "top_k": {"num_experts_per_tok": 3},
    "scaled": {"num_experts_per_tok": 3, "routed_scaling_factor": 2.5},
    "biased": {"num_experts_per_tok": 3, "balance_bias": True, "router_aux_loss_scope": "modality"},
    "grouped": {"num_experts_per_tok": 3, **GROUPED},
    "grouped_biased": {"num_experts_per_tok": 3, "balance_bias": True, **GROUPED},
    "sigmoid": {"num_experts_per_tok": 3, "scoring_func": "sigmoid"},
    "sigmoid_biased": {"num_experts_per_tok": 3, "scoring_func": "sigmoid", "balance_bias": True},
    "deepseek": {
        "num_experts_per_tok": 3,
        "scoring_func": "sigmoid",
        "balance_bias": True,
        "routed_scaling_factor": 2.5,
        **GROUPED,
    },
    "noisy": {"router_type": "noisy_top_k", "num_experts_per_tok": 3},
    "hierarchical": {"router_type": "hierarchical", "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    "top_p": {"router_type": "top_p", "num_experts_per_tok": 5, "router_top_p": 0.7},
    "top_p_at_least_2": {
        "router_type": "top_p",
        "num_experts_per_tok": 8,
        "router_top_p": 0.3,
        "min_experts_per_tok": 2,
    },
    "near_tie": {"num_experts_per_tok": 3, "combine_weights": "near_tie", "sparsemixer_epsilon": 0.1},
    "near_tie_top_p": {
        "router_type": "top_p",
        "num_experts_per_tok": 5,
        "router_top_p": 0.7,
        "combine_weights": "near_tie",
        "routed_scaling_factor": 1.5,
        "sparsemixer_epsilon": 0.3,
    },
    "hash": {"router_type": "hash", "num_experts_per_tok": 1},
}
NULLS: list[dict[str, Any]] = [
    {},
    {"num_null_experts": 2},
    {"num_null_experts": 2, "null_experts_keep_mass": False},
]
WEIGHTING: list[dict[str, Any]] = [
    {},
    {"num_shared_experts": 2, "shared_expert_intermediate_size": 4, "shared_expert_weighting": "router"},
]
FACTORS = (ROUTERS, MODES, range(len(NULLS)), range(len(WEIGHTING)), (True, False), (False, True))


def options_of(nulls: int, shared: int, renormalise: bool, projected: bool) -> dict[str, Any]:
    return {
        **NULLS[nulls],
        **WEIGHTING[shared],
        "norm_topk_prob": renormalise,
        "router_modality_projection": projected,
    }


def is_legal(name: str, mode: str, options: dict[str, Any]) -> bool:
    """Whether the documentation of `MoEConfig` allows these options for this router."""
    fields = ROUTERS[name]
    kind = fields.get("router_type", "top_k")
    if options.get("num_null_experts") and (fields.get("n_group", 1) > 1 or kind == "hash"):
        return False  # nulls belong to no group; a table has no place for them
    if kind == "hash" and (mode in ("bias", "separate") or options["router_modality_projection"]):
        return False  # there are no logits to change
    if not options.get("null_experts_keep_mass", True) and not options["norm_topk_prob"]:
        return False  # the mass of nulls goes to the others by renormalising
    if "combine_weights" in fields and not (options["norm_topk_prob"] and options.get("null_experts_keep_mass", True)):
        return False  # the published weights sum to 1, nulls and all
    return "shared_expert_weighting" not in options or (kind != "hash" and fields.get("scoring_func") != "sigmoid")


CHOSEN = pairwise_array(*FACTORS, legal=lambda case: is_legal(case[0], case[1], options_of(*case[2:])))


@pytest.mark.parametrize("name", ROUTERS)
def test_router_equals_the_oracle(name: str) -> None:
    """In every two options that can meet; the slow tests take every case."""
    for _, mode, *chosen in (case for case in CHOSEN if case[0] == name):
        check_against_oracle(name, mode, options_of(*chosen))


def check_against_oracle(name: str, mode: str, options: dict[str, Any]) -> None:
    config = make_config(mode, **ROUTERS[name], **options)
    router = make_router(config)
    check_parity(router, config, arrays(router))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ROUTERS)
def test_router_equals_the_oracle_in_every_case(name: str, mode: str) -> None:
    for case in itertools.product(*FACTORS[2:]):
        if is_legal(name, mode, options_of(*case)):
            check_against_oracle(name, mode, options_of(*case))


@pytest.mark.parametrize("name", ROUTERS)
def test_options_that_the_documentation_does_not_allow_are_refused(name: str) -> None:
    for mode, *chosen in itertools.product(*FACTORS[1:]):
        if not is_legal(name, mode, options_of(*chosen)):
            with pytest.raises(ConfigError, match="UniMoETextConfig"):
                make_config(mode, **ROUTERS[name], **options_of(*chosen))


@pytest.mark.parametrize("name", ["top_k", "deepseek", "top_p", "hierarchical"])
def test_router_of_float32_equals_the_oracle(name: str) -> None:
    config = make_config(**ROUTERS[name])
    router = make_router(config, torch.float32)
    hidden, context = make_tokens()
    check_parity(router, config, arrays(router), tokens=(hidden.float(), context), tolerance=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("padded", [0, 5])
def test_expert_choice_equals_the_oracle(mode: str, scoring: str, padded: int) -> None:
    for renormalise in (None, True):
        config = make_config(
            mode,
            router_type="expert_choice",
            scoring_func=scoring,
            num_experts_per_tok=2,
            norm_topk_prob=renormalise,
        )
        router = make_router(config)
        check_parity(router, config, arrays(router), tokens=make_tokens(padded=padded))


def test_expert_choice_loads_experts_alike() -> None:
    config = make_config(router_type="expert_choice", num_experts_per_tok=2)
    output = make_router(config)(*make_tokens(count=40))
    assert output.record.expert_mask.sum(dim=0).tolist() == [2 * 40 // E] * E


# R10 -----------------------------------------------------------------------------------------------------------------


WITH_CAPACITY = ("top_1", "top_k", "deepseek", "top_p", "hierarchical", "near_tie_top_p", "with_nulls")


@pytest.mark.parametrize(
    ("name", "mode", "priority"), pairs_in_fast_tests(WITH_CAPACITY, MODES, ("probability", "position"))
)
def test_capacity_drops_what_the_oracle_drops(name: str, mode: str, priority: str) -> None:
    fields = ROUTERS.get(name, {"num_experts_per_tok": 3, "num_null_experts": 4})
    for factor, padded in itertools.product((0.25, 0.875), (0, 5)):
        config = make_config(mode, **fields, capacity_factor=factor, capacity_priority=priority)
        router, tokens = make_router(config), make_tokens(padded=padded)
        check_parity(router, config, arrays(router), tokens=tokens)
        choices = oracle_choices(config, arrays(router), *tokens)
        dropped = sum(len([e for e in c.chosen if e < E]) - len(c.weights) for c in choices)
        assert dropped > 0 or factor == 0.875


def test_a_generous_capacity_drops_nothing() -> None:
    tokens = make_tokens()
    dropless = make_router(make_config(**ROUTERS["top_k"]))(*tokens)
    generous = make_router(make_config(**ROUTERS["top_k"], capacity_factor=float(E)))(*tokens)
    for t in range(len(tokens[0])):
        assert routed_weights(generous, t) == routed_weights(dropless, t)


def test_a_decimal_capacity_factor_is_taken_as_it_is_written() -> None:
    """1.1 * 80 / 8 places are 11, though 1.1 is a little more in binary."""
    router = make_router(make_config(num_experts_per_tok=1, capacity_factor=1.1))
    with torch.no_grad():
        router.weight.zero_()
        router.weight[0] = 1.0
    hidden, context = make_tokens(80)
    assert int((router(hidden.abs(), context).top_k_index == 0).sum()) == 11


# R1 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"router_type": "expert_choice"}, {"router_type": "soft"}, {"capacity_factor": 2.0}]
)
def test_generate_refuses_routers_that_mix_tokens(fields: dict[str, Any]) -> None:
    model = UniMoEForCausalLM(make_config(**fields))
    with pytest.raises(ValueError):
        model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2)


def test_top_1_learns_from_the_language_loss() -> None:
    router = make_router(make_config(**ROUTERS["top_1"]))
    router(*make_tokens()).top_k_weights.sum().backward()
    assert float(router.weight.grad.abs().max()) > 1e-3


def test_noise_changes_the_choice_in_training_only() -> None:
    router = make_router(make_config(**ROUTERS["noisy"]))
    tokens = make_tokens()
    assert torch.equal(router(*tokens).record.expert_mask, router(*tokens).record.expert_mask)
    router.train()
    assert not torch.equal(router(*tokens).record.expert_mask, router(*tokens).record.expert_mask)


@pytest.mark.parametrize("name", [name for name in ROUTERS if "group" in name or name in ("deepseek", "hierarchical")])
def test_experts_of_a_token_lie_in_the_best_groups(name: str) -> None:
    output = make_router(make_config(**ROUTERS[name]))(*make_tokens(200))
    for row in output.record.expert_mask:
        assert len({expert // 2 for expert in row.nonzero().flatten().tolist()}) <= GROUPED["topk_group"]


# R2 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["biased", "grouped_biased", "sigmoid_biased", "deepseek"])
def test_balance_bias_does_not_enter_the_weights(name: str) -> None:
    router = make_router(make_config(**ROUTERS[name]))
    check_balance_bias_steers_choice_only(router, router, make_tokens(200))


@pytest.mark.parametrize(("mode", "rows"), [("shared", 1), ("isolated", 5)])
def test_balance_bias_has_a_row_for_each_group_of_tokens_that_is_balanced(mode: str, rows: int) -> None:
    router = make_router(make_config(mode, **ROUTERS["sigmoid_biased"], num_null_experts=1))
    assert router.balance_bias.shape == (rows, E + 1) and router.balance_bias.dtype == torch.float32
    assert "balance_bias" in router.state_dict() and "balance_bias" not in dict(router.named_parameters())


def test_balance_bias_evens_skewed_loads_in_2000_steps() -> None:
    experts, count = 16, 2048
    config = make_config(hidden_size=experts, num_experts=experts, balance_bias=True, scoring_func="sigmoid")
    router = make_router(config, torch.float32)
    with torch.no_grad():
        router.weight.copy_(torch.eye(experts))
        router.balance_bias.zero_()
    generator = torch.Generator().manual_seed(0)
    skew = torch.randn(experts, generator=generator)
    trained, unseen = (torch.randn(count, experts, generator=generator) + skew for _ in range(2))
    context = RoutingContext(torch.zeros(count, dtype=torch.long))

    def load(hidden: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return router(hidden, context).record.expert_mask.sum(dim=0, keepdim=True)  # (1, E)

    def violation(hidden: torch.Tensor) -> float:
        return float(load(hidden).max() / load(hidden).float().mean()) - 1

    before = violation(trained)
    for _ in range(2000):
        router.balance_bias.copy_(update_balance_bias(router.balance_bias, load(trained), 1e-3))
    print(f"MaxVio {before:.2f} -> {violation(trained):.2f}, of unseen tokens {violation(unseen):.2f}")
    assert before > 2.4
    assert violation(trained) < 0.2 and violation(unseen) < 0.2


# R4 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renormalise", [True, False])
def test_hierarchical_router_is_the_flat_router_of_product_probabilities(renormalise: bool) -> None:
    config = make_config(
        router_type="hierarchical", n_group=2, topk_group=2, num_experts_per_tok=3, norm_topk_prob=renormalise
    )
    flat = make_config(num_experts_per_tok=3, norm_topk_prob=renormalise)
    router = make_router(config)
    hidden, context = make_tokens()
    output, parameters = router(hidden, context), arrays(router)
    for t, row in enumerate(hidden.numpy()):
        groups = softmax(list(parameters["group_weight"] @ row))
        within = [softmax(list(parameters["weight"][half] @ row)) for half in (slice(0, 4), slice(4, 8))]
        products = [p * q for p, group in zip(groups, within, strict=True) for q in group]
        assert math.isclose(sum(products), 1)
        chosen = choose(dict(enumerate(products)), flat)
        assert routed_weights(output, t) == pytest.approx(weigh(chosen, products, flat), abs=1e-12)


# R5 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nulls", [0, 2])
@pytest.mark.parametrize("top_p", [0.2, 0.4, 0.9])
def test_top_p_takes_the_smallest_set(nulls: int, top_p: float) -> None:
    config = make_config(
        router_type="top_p", router_top_p=top_p, num_null_experts=nulls, num_experts_per_tok=E + nulls
    )
    check_top_p_is_minimal(make_router(config), make_tokens(), top_p)


def test_top_p_of_1_takes_all_experts_in_float32() -> None:
    router = make_router(make_config(router_type="top_p", router_top_p=1.0, num_experts_per_tok=E), torch.float32)
    hidden, context = make_tokens(20_000)
    with torch.no_grad():
        output = router(hidden.float() * 0.3, context)
    cumulated = output.router_logits.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    assert bool((cumulated[:, -1] < 1).any()), "no token whose probabilities sum to less than 1 in float32"
    assert bool(output.record.expert_mask.all())


def test_top_p_breaks_ties_towards_the_lower_index() -> None:
    router = make_router(make_config(router_type="top_p", router_top_p=0.5, num_experts_per_tok=E))
    with torch.no_grad():
        router.weight.zero_()
    assert all(row.nonzero().flatten().tolist() == [0, 1, 2, 3] for row in router(*make_tokens()).record.expert_mask)


@pytest.mark.parametrize("keep_mass", [True, False])
@pytest.mark.parametrize("router_type", ["top_k", "noisy_top_k", "top_p"])
def test_tokens_of_null_experts_alone_have_no_routed_output(router_type: str, keep_mass: bool) -> None:
    config = make_config(
        router_type=router_type,
        num_null_experts=2,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        null_experts_keep_mass=keep_mass,
    )
    block = randomise(SparseMoeBlock(config))
    with torch.no_grad():
        block.router.weight[:E] = -1.0
        block.router.weight[E:] = 1.0
    hidden = torch.rand(1, 24, D) + 0.1
    check_nulls_add_nothing(lambda x: block(x, RoutingContext(torch.zeros(24, dtype=torch.long))), hidden)


# R7 ------------------------------------------------------------------------------------------------------------------

CAUSAL = [name for name in ROUTERS if name not in ("scaled", "top_p_at_least_2")]
OF_IMAGES = {"isolated": {"even": [4, 5, 6, 7], "ragged": [1, 3]}, "semi_isolated": {"even": [2, 3], "ragged": [2]}}


def image_experts(mode: str, name: str) -> list[int]:
    return OF_IMAGES[mode]["even" if "n_group" in ROUTERS[name] else "ragged"]


def mixed_batch() -> tuple[torch.Tensor, RoutingContext]:
    """Hidden states (1, 40, D) of text, then images."""
    return torch.randn(1, 40, D), RoutingContext(torch.arange(40) // 20, torch.randint(0, 30, (40,)))


@pytest.mark.parametrize("mode", ["isolated", "semi_isolated"])
@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("expert_type", ["mlp", "lora", "latent"])
def test_image_experts_cannot_touch_text(name: str, mode: str, expert_type: str) -> None:
    block = randomise(SparseMoeBlock(make_config(mode, **ROUTERS[name], expert_type=expert_type)))
    hidden, context = mixed_batch()
    text, rows = context.modality_ids == Modality.TEXT, image_experts(mode, name)
    before = block(hidden, context)[0]
    before[text].square().sum().backward()
    named = [*block.experts.named_parameters(), *block.router.named_parameters()]
    stacked = [p for key, p in named if p.shape[:1] == (E,) and key != "noise_weight"]  # noise is for training
    for parameter in stacked:
        assert not parameter.grad[rows].any(), "a loss on text has a gradient in the experts of images"
        others = [expert for expert in range(E) if expert not in rows]
        assert parameter.grad[others].any()
    with torch.no_grad():
        for parameter in stacked:
            parameter[rows] += 3.0
    after = block(hidden, context)[0]
    assert torch.equal(before[text], after[text])
    assert not torch.equal(before[~text], after[~text])


def test_small_image_experts_cannot_touch_text() -> None:
    config = make_config("isolated", expert_group_intermediate_sizes={"image": 8})
    block = randomise(SparseMoeBlock(config))
    hidden, context = mixed_batch()
    text = context.modality_ids == Modality.TEXT
    before = block(hidden, context)[0]
    before[text].square().sum().backward()
    small = [p for p in block.experts.parameters() if 8 in p.shape[1:]]
    assert small and not any(p.grad is not None and p.grad.any() for p in small)
    with torch.no_grad():
        for parameter in small:
            parameter += 3.0
    after = block(hidden, context)[0]
    assert torch.equal(before[text], after[text])
    assert not torch.equal(before[~text], after[~text])


@pytest.mark.parametrize("name", CAUSAL)
def test_isolated_experts_tell_the_modality_of_their_tokens(name: str) -> None:
    """Mutual information of modality and expert equals the entropy of the modality."""
    groups = {"text": [0, 1, 2, 3], "image": [4, 5, 6, 7]}
    router = make_router(make_config("isolated", **ROUTERS[name], expert_groups=groups))
    hidden, context = make_tokens(400)
    context = context._replace(modality_ids=context.modality_ids.clamp(max=1))
    index = router(hidden, context).top_k_index
    pairs = [
        (modality, expert)
        for modality, experts in zip(context.modality_ids.tolist(), index.tolist(), strict=True)
        for expert in experts
        if expert < E
    ]

    def entropy(values: list[Any]) -> float:
        return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())

    modality = entropy([m for m, _ in pairs])
    information = modality + entropy([e for _, e in pairs]) - entropy(pairs)
    assert modality > 0.3 and information == pytest.approx(modality, abs=1e-12)
