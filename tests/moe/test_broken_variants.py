"""The checks of the routers notice mistakes: each of these routers has one, and fails the check that looks for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from moe.router_checks import (
    D,
    E,
    Route,
    arrays,
    check_balance_bias_steers_choice_only,
    check_nulls_add_nothing,
    check_padding_takes_no_part,
    check_parity,
    check_top_p_is_minimal,
    make_config,
    make_router,
    make_tokens,
    randomise,
)
from torch import Tensor, nn

from unimoe import UniMoEForCausalLM
from unimoe.moe import RouterOutput, RoutingContext, SparseMoeBlock

GROUPED = {"scoring_func": "sigmoid", "balance_bias": True, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2}


def chosen_again(output: RouterOutput, chosen: Tensor, weights: Tensor) -> RouterOutput:
    """The output of a router that chose these targets (T, K) with these weights (T, K)."""
    record = output.record._replace(targets=chosen, target_weights=weights)
    return output._replace(top_k_weights=weights, top_k_index=chosen, record=record)


def without_renormalisation(config: Any, router: nn.Module) -> Route:
    def route(hidden: Tensor, context: RoutingContext) -> RouterOutput:
        output = router(hidden, context)
        probabilities = output.router_logits.softmax(dim=-1)
        return chosen_again(output, output.top_k_index, probabilities.gather(-1, output.top_k_index))

    return route


def with_the_bias_in_the_weights(config: Any, router: nn.Module) -> Route:
    def route(hidden: Tensor, context: RoutingContext) -> RouterOutput:
        output = router(hidden, context)
        biased = output.router_logits.sigmoid() + router.balance_bias
        weights = biased.gather(-1, output.top_k_index)
        return chosen_again(output, output.top_k_index, weights / weights.sum(dim=-1, keepdim=True))

    return route


def by_groups(config: Any, router: nn.Module, closed: float) -> Route:
    """Group-limited routing, with this score for the experts of the other groups."""

    def route(hidden: Tensor, context: RoutingContext) -> RouterOutput:
        output = router(hidden, context)
        scores = output.router_logits.sigmoid()
        biased = (scores + router.balance_bias).unflatten(-1, (config.n_group, -1))  # (T, G, E/G)
        best = biased.topk(2, dim=-1).values.sum(dim=-1).topk(config.topk_group, dim=-1).indices
        is_open = torch.zeros(biased.shape[:2], dtype=torch.bool).scatter(-1, best, True)
        limited = biased.masked_fill(~is_open[..., None], closed).flatten(1)
        chosen = limited.topk(config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, chosen)
        return chosen_again(output, chosen, weights / weights.sum(dim=-1, keepdim=True))

    return route


def with_one_target_more(config: Any, router: nn.Module) -> Route:
    """Top-p whose sum includes the target that comes next."""

    def route(hidden: Tensor, context: RoutingContext) -> RouterOutput:
        output = router(hidden, context)
        probabilities, order = output.router_logits.softmax(dim=-1).sort(dim=-1, descending=True)
        needed = (probabilities.cumsum(dim=-1) < config.router_top_p).sum(dim=-1) + 2
        mask = (torch.arange(order.shape[-1]) < needed[:, None]) & (probabilities > 0)
        return output._replace(record=output.record._replace(targets=order.where(mask, E)))

    return route


Breaking = Callable[[Any, nn.Module], Route]


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({"num_experts_per_tok": 3}, without_renormalisation),
        ({"scoring_func": "sigmoid", "balance_bias": True}, with_the_bias_in_the_weights),
        (GROUPED, lambda config, router: by_groups(config, router, closed=0.0)),
        ({"router_type": "top_p", "num_experts_per_tok": E}, with_one_target_more),
    ],
    ids=["renormalisation dropped", "bias in the weights", "groups closed by 0", "top-p off by one"],
)
def test_oracle_notices_a_broken_router(fields: dict[str, Any], broken: Breaking) -> None:
    config = make_config(**fields)
    router = make_router(config)
    if config.balance_bias:
        with torch.no_grad():
            router.balance_bias -= 0.9  # so that scores are negative, as after many steps
    check_parity(router, config, arrays(router))
    with pytest.raises(AssertionError):
        check_parity(broken(config, router), config, arrays(router))


def test_the_groups_of_the_broken_router_are_right_when_closed_by_infinity() -> None:
    """So it is the 0 that the check above notices."""
    config = make_config(**GROUPED)
    router = make_router(config)
    check_parity(by_groups(config, router, closed=float("-inf")), config, arrays(router))


def test_a_balance_bias_in_the_weights_is_noticed() -> None:
    config = make_config(scoring_func="sigmoid", balance_bias=True)
    router = make_router(config)
    with pytest.raises(AssertionError, match="bias in the weights"):
        check_balance_bias_steers_choice_only(with_the_bias_in_the_weights(config, router), router, make_tokens(200))


def test_a_top_p_off_by_one_is_noticed() -> None:
    config = make_config(router_type="top_p", num_experts_per_tok=E)
    router = make_router(config)
    with pytest.raises(AssertionError, match="needs fewer"):
        check_top_p_is_minimal(with_one_target_more(config, router), make_tokens(), config.router_top_p)


def test_null_experts_that_reach_a_real_expert_are_noticed() -> None:
    """The index of a null has to be masked: clamped to the last expert with its weight, that one computes."""
    block = randomise(SparseMoeBlock(make_config(num_null_experts=2)))
    with torch.no_grad():
        block.router.weight[:E] = -1.0
        block.router.weight[E:] = 1.0
    hidden, context = torch.rand(24, D) + 0.1, RoutingContext(torch.zeros(24, dtype=torch.long))

    def unmasked(x: Tensor) -> Tensor:
        output = block.router(x, context)
        return block.experts(x, output.top_k_index.clamp(max=E - 1), torch.full_like(output.top_k_weights, 0.5))

    check_nulls_add_nothing(lambda x: block(x[None], context), hidden)
    with pytest.raises(AssertionError, match="null experts give"):
        check_nulls_add_nothing(unmasked, hidden)


@pytest.mark.parametrize("name", ["balance", "z"])
def test_padding_counted_in_a_router_loss_is_noticed(name: str) -> None:
    model = randomise(UniMoEForCausalLM(make_config(num_experts_per_tok=2)))
    input_ids = torch.randint(1, 30, (2, 6), generator=torch.Generator().manual_seed(0))

    def loss(ids: Tensor, mask: Tensor | None) -> float:
        with torch.no_grad():
            return float(model(ids, attention_mask=mask, labels=ids).losses[name])

    check_padding_takes_no_part(loss, input_ids)
    with pytest.raises(AssertionError):
        check_padding_takes_no_part(lambda ids, mask: loss(ids, None), input_ids)
