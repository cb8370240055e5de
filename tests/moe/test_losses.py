"""Router losses: balanced is 1, collapse is seen in each layer and modality, padding takes no part, parts add up."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import pytest
import reference_losses as reference
import torch
import torch.distributed as dist
from launch import FORKS
from routings import B, E, K, S, T, config, group_list, make_record, part, random_modalities
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn.functional import one_hot
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from unimoe import UniMoEForCausalLM
from unimoe.configuration.moe import RouterLoss
from unimoe.moe import (
    RoutingRecord,
    anneal,
    expert_overlap,
    load_balancing_loss,
    orthogonality_loss,
    router_load,
    router_loss_coefficients,
    router_losses,
    router_z_loss,
    stack_layers,
    statistics,
    token_groups,
    weighted_router_loss,
)

TEXT = torch.zeros(B, S, dtype=torch.long)
EVERYTHING = dict.fromkeys(get_args(RouterLoss), 0.5)
CLOSED = {0: [3], 1: [0, 1]}  # what text and images may not choose
ALL_REAL = torch.ones(T, 1)


def collapsed(experts: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, choices and probabilities of tokens that are each sure of one expert."""
    mask = one_hot(experts, number).float()
    return 100.0 * mask, experts[:, None], mask


def as_record(*layers: tuple[Tensor, Tensor, Tensor]) -> RoutingRecord:
    records = [RoutingRecord(logits, probs, chosen, probs.gather(-1, chosen)) for logits, chosen, probs in layers]
    return stack_layers(records)


def balance(record: RoutingRecord, modality_ids: Tensor, scope: str = "layer") -> float:
    settings = config(router_aux_loss_scope=scope)
    return float(router_losses(settings, record, modality_ids=modality_ids)["balance"])


@pytest.mark.parametrize("top_k", [1, 2])
def test_even_use_costs_1(top_k: int) -> None:
    mask = sum(one_hot((torch.arange(T) + k) % 4, 4) for k in range(top_k)).bool()
    assert load_balancing_loss(torch.full((T, 4), 0.25), mask, ALL_REAL) == pytest.approx(1.0)


@pytest.mark.parametrize("scope", ["layer", "modality"])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_balance_is_that_of_the_reference(scope: str, scores: str, top_k: int) -> None:
    ids, attention = random_modalities(), torch.ones(B, S)
    attention[1, 5:] = 0
    closed = CLOSED if scope == "modality" else None
    record = make_record(scores=scores, top_k=top_k, closed=closed, modality_ids=ids)
    losses = router_losses(config(router_aux_loss_scope=scope), record, modality_ids=ids, attention_mask=attention)
    groups = group_list(ids, attention, per_modality=scope == "modality")
    layers = [
        reference.balance(logits.tolist(), probs.double().tolist(), mask.tolist(), groups)
        for logits, mask, probs in zip(record.router_logits, record.expert_mask, record.router_probs, strict=True)
    ]
    assert losses["balance"] == pytest.approx(reference.average(layers), rel=1e-5)
    assert losses["balance"].dtype == torch.float32


def test_two_layers_that_collapse_on_different_experts_cost_2_where_transformers_sees_balance() -> None:
    record = as_record(*(collapsed(torch.full((T,), expert), 2) for expert in range(2)))
    assert balance(record, TEXT) == pytest.approx(2.0)
    assert load_balancing_loss_func(tuple(record.router_logits), 2, 1) == pytest.approx(1.0)


def test_text_and_images_that_collapse_on_different_experts_are_seen_per_modality() -> None:
    modality_ids = torch.arange(B * S).view(B, S) % 2  # as much text as images
    record = as_record(collapsed(modality_ids.flatten(), 2))
    assert balance(record, modality_ids, "modality") == pytest.approx(2.0)
    assert balance(record, modality_ids, "layer") == pytest.approx(1.0)
    assert load_balancing_loss_func(tuple(record.router_logits), 2, 1) == pytest.approx(1.0)


def test_the_worst_balance_of_a_modality_is_the_number_of_experts_open_to_it() -> None:
    ids = torch.arange(B * S).view(B, S) % 2
    logits, chosen, probs = collapsed(2 * ids.flatten(), E)  # text on the first of 2 experts, images on that of 3
    is_open = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])[ids.flatten()] > 0
    record = as_record((logits.masked_fill(~is_open, -torch.inf), chosen, probs))
    assert balance(record, ids, "modality") == pytest.approx((2 + 3) / 2)


def test_the_balance_gradient_flows_through_the_probabilities_only() -> None:
    record = make_record(layers=1)
    probs, mask = record.router_probs[0].clone().requires_grad_(), record.expert_mask[0].float().requires_grad_()
    load = (torch.rand(1, E) + 0.1).requires_grad_()
    load_balancing_loss(probs, mask, ALL_REAL).backward()
    torch.testing.assert_close(probs.grad, (E * mask.detach().mean(0) / K / T).expand(T, E))
    assert mask.grad is None
    load_balancing_loss(probs, mask, ALL_REAL, load=load).backward()
    assert load.grad is None


def test_the_balance_gradient_pushes_towards_unused_experts() -> None:
    logits = torch.zeros(T, E, requires_grad=True)
    load_balancing_loss(logits.softmax(-1), one_hot(torch.zeros(T, dtype=torch.long), E), ALL_REAL).backward()
    assert (logits.grad[:, 0] > 0).all() and (logits.grad[:, 1:] < 0).all()


def test_balance_and_z_of_no_tokens_are_0() -> None:
    record = make_record(layers=1)
    nobody = torch.zeros(T, 5)
    assert load_balancing_loss(record.router_probs[0], record.expert_mask[0], nobody) == 0
    assert router_z_loss(record.router_logits[0], nobody) == 0


def test_z_is_that_of_the_reference_and_ignores_closed_experts() -> None:
    ids, attention = random_modalities(), torch.ones(B, S)
    attention[0, :3] = 0
    record = make_record(closed=CLOSED, modality_ids=ids)
    settings = config(router_aux_loss_scope="modality")
    actual = router_losses(settings, record, modality_ids=ids, attention_mask=attention)["z"]
    groups = group_list(ids, attention, per_modality=False)
    expected = [reference.z(logits.double().tolist(), groups) for logits in record.router_logits]
    assert actual == pytest.approx(reference.average(expected), rel=1e-5)


@pytest.mark.parametrize("scope", ["layer", "modality"])
def test_padding_does_not_change_any_loss(scope: str) -> None:
    ids, record = random_modalities(), make_record()
    settings = config(router_aux_loss_scope=scope, router_losses=EVERYTHING, router_type="noisy_top_k")
    weights, overlaps = [torch.eye(E)] * 2, [torch.ones(())] * 2

    def losses(extra: int) -> dict[str, Tensor]:
        def pad(tensor: Tensor) -> Tensor:
            junk = 10 * torch.rand(len(tensor), B, extra, tensor.shape[-1])
            junk = (junk.long() % E if tensor.dtype == torch.long else junk).to(tensor.dtype)
            return torch.cat([tensor.unflatten(1, (B, S)), junk], 2).flatten(1, 2)

        padded = RoutingRecord(*map(pad, record))
        return router_losses(
            settings,
            padded,
            modality_ids=torch.cat([ids, torch.full((B, extra), 4)], 1),
            attention_mask=torch.cat([torch.ones(B, S), torch.zeros(B, extra)], 1),
            router_weights=weights,
            overlaps=overlaps,
        )

    expected = losses(0)
    assert set(expected) == {"balance", "z", *EVERYTHING}
    torch.testing.assert_close(losses(6), expected)


def uneven_parts() -> tuple[RoutingRecord, Tensor, list[tuple[int, int]]]:
    """A batch of one sequence in two parts of 8 and 16 tokens, the first with more text than the second."""
    ids = torch.tensor([0] * 6 + [1] * 2 + [0] * 3 + [1] * 9 + [2] * 4).view(1, T)
    return make_record(), ids, [(0, 8), (8, T)]


@pytest.mark.parametrize("scope", ["layer", "modality"])
def test_accumulated_parts_equal_one_batch_when_the_load_is_supplied(scope: str) -> None:
    record, ids, parts = uneven_parts()
    settings = config(router_aux_loss_scope=scope, router_losses={"entropy": 1.0})
    groups = token_groups(ids, per_modality=scope == "modality")
    whole = {"load": router_load(record.expert_mask, groups), "group_tokens": groups.sum(0)}
    expected = router_losses(settings, record, modality_ids=ids)
    summed = {name: torch.zeros(()) for name in expected}
    for start, stop in parts:
        losses = router_losses(settings, part(record, start, stop), modality_ids=ids[:, start:stop], **whole)
        for name, value in losses.items():
            summed[name] += (stop - start) / T * value
    torch.testing.assert_close(summed, expected)


def test_with_sequence_scope_every_sequence_is_balanced_apart_and_accumulated_batches_equal_one() -> None:
    record, ids = make_record(), random_modalities()
    mask = torch.ones(B, S, dtype=torch.long)
    mask[1, 5:] = mask[2, 3:] = 0
    settings = config(router_aux_loss_scope="sequence")
    whole = router_losses(settings, record, modality_ids=ids, attention_mask=mask)["balance"]
    by_hand, summed = 0.0, torch.zeros(())
    for b in range(B):
        tokens = [b * S + s for s in range(S) if mask[b, s]]
        for probs, chosen in zip(record.router_probs, record.expert_mask, strict=True):
            for e in range(E):
                f = sum(float(chosen[t, e]) for t in tokens) / (K * len(tokens))
                p = sum(float(probs[t, e]) for t in tokens) / len(tokens)
                by_hand += E * f * p * len(tokens) / int(mask.sum()) / len(record.router_probs)
        share = mask[b].sum() / mask.sum()
        one = part(record, b * S, b * S + S)
        losses = router_losses(settings, one, modality_ids=ids[b : b + 1], attention_mask=mask[b : b + 1])
        summed += share * losses["balance"]
    assert float(whole) == pytest.approx(by_hand, rel=1e-5)
    torch.testing.assert_close(summed, whole)


def test_the_global_entropy_ends_at_the_threshold_of_the_configuration() -> None:
    record, ids = make_record(), random_modalities()
    value = {}
    for least in (None, 1, 3, E):
        settings = config(router_losses={"entropy_global": 1.0}, router_entropy_min_experts=least)
        value[least] = float(router_losses(settings, record, modality_ids=ids)["entropy_global"])
    assert value[None] < 0 and value[1] == 0.0 and 0 <= value[3] < value[E]


@pytest.mark.parametrize("scope", ["layer", "modality"])
def test_load_fractions_do_as_well_as_counts(scope: str) -> None:
    record, ids, _ = uneven_parts()
    settings = config(router_aux_loss_scope=scope)
    load = router_load(record.expert_mask, token_groups(ids, per_modality=scope == "modality"))
    fractions = load / load.sum(-1, keepdim=True).clamp(min=1)
    expected = router_losses(settings, record, modality_ids=ids)["balance"]
    for supplied in (load, fractions):
        torch.testing.assert_close(
            router_losses(settings, record, modality_ids=ids, load=supplied)["balance"], expected
        )


def test_parts_of_a_batch_miss_the_covariance_of_load_and_probability() -> None:
    """Why several processes, or accumulated batches, do not add up to the balance loss of one large batch.

    With a part's share s of the tokens, its loads f and mean probabilities P, the parts' weighted mean exceeds the
    loss of the whole by E * sum over experts of the covariance of f and P over the parts.
    """
    record, _, parts = uneven_parts()
    probs, mask = record.router_probs[0].double(), record.expert_mask[0].double()
    shares = torch.tensor([(stop - start) / T for start, stop in parts], dtype=torch.float64)

    def loss(start: int, stop: int) -> float:
        return float(load_balancing_loss(probs[start:stop], mask[start:stop], torch.ones(stop - start, 1)))

    loads = torch.stack([mask[start:stop].mean(0) / K for start, stop in parts])
    probabilities = torch.stack([probs[start:stop].mean(0) for start, stop in parts])
    means = [(shares[:, None] * values).sum(0) for values in (loads, probabilities)]
    covariance = (shares[:, None] * (loads - means[0]) * (probabilities - means[1])).sum()
    of_parts = sum(float(share) * loss(*bounds) for share, bounds in zip(shares, parts, strict=True))
    assert of_parts - loss(0, T) == pytest.approx(E * float(covariance), abs=1e-6)
    assert abs(E * float(covariance)) > 1e-2


def learn(settings: dict[str, Any], start: int, stop: int) -> dict[str, Tensor]:
    """Balance loss of some of the tokens, weighted by their share, and its gradient."""
    record, ids, _ = uneven_parts()
    record, ids = part(record, start, stop), ids[:, start:stop]
    probs = record.router_probs.clone().requires_grad_()
    losses = router_losses(config(**settings), record._replace(router_probs=probs), modality_ids=ids)
    loss = losses["balance"] * (stop - start) / T
    return {"loss": loss.detach(), "gradient": torch.autograd.grad(loss, probs)[0]}


def process_of_two(rank: int, settings: dict[str, Any], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.save(learn(settings, *uneven_parts()[2][rank]), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


class OneOfTwo:
    """What `torch.distributed` is to one of two processes, when the other's counts are known."""

    def __init__(self, of_other: Sequence[Tensor] = ()) -> None:
        self.own: list[Tensor] = []
        self.of_other = list(of_other)

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self) -> int:
        return 2

    def all_reduce(self, counts: Tensor) -> None:
        self.own.append(counts.clone())
        if self.of_other:
            counts += self.of_other.pop(0)


def learn_apart(settings: dict[str, Any], folder: Path) -> list[dict[str, Tensor]]:
    """What each of two processes learns from its part."""
    processes = [FORKS.Process(target=process_of_two, args=(rank, settings, str(folder))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def learn_in_turn(settings: dict[str, Any], _: Path) -> list[dict[str, Tensor]]:
    """The same in one process: each part is gone through once for its counts, and once with those of the other."""
    parts, counts = uneven_parts()[2], []
    for bounds in parts:
        with patch.object(statistics, "dist", OneOfTwo()) as process:
            learn(settings, *bounds)
        counts.append(process.own)
    results = []
    for bounds, of_other in zip(parts, reversed(counts), strict=True):
        with patch.object(statistics, "dist", OneOfTwo(of_other)):
            results.append(learn(settings, *bounds))
    return results


@pytest.mark.parametrize("learn_parts", [learn_in_turn, pytest.param(learn_apart, marks=pytest.mark.distributed)])
@pytest.mark.parametrize("scope", ["layer", "modality"])
def test_two_processes_with_a_global_load_get_loss_and_gradient_of_one_batch(
    scope: str, learn_parts: Callable[..., list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    settings = {"router_aux_loss_scope": scope, "router_aux_loss_global_batch": True}
    of_parts = learn_parts(settings, tmp_path)
    expected = learn(settings, 0, T)
    torch.testing.assert_close(sum(result["loss"] for result in of_parts), expected["loss"])
    gradient = torch.cat([result["gradient"] for result in of_parts], dim=1)
    torch.testing.assert_close(gradient, expected["gradient"])
    apart = sum(
        learn({**settings, "router_aux_loss_global_batch": False}, *bounds)["loss"] for bounds in uneven_parts()[2]
    )
    assert abs(apart - expected["loss"]) > 1e-2  # without the global load they do not


def test_only_losses_with_a_coefficient_are_computed() -> None:
    record = make_record()
    settings = config(router_losses={"entropy": 0.0, "importance": 0.1})
    assert set(router_losses(settings, record, modality_ids=TEXT)) == {"balance", "z", "importance"}


def test_a_model_without_routers_has_a_language_loss_alone() -> None:
    output = UniMoEForCausalLM(config(num_experts=0))(TEXT, labels=TEXT)
    assert set(output.losses) == {"language"} and output.aux_loss is None


def test_the_load_loss_is_left_out_where_no_noise_was_drawn() -> None:
    settings = config(router_type="noisy_top_k", router_losses={"load": 0.1})
    record = make_record()
    assert "load" in router_losses(settings, record, modality_ids=TEXT)
    losses = router_losses(settings, record._replace(load_probability=None), modality_ids=TEXT)
    assert set(losses) == {"balance", "z"}


@pytest.mark.parametrize("scope", ["layer", "modality"])
def test_every_further_loss_is_the_mean_of_the_reference_over_layers(scope: str) -> None:
    ids, attention = random_modalities(), torch.ones(B, S)
    attention[2, :4] = 0
    record = make_record(closed=CLOSED if scope == "modality" else None, modality_ids=ids)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(E, 7, generator=generator) for _ in range(2)]
    settings = config(router_aux_loss_scope=scope, router_losses=EVERYTHING, router_type="noisy_top_k")
    losses = router_losses(
        settings,
        record,
        modality_ids=ids,
        attention_mask=attention,
        router_weights=weights,
        overlaps=[torch.tensor(1.0), torch.tensor(2.0)],
    )
    groups = {wanted: group_list(ids, attention, per_modality=wanted) for wanted in (False, True)}
    scoped = groups[scope == "modality"]
    fields = (record.router_logits, record.router_probs, record.router_gates, record.load_probability)
    layers = [[tensor.double().tolist() for tensor in layer] for layer in zip(*fields, strict=True)]
    rows = [weight.double().tolist() for weight in weights]
    expected = {
        "importance": [reference.variation(logits, gates, scoped) for logits, _, gates, _ in layers],
        "load": [reference.variation(logits, noise, scoped) for logits, _, _, noise in layers],
        "entropy": [reference.entropy(probs, groups[False]) for _, probs, _, _ in layers],
        "entropy_global": [reference.global_entropy(probs, groups[True]) for _, probs, _, _ in layers],
        "score_variance": [reference.score_variance(logits, probs, scoped) for logits, probs, _, _ in layers],
        "orthogonality": [reference.distance_from_identity(reference.unit(weight), 2) for weight in rows],
        "gram": [reference.distance_from_identity(weight, 1) for weight in rows],
        "expert_overlap": [1.0, 2.0],
    }
    assert set(expected) == set(get_args(RouterLoss))
    for name, values in expected.items():
        assert losses[name] == pytest.approx(reference.average(values), rel=1e-5), name


def test_losses_of_weights_and_outputs_say_what_they_lack() -> None:
    for name, missing in {
        "orthogonality": "router_weights",
        "gram": "router_weights",
        "expert_overlap": "overlaps",
    }.items():
        with pytest.raises(ValueError, match=f"{name}.*{missing}"):
            router_losses(config(router_losses={name: 1.0}), make_record(), modality_ids=TEXT)


def test_the_weighted_sum_takes_each_loss_times_its_coefficient_and_leaves_the_language_loss_out() -> None:
    settings = config(router_aux_loss_coef=0.5, router_z_loss_coef=0, router_losses={"entropy": 2.0, "gram": 3.0})
    assert router_loss_coefficients(settings) == {"balance": 0.5, "z": 0, "entropy": 2.0, "gram": 3.0}
    losses = {"language": 100.0, "balance": 4.0, "z": float("inf"), "entropy": 10.0}
    losses = {name: torch.tensor(value) for name, value in losses.items()}
    assert weighted_router_loss(settings, losses) == pytest.approx(0.5 * 4 + 2 * 10)
    assert weighted_router_loss(settings, {}) == 0


def test_all_losses_are_float32_and_the_same_under_autocast() -> None:
    settings = config(router_losses=EVERYTHING, router_type="noisy_top_k")
    weights = [torch.randn(E, 7, generator=torch.Generator().manual_seed(0))] * 2
    common = {
        "modality_ids": random_modalities(),
        "router_weights": weights,
        "overlaps": [orthogonality_loss(weights[0])],
    }
    expected = router_losses(settings, make_record(), **common)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = router_losses(settings, make_record(), **common)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert {value.dtype for value in actual.values()} == {torch.float32}


def test_no_loss_reads_a_tensor_back() -> None:
    """Fake tensors have no values: a branch on one, or `.item()`, raises."""
    settings = config(router_losses=EVERYTHING, router_type="noisy_top_k", router_aux_loss_scope="modality")
    real = make_record()
    with FakeTensorMode() as fake:
        record = RoutingRecord(*map(fake.from_tensor, real))
        losses = router_losses(
            settings,
            record,
            modality_ids=torch.zeros(B, S, dtype=torch.long),
            attention_mask=torch.ones(B, S),
            router_weights=[torch.ones(E, 7)],
            overlaps=[expert_overlap(torch.ones(T, K, 7), torch.zeros(T, K, dtype=torch.long), num_experts=E)],
        )
        weighted_router_loss(settings, losses)
    assert len(losses) == 2 + len(EVERYTHING)


def test_mismatched_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="24 tokens do not fit modality ids"):
        router_losses(config(), make_record(), modality_ids=TEXT[:, :-1])
    with pytest.raises(ValueError, match="do not fit an attention mask"):
        router_losses(config(), make_record(), modality_ids=TEXT, attention_mask=torch.ones(B, S - 1))
    with pytest.raises(ValueError, match=r"load of shape \(2, 1, 5\) does not fit 5 group"):
        router_losses(
            config(router_aux_loss_scope="modality"), make_record(), modality_ids=TEXT, load=torch.ones(2, 1, E)
        )


def test_annealing_is_linear_and_then_constant() -> None:
    assert [anneal(1.0, 0.2, steps=4, step=step) for step in (0, 1, 2, 4, 9)] == pytest.approx([1, 0.8, 0.6, 0.2, 0.2])
    assert anneal(1.0, 0.2, steps=0, step=0) == 0.2
