"""Variation, entropy, orthogonality, variance, overlap: their extremes in closed form, and a plain reference."""

import math
from collections.abc import Callable

import pytest
import reference_losses as reference
import torch
from routings import E, T, group_list, make_record, random_modalities
from torch import Tensor
from torch.nn.functional import one_hot

from unimoe.moe import (
    entropy_loss,
    expert_overlap,
    global_entropy_loss,
    gram_loss,
    orthogonality_loss,
    score_variance_loss,
    token_groups,
    variation_loss,
)

ALL = torch.ones(T, 1)
PROBS = make_record(layers=1).router_probs[0]
OF_TOKENS = [variation_loss, entropy_loss, global_entropy_loss, score_variance_loss]


def evenly(number: int) -> Tensor:
    """Tokens that choose one expert after the other, each sure of its choice."""
    return one_hot(torch.arange(T) % number, number).float()


def orthonormal_rows(rows: int, width: int) -> Tensor:
    square = torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(square).Q[:rows]


def test_variation_is_0_for_even_and_experts_minus_1_for_collapsed_gates() -> None:
    assert variation_loss(evenly(4), ALL) == pytest.approx(0.0)
    assert variation_loss(one_hot(torch.zeros(T, dtype=torch.long), 4), ALL) == pytest.approx(3.0)


def test_variation_compares_only_targets_that_are_open() -> None:
    gates, is_open = evenly(2), torch.ones(T, 2, dtype=torch.bool)
    closed = torch.zeros(T, 3)
    wide, wide_open = torch.cat([gates, closed], 1), torch.cat([is_open, closed.bool()], 1)
    assert variation_loss(wide, ALL, is_open=wide_open) == pytest.approx(0.0)
    assert variation_loss(wide, ALL) > 1


def test_variation_gradient_pushes_gates_from_used_to_unused_experts() -> None:
    gates = torch.full((T, 4), 0.1)
    gates[:, 0] = 0.7
    gates.requires_grad_()
    variation_loss(gates, ALL).backward()
    assert (gates.grad[:, 0] > 0).all() and (gates.grad[:, 1:] < 0).all()


def test_entropy_of_even_and_of_sure_tokens() -> None:
    assert entropy_loss(torch.full((T, E), 1 / E), ALL) == pytest.approx(math.log(E))
    assert entropy_loss(evenly(4), ALL) == pytest.approx(0.0)
    assert global_entropy_loss(evenly(4), ALL) == pytest.approx(-math.log(4))


@pytest.mark.parametrize("loss", [entropy_loss, global_entropy_loss])
def test_entropy_gradients_are_finite_where_experts_are_closed(loss: Callable[..., Tensor]) -> None:
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(0)).requires_grad_()
    closed = torch.zeros(T, E, dtype=torch.bool)
    closed[:, 2] = True
    loss(logits.masked_fill(closed, -torch.inf).softmax(-1), ALL).backward()
    assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0
    assert (logits.grad[:, 2] == 0).all()


def test_local_and_global_entropy_sum_to_minus_the_information_between_token_and_expert() -> None:
    ids = random_modalities()
    probs = make_record(layers=1, closed={1: [0]}, modality_ids=ids).router_probs[0]
    groups = token_groups(ids, per_modality=True)
    actual = entropy_loss(probs, groups) + global_entropy_loss(probs, groups)
    rows, lists = probs.double().tolist(), reference.members(group_list(ids, None, per_modality=True))
    information = [reference.mutual_information(rows, tokens) for tokens in lists]
    assert float(actual) == pytest.approx(-reference.average(information), abs=1e-6)
    assert min(information) > 0.1


def test_the_global_entropy_loss_ends_once_a_modality_spreads_over_enough_experts() -> None:
    probs = evenly(4).requires_grad_()
    spread = global_entropy_loss(probs, ALL, min_experts=3)
    spread.backward()
    assert spread == 0 and (probs.grad == 0).all()
    assert global_entropy_loss(evenly(2), ALL, min_experts=3) == pytest.approx(math.log(3) - math.log(2))
    ids = random_modalities()
    expected = reference.global_entropy(
        PROBS.double().tolist(), group_list(ids, None, per_modality=True), threshold=math.log(4.5)
    )
    groups = token_groups(ids, per_modality=True)
    assert global_entropy_loss(PROBS, groups, min_experts=4.5) == pytest.approx(expected, rel=1e-4)
    assert expected > 0


def test_score_variance_is_0_for_equal_tokens_and_that_of_a_coin_for_sure_ones() -> None:
    assert score_variance_loss(PROBS[:1].expand(T, E), ALL) == pytest.approx(0.0)
    assert score_variance_loss(evenly(4), ALL) == pytest.approx(-(1 / 4) * (1 - 1 / 4))


@pytest.mark.parametrize("loss", OF_TOKENS)
def test_losses_of_no_tokens_are_0(loss: Callable[..., Tensor]) -> None:
    assert loss(PROBS, torch.zeros(T, 5)) == 0


@pytest.mark.parametrize("loss", OF_TOKENS)
def test_groups_without_tokens_and_the_order_of_experts_change_nothing(loss: Callable[..., Tensor]) -> None:
    wide = torch.cat([torch.zeros(T, 1), ALL, torch.zeros(T, 2)], 1)
    torch.testing.assert_close(loss(PROBS, wide), loss(PROBS, ALL))
    torch.testing.assert_close(loss(PROBS.roll(2, dims=1), ALL), loss(PROBS, ALL))


def test_orthonormal_router_rows_cost_nothing() -> None:
    rows = orthonormal_rows(4, 9)
    assert orthogonality_loss(3 * rows) == pytest.approx(0.0, abs=1e-12)  # rows of any length
    assert gram_loss(rows) == pytest.approx(0.0, abs=1e-6)
    assert gram_loss(3 * rows) == pytest.approx((9 - 1) / 4)  # E diagonal entries of E^2


@pytest.mark.parametrize("experts", [3, 6])
def test_two_equal_rows_among_orthogonal_ones_cost_2_over_the_entries(experts: int) -> None:
    rows = orthonormal_rows(experts, 9)
    rows[1] = rows[0]
    assert orthogonality_loss(rows) == pytest.approx(2 / experts**2)
    assert gram_loss(rows) == pytest.approx(2 / experts**2, rel=1e-4)


def test_rows_of_different_groups_may_be_equal() -> None:
    rows = orthonormal_rows(3, 9)
    twice = torch.cat([rows, rows])  # rows 0 to 2 are the first group
    assert orthogonality_loss(twice, groups=2) == pytest.approx(0.0, abs=1e-12)
    assert orthogonality_loss(twice) == pytest.approx(6 / 36)
    rows[1] = rows[0]
    assert orthogonality_loss(torch.cat([rows, orthonormal_rows(3, 9)]), groups=2) == pytest.approx(2 / (2 * 9))


@pytest.mark.parametrize("loss", [orthogonality_loss, gram_loss])
def test_separate_routers_are_judged_apart(loss: Callable[..., Tensor]) -> None:
    routers = torch.randn(3, E, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(routers), torch.stack([loss(router) for router in routers]).mean())


def test_descending_the_orthogonality_loss_turns_rows_apart() -> None:
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = orthogonality_loss(rows)
    before.backward()
    assert orthogonality_loss(rows - 0.1 * rows.grad) < before


def test_overlap_is_that_of_the_reference_whatever_choices_of_no_expert_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, index = torch.randn(6, 3, 4, generator=generator), torch.randint(0, E, (6, 3), generator=generator)
    index[0, 1], index[2], real = E, E, torch.tensor([True] * 5 + [False])
    expected = reference.overlap(outputs.double().tolist(), index.tolist(), E, real.tolist())
    outputs[0, 1], outputs[2] = torch.nan, torch.inf
    outputs.requires_grad_()
    actual = expert_overlap(outputs, index, num_experts=E, attention_mask=real)
    assert float(actual.detach()) == pytest.approx(expected, rel=1e-5) and expected > 0
    actual.backward()
    assert outputs.grad.isfinite().all()
    assert (outputs.grad[[0, 2, 5], [1, 0, 0]] == 0).all()


def test_overlap_of_equal_and_of_orthogonal_outputs() -> None:
    index = torch.arange(3).expand(2, 3)
    output = torch.tensor([1.0, -2.0, 0.5, 0.0])
    squared = float(output.square().sum())
    assert expert_overlap(output.expand(2, 3, 4), index, num_experts=E) == pytest.approx(3 * 2 * squared)
    assert expert_overlap(orthonormal_rows(3, 4).expand(2, 3, 4), index, num_experts=E) == pytest.approx(0.0, abs=1e-6)
