"""Merging: groups, matching and averages equal slow references, and copies are found and come back as they were."""

from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT
from torch import Tensor

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.analysis.diversity import cosine_similarity, linear_cka, pairwise_cosine
from unimoe.errors import UniMoEError
from unimoe.surgery.averages import group_experts, merge_experts, weight_features
from unimoe.surgery.matching import least_cost_matching, match_channels

E, WIDTH, D, T = 6, 10, 8, 40
PLANTED = [0, 1, 0, 2, 1, 0]
Stack = tuple[Tensor, Tensor, Tensor]


def draw(number: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Stack:
    """Random experts: gate, up and down projections."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(number, WIDTH, D), (number, WIDTH, D), (number, D, WIDTH)]
    gate, up, down = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
    return gate, up, down


def shuffled(stack: Stack, seed: int = 0) -> Stack:
    """The same experts, with the channels of each in another order."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(WIDTH, generator=generator) for _ in stack[0]]
    gate, up, down = stack
    return (
        torch.stack([own[order] for own, order in zip(gate, orders, strict=True)]),
        torch.stack([own[order] for own, order in zip(up, orders, strict=True)]),
        torch.stack([own[:, order] for own, order in zip(down, orders, strict=True)]),
    )


def take(stack: Stack, experts: Sequence[int]) -> Stack:
    gate, up, down = (weights[list(experts)] for weights in stack)
    return gate, up, down


def answers(stack: Stack, tokens: Tensor) -> Tensor:
    """What every expert answers to every token, (E, T, D)."""
    rows = [
        torch.stack([down @ (F.silu(gate @ x) * (up @ x)) for x in tokens])
        for gate, up, down in zip(*stack, strict=True)
    ]
    return torch.stack(rows)


def probe(seed: int = 7) -> Tensor:
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def partition_by_hand(similarity: np.ndarray, number: int) -> set[frozenset[int]]:
    """Average linkage from its definition: every mean anew, over all pairs of members."""
    groups = [frozenset([expert]) for expert in range(len(similarity))]
    while len(groups) > number:
        one, other = max(
            combinations(groups, 2), key=lambda pair: np.mean([similarity[i, j] for i in pair[0] for j in pair[1]])
        )
        groups = [group for group in groups if group not in (one, other)] + [one | other]
    return set(groups)


def as_partition(aliases: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(e for e, own in enumerate(aliases) if own == group) for group in set(aliases)}


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_average_linkage(seed: int) -> None:
    features = np.random.default_rng(seed).standard_normal((9, 3))
    similarity = cosine_similarity(torch.from_numpy(features))
    before = similarity.clone()
    for number in range(1, 10):
        aliases = group_experts(similarity, number)
        assert as_partition(aliases) == partition_by_hand(similarity.numpy(), number), number
        firsts = [aliases.index(group) for group in range(number)]
        assert firsts == sorted(firsts) and len(aliases) == 9
    assert torch.equal(similarity, before)


@pytest.mark.parametrize("number", [0, 7])
def test_a_number_of_groups_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(UniMoEError, match=f"6 experts cannot form {number} groups. Choose a number from 1 to 6"):
        group_experts(torch.eye(E), number)


SPACES: dict[str, Any] = {
    "weights": lambda stack, router: cosine_similarity(weight_features(*stack)),
    "mean outputs": lambda stack, router: cosine_similarity(answers(stack, probe()).mean(dim=1)),
    "outputs by token": lambda stack, router: pairwise_cosine(answers(stack, probe())),
    "alignment of kernels": lambda stack, router: linear_cka(answers(stack, probe())),
    "router rows": lambda stack, router: cosine_similarity(router),
    "router logits": lambda stack, router: cosine_similarity(router @ probe().T),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("space", SPACES)
def test_planted_copies_are_found_in_every_space(space: str, seed: int) -> None:
    router = torch.randn(3, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[PLANTED]
    stack = take(draw(3, seed), PLANTED)
    assert group_experts(SPACES[space](stack, router), 3) == PLANTED
    if "outputs" in space:  # in which the order of channels plays no part
        assert group_experts(SPACES[space](shuffled(stack), router), 3) == PLANTED


@pytest.mark.parametrize("seed", range(5))
def test_a_matching_costs_the_least_of_all_permutations(seed: int) -> None:
    cost = np.random.default_rng(seed).standard_normal((6, 6)).round(seed % 3)  # with ties too
    found = least_cost_matching(cost)
    assert sorted(found) == list(range(6))
    least = min(cost[range(6), list(columns)].sum() for columns in permutations(range(6)))
    assert cost[range(6), found].sum() == pytest.approx(least, abs=1e-12)


def test_a_larger_matching_costs_what_that_of_networkx_costs() -> None:
    cost = np.random.default_rng(0).standard_normal((24, 24))
    graph = networkx.Graph()
    graph.add_weighted_edges_from((("row", i), ("column", j), -cost[i, j]) for i in range(24) for j in range(24))
    pairs = (sorted(pair, reverse=True) for pair in networkx.max_weight_matching(graph, maxcardinality=True))
    expected = sum(cost[row[1], column[1]] for row, column in pairs)
    found = least_cost_matching(cost)
    assert sorted(found) == list(range(24)) and cost[range(24), found].sum() == pytest.approx(expected)


def test_channels_in_another_order_are_found_again() -> None:
    channels = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(match_channels(channels, channels[order]), order.argsort())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_copies_come_back_bit_for_bit_whatever_the_order_of_their_channels(dtype: torch.dtype) -> None:
    once = draw(3, dtype=dtype)
    full = shuffled(take(once, PLANTED))
    counts = torch.tensor([3, 1, 9, 5, 4, 2])
    merged = merge_experts(*full, PLANTED, counts=counts)
    expected = take(full, [2, 4, 3])  # the most used of each group
    assert all(torch.equal(own, other) for own, other in zip(merged, expected, strict=True))
    assert all(own.dtype == dtype and own.is_contiguous() for own in merged)
    apart = merge_experts(*full, PLANTED, counts=counts, align=False)
    assert not torch.equal(apart[0], expected[0]) and torch.equal(apart[0][2], expected[0][2])


def test_an_average_is_weighed_by_use_and_aligned_to_the_most_used() -> None:
    """By every permutation of channels, one projection at a time."""
    generator = torch.Generator().manual_seed(3)
    gate, up, down = (torch.randn(3, *shape, generator=generator).double() for shape in [(4, 5), (4, 5), (5, 4)])
    used = [2.0, 0.0, 6.0]

    def distance(order: Sequence[int]) -> float:
        order = list(order)
        differences = (gate[0][order] - gate[2], up[0][order] - up[2], down[0][:, order] - down[2])
        return sum(float(difference.square().sum()) for difference in differences)

    nearest = list(min(permutations(range(4)), key=distance))
    sums = [0.25 * gate[0][nearest], 0.25 * up[0][nearest], 0.25 * down[0][:, nearest]]
    expected = [part + 0.75 * own[2] for part, own in zip(sums, (gate, up, down), strict=True)]
    for merged, wish in zip(
        merge_experts(gate, up, down, [0, 0, 0], counts=torch.tensor(used)), expected, strict=True
    ):
        torch.testing.assert_close(merged, wish[None])


@pytest.mark.parametrize("counts", [None, torch.zeros(2)])
def test_experts_that_nobody_uses_are_averaged_evenly(counts: Tensor | None) -> None:
    stack = draw(2)
    for merged, own in zip(merge_experts(*stack, [0, 0], counts=counts, align=False), stack, strict=True):
        torch.testing.assert_close(merged[0], own.mean(dim=0))


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_similar_experts_lose_less_than_random_ones(seed: int) -> None:
    """Twelve experts around four, of unequal use; the error of what the layer answers, weighed by use."""
    generator = torch.Generator().manual_seed(seed)
    origin = torch.arange(12) % 4
    noise = draw(12, seed + 100)
    stack = tuple(own[origin] + 0.5 * other for own, other in zip(draw(4, seed), noise, strict=True))
    counts = torch.randint(1, 50, (12,), generator=generator)
    tokens = probe(seed)
    expected = answers(stack, tokens)  # type: ignore[arg-type]

    def error(aliases: list[int]) -> float:
        found = answers(merge_experts(*stack, aliases, counts=counts), tokens)[aliases]
        return float((counts * (found - expected).square().sum(dim=(1, 2))).sum())

    drawn = [torch.randperm(12, generator=generator).tolist() for _ in range(5)]
    random = np.mean([error([number % 4 for number in order]) for order in drawn])
    for similarity in (cosine_similarity(weight_features(*stack)), cosine_similarity(expected.mean(dim=1))):
        assert error(group_experts(similarity, 4)) <= random


@pytest.mark.parametrize("k", [1, 2, E])
def test_a_model_of_permuted_copies_keeps_its_logits_when_these_are_merged(k: int) -> None:
    fields = {**TEXT, "num_hidden_layers": 1, "num_experts": E, "num_experts_per_tok": k}
    torch.manual_seed(k)
    full = UniMoEForCausalLM._from_config(UniMoETextConfig(**fields), dtype=torch.float64).eval()
    full.set_experts_implementation("eager")
    experts = full.model.layers[0].mlp.experts
    gate, up = (part[PLANTED] * 20 for part in experts.gate_up_proj.data.chunk(2, dim=1))
    order = torch.randperm(gate.shape[1])
    stack = [gate, up, experts.down_proj.data[PLANTED] * 20]
    for own in stack[:2]:
        own[5] = own[5][order]
    stack[2][5] = stack[2][5][:, order]
    experts.gate_up_proj.data.copy_(torch.cat(stack[:2], dim=1))
    experts.down_proj.data.copy_(stack[2])

    tokens = torch.randn(T, TEXT["hidden_size"], dtype=torch.float64)
    with torch.no_grad():
        outputs = torch.stack([experts.expert_output(expert, tokens) for expert in range(E)])
    aliases = group_experts(cosine_similarity(outputs.mean(dim=1)), 3)
    small = UniMoEForCausalLM._from_config(UniMoETextConfig(**fields, expert_aliases=[aliases]), dtype=torch.float64)
    small.eval().set_experts_implementation("eager")
    gate, up, down = merge_experts(*stack, aliases)
    merged = {"gate_up_proj": torch.cat([gate, up], dim=1), "down_proj": down}
    own_state = {name: merged.get(name.rpartition(".")[2], value) for name, value in full.state_dict().items()}
    small.load_state_dict(own_state)
    ids = torch.randint(3, 64, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(small(input_ids=ids).logits, full(input_ids=ids).logits, rtol=1e-12, atol=1e-12)
