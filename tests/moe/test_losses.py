"""Router losses: balanced is 1, collapse is seen in each layer and modality, padding takes no part."""

import pytest
import torch
from torch import Tensor

from unimoe.moe import count_routing, load_balancing_loss, router_balance_loss, router_z_loss

B, S, E = 2, 8, 4
T = B * S


def collapsed_on(expert: int) -> tuple[Tensor, Tensor]:
    """Logits and mask of a layer that sends every token to one expert."""
    mask = torch.zeros(T, E, dtype=torch.bool)
    mask[:, expert] = True
    return mask.float() * 100, mask


def stack(*layers: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return tuple(layer[0] for layer in layers), tuple(layer[1] for layer in layers)


def evenly() -> tuple[Tensor, Tensor]:
    mask = torch.nn.functional.one_hot(torch.arange(T) % E, E).bool()
    return torch.zeros(T, E), mask


TEXT = torch.zeros(B, S, dtype=torch.long)


def test_even_use_costs_1() -> None:
    logits, masks = stack(evenly())
    assert router_balance_loss(logits, masks, modality_ids=TEXT) == pytest.approx(1.0)


def test_even_top_2_use_costs_1_too() -> None:
    first = torch.nn.functional.one_hot(torch.arange(T) % E, E).bool()
    mask = first | first.roll(1, dims=1)
    assert router_balance_loss((torch.zeros(T, E),), (mask,), modality_ids=TEXT) == pytest.approx(1.0)


def test_layers_that_collapse_on_different_experts_are_not_balanced() -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits, masks = stack(*(collapsed_on(expert) for expert in range(E)))
    assert router_balance_loss(logits, masks, modality_ids=TEXT) == pytest.approx(E)
    assert load_balancing_loss_func(logits, E, 1) == pytest.approx(1.0)  # what pooling the layers hides


def test_modalities_that_collapse_on_different_experts_are_seen_per_modality() -> None:
    modality_ids = torch.cat([torch.zeros(1, S), torch.ones(1, S)]).long()
    mask = torch.nn.functional.one_hot(modality_ids.flatten(), E).bool()
    logits, masks = (mask.float() * 100,), (mask,)
    assert router_balance_loss(logits, masks, modality_ids=modality_ids, per_modality=True) == pytest.approx(E)
    pooled = router_balance_loss(logits, masks, modality_ids=modality_ids)
    assert pooled == pytest.approx(E / 2)


def test_closed_experts_do_not_count() -> None:
    logits = torch.zeros(T, E)
    logits[:, 2:] = float("-inf")
    mask = torch.nn.functional.one_hot(torch.arange(T) % 2, E).bool()
    assert load_balancing_loss(logits, mask, torch.ones(T, 1)) == pytest.approx(1.0)


@pytest.mark.parametrize("per_modality", [False, True])
def test_padding_does_not_change_any_loss(per_modality: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(T, E, generator=generator)
    mask = torch.zeros(T, E, dtype=torch.bool).scatter(1, logits.topk(2).indices, True)
    ids = torch.randint(0, 3, (B, S), generator=generator)

    def losses(extra: int) -> Tensor:
        junk = torch.randn(B, extra, E, generator=generator) * 10
        padded_logits = torch.cat([logits.view(B, S, E), junk], 1).view(-1, E)
        padded_mask = torch.cat([mask.view(B, S, E), junk > 0], 1).view(-1, E)
        padded_ids = torch.cat([ids, torch.zeros(B, extra, dtype=torch.long)], 1)
        attention = torch.cat([torch.ones(B, S), torch.zeros(B, extra)], 1)
        common = {"modality_ids": padded_ids, "attention_mask": attention}
        balance = router_balance_loss((padded_logits,), (padded_mask,), per_modality=per_modality, **common)
        return torch.stack([balance, router_z_loss((padded_logits,), **common)])

    torch.testing.assert_close(losses(5), losses(0))


def test_balance_gradient_flows_through_the_probabilities_and_pushes_towards_unused_experts() -> None:
    logits, mask = collapsed_on(0)
    logits = (logits * 0.01).requires_grad_()
    load_balancing_loss(logits, mask, torch.ones(T, 1)).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()


def test_z_loss_is_the_mean_squared_log_sum_exp() -> None:
    assert router_z_loss((torch.zeros(T, E),), modality_ids=TEXT) == pytest.approx(torch.tensor(float(E)).log() ** 2)


def test_z_loss_of_one_batch_is_the_token_weighted_mean_of_its_parts() -> None:
    logits = torch.randn(T, E, generator=torch.Generator().manual_seed(0))
    halves = [router_z_loss((part,), modality_ids=TEXT[:1]) for part in logits.chunk(2)]
    torch.testing.assert_close(router_z_loss((logits,), modality_ids=TEXT), torch.stack(halves).mean())


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="16 tokens do not fit modality ids"):
        router_z_loss((torch.zeros(T, E),), modality_ids=TEXT[:, :-1])


def test_counts_conserve_assignments_for_each_modality() -> None:
    ids = torch.randint(0, 5, (B, S), generator=torch.Generator().manual_seed(0))
    attention = torch.ones(B, S, dtype=torch.long)
    attention[1, 5:] = 0
    mask = torch.zeros(T, E, dtype=torch.bool)
    mask[:, :2] = True
    counts = count_routing((mask, mask), ids, attention)
    assert counts.shape == (2, 5, E)
    for modality in range(5):
        real = int(((ids == modality) & attention.bool()).sum())
        assert counts[:, modality].sum(-1).tolist() == [2 * real] * 2


def test_parts_of_a_batch_miss_the_covariance_of_load_and_probability() -> None:
    """Why several processes, or accumulated batches, do not add up to the balance loss of one large batch.

    With a part's share s of the tokens, its loads f and mean probabilities P, the parts' weighted mean exceeds the
    loss of the whole by E * sum over experts of the covariance of f and P over the parts.
    """
    tokens, experts, top_k = 60, 5, 2
    logits = 2 * torch.randn(tokens, experts, dtype=torch.float64)
    logits[:20, 0] += 1.5  # the parts differ
    mask = torch.zeros(tokens, experts).scatter(-1, logits.topk(top_k).indices, 1).bool()
    parts = [slice(0, 20), slice(20, 60)]

    def loss(part: slice) -> float:
        return float(load_balancing_loss(logits[part], mask[part], torch.ones(len(logits[part]), 1)))

    shares = torch.tensor([20 / 60, 40 / 60], dtype=torch.float64)
    loads = torch.stack([mask[part].double().mean(0) / top_k for part in parts])
    probabilities = torch.stack([logits[part].softmax(-1).mean(0) for part in parts])
    means = [(shares[:, None] * values).sum(0) for values in (loads, probabilities)]
    covariance = (shares[:, None] * (loads - means[0]) * (probabilities - means[1])).sum()
    of_parts = sum(float(share) * loss(part) for share, part in zip(shares, parts, strict=True))
    assert of_parts - loss(slice(0, tokens)) == pytest.approx(experts * float(covariance), abs=1e-6)
    assert abs(experts * float(covariance)) > 1e-2
