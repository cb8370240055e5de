"""Diversity of experts: copies have 1, planted orthogonal ones 0, and no order of experts or tokens matters."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unimoe.analysis.diversity import cosine_similarity, effective_experts, linear_cka, pairwise_cosine

E, T, D = 4, 40, 6
OUTPUTS = torch.randn(E, T, D, generator=torch.Generator().manual_seed(0))
METRICS = [pairwise_cosine, linear_cka]


def planted() -> Tensor:
    """Experts that answer each in its own direction, to signals of the tokens that are uncorrelated."""
    centred = torch.randn(T, E, generator=torch.Generator().manual_seed(1))
    signals = torch.linalg.qr(centred - centred.mean(0)).Q  # (T, E), orthonormal columns of mean 0
    return torch.einsum("te,ed->etd", signals, torch.eye(E, D))


@pytest.mark.parametrize("metric", METRICS)
def test_copies_have_1_and_planted_orthogonal_experts_0(metric) -> None:
    copies = OUTPUTS[:1].expand(E, T, D)
    torch.testing.assert_close(metric(copies), torch.ones(E, E))
    torch.testing.assert_close(metric(planted()), torch.eye(E), atol=1e-5, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_the_order_of_experts_permutes_and_that_of_tokens_changes_nothing(metric) -> None:
    order, expected = torch.tensor([2, 0, 3, 1]), metric(OUTPUTS)
    torch.testing.assert_close(metric(OUTPUTS[order]), expected[order][:, order])
    torch.testing.assert_close(metric(OUTPUTS[:, torch.randperm(T)]), expected)
    torch.testing.assert_close(expected, expected.T)


def test_cosine_is_the_mean_over_tokens() -> None:
    x = OUTPUTS.double().numpy()
    for i in range(E):
        for j in range(E):
            cosines = [a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) for a, b in zip(x[i], x[j], strict=True)]
            assert pairwise_cosine(OUTPUTS)[i, j] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_cka_is_that_of_the_feature_covariances() -> None:
    x = OUTPUTS.double().numpy()
    x = x - x.mean(axis=1, keepdims=True)
    for i in range(E):
        for j in range(E):
            own = np.linalg.norm(x[i].T @ x[i]) * np.linalg.norm(x[j].T @ x[j])
            expected = np.linalg.norm(x[j].T @ x[i]) ** 2 / own
            assert linear_cka(OUTPUTS)[i, j] == pytest.approx(expected, abs=1e-5)


def test_cka_sees_through_rotation_and_scale_and_cosine_does_not() -> None:
    rotation = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2))).Q
    pair = torch.stack([OUTPUTS[0], -3 * OUTPUTS[0] @ rotation + 5])
    assert linear_cka(pair)[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert abs(pairwise_cosine(pair)[0, 1]) < 0.9


@pytest.mark.parametrize("metric", METRICS)
def test_an_expert_that_answers_nothing_is_like_no_other(metric) -> None:
    outputs = OUTPUTS.clone()
    outputs[1] = 0
    assert metric(outputs).isfinite().all() and (metric(outputs)[1] == 0).all()


def test_router_rows_compare_by_direction() -> None:
    rows = torch.eye(E, D) * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    torch.testing.assert_close(cosine_similarity(rows), torch.eye(E))
    rows[1] = -2 * rows[0]
    assert cosine_similarity(rows)[0, 1] == pytest.approx(-1.0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(cosine_similarity(rows[order]), cosine_similarity(rows)[order][:, order])
    torch.testing.assert_close(cosine_similarity(rows.expand(3, E, D))[2], cosine_similarity(rows))


def test_effective_experts_count_the_evenly_used_ones() -> None:
    load = torch.tensor([[5, 0, 0, 0], [3, 3, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    assert effective_experts(load).tolist() == pytest.approx([1, 2, 4, 0])
    uneven = torch.tensor([0.5, 0.25, 0.25])
    assert effective_experts(uneven) == pytest.approx(2**1.5)
    assert effective_experts(100 * uneven[[2, 0, 1]]) == pytest.approx(2**1.5)
