"""Latent experts: what is lost is the tail of the singular values, what is shared is found, and nothing is claimed
that does not save.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT
from torch import Tensor

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import UniMoEError
from unimoe.moe.experts.latent import LatentExperts
from unimoe.surgery.factors import LatentFactors, latent_factors, similar_neighbours, space_similarity

E, WIDTH, D, T = 8, 12, 32, 4000
Stack = tuple[Tensor, Tensor, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(seed: int = 0, experts: int = E) -> Stack:
    gate, up, down = normal(3, experts, WIDTH, D, seed=seed)
    return gate, up, down.mT


def planted(rank: int, group_of: Sequence[int], hidden: int = D, width: int = WIDTH) -> Stack:
    """Experts whose groups have spaces of a rank in common."""
    groups, experts = max(group_of) + 1, len(group_of)
    shared, own = normal(3, groups, rank, hidden, seed=1), normal(3, experts, width, rank, seed=2)
    gate, up, down = own @ shared[:, list(group_of)]
    return gate, up, down.mT


def approximated(factors: LatentFactors, groups: int) -> Stack:
    """The gated experts that latent ones stand for, one by one."""
    w = factors.weights
    size = len(w["gate_proj"]) // groups
    gate = [own @ w["latent_gate"][expert // size] for expert, own in enumerate(w["gate_proj"])]
    up = [own @ w["latent_up"][expert // size] for expert, own in enumerate(w["up_proj"])]
    down = [w["latent_out"][expert // size] @ own for expert, own in enumerate(w["down_proj"])]
    return torch.stack(gate), torch.stack(up), torch.stack(down)


@pytest.mark.parametrize(("groups", "rank"), [(1, 5), (2, 10), (4, 3), (4, 11)])
def test_the_error_of_the_weights_is_the_energy_of_the_values_left_out(groups: int, rank: int) -> None:
    stack, size = draw(), E // groups
    factors = latent_factors(*stack, num_groups=groups, rank=rank)
    assert factors.lost.shape == factors.energy.shape == (3, groups)
    for kind, (weights, found) in enumerate(zip(stack, approximated(factors, groups), strict=True)):
        for group in range(groups):
            members = range(group * size, (group + 1) * size)
            joined = np.concatenate([weights[e].numpy() for e in members], axis=0 if kind < 2 else 1)
            tail = (np.linalg.svd(joined, compute_uv=False)[rank:] ** 2).sum()
            error = float(sum((weights[e] - found[e]).square().sum() for e in members))
            assert error == pytest.approx(tail, rel=1e-9) == float(factors.lost[kind, group])
            assert float(factors.energy[kind, group]) == pytest.approx((joined**2).sum(), rel=1e-12)


@pytest.mark.parametrize("is_whitened", [False, True])
def test_a_space_that_a_group_shares_is_found_and_nothing_is_lost(is_whitened: bool) -> None:
    stack = planted(6, [0, 0, 0, 0, 1, 1, 1, 1])
    spread = normal(E + 1, D, D, seed=3)
    moments = {"input_moment": spread[0] @ spread[0].T, "inner_moments": (spread @ spread.mT)[1:, :WIDTH, :WIDTH]}
    factors = latent_factors(*stack, num_groups=2, rank=6, **(moments if is_whitened else {}))
    for weights, found in zip(stack, approximated(factors, 2), strict=True):
        assert (weights - found).abs().max() <= (1e-9 if is_whitened else 1e-12) * weights.abs().max()
    assert latent_factors(*stack, num_groups=2, max_error=1e-9).weights["gate_proj"].shape == (E, WIDTH, 6)


def latent_config(size: int, *, groups: int) -> UniMoETextConfig:
    fields = {"expert_type": "latent", "expert_latent_size": size, "expert_latent_groups": groups}
    return UniMoETextConfig(hidden_size=D, num_attention_heads=2, moe_intermediate_size=WIDTH, num_experts=E, **fields)


def test_the_parameters_are_those_of_the_closed_form_and_of_latent_experts() -> None:
    factors = latent_factors(*draw(), num_groups=2, rank=9)
    config = latent_config(9, groups=2)
    experts = LatentExperts(config)
    experts.load_state_dict(factors.weights)
    assert factors.parameters == (3 * E * WIDTH * D, 3 * 9 * (2 * D + E * WIDTH))
    assert sum(parameter.numel() for parameter in experts.parameters()) == factors.parameters[1]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_at_the_width_of_the_experts_the_share_of_parameters_is_that_of_the_equation(groups: int) -> None:
    before, after = latent_factors(*draw(), num_groups=groups, rank=WIDTH).parameters
    assert after / before == pytest.approx(WIDTH / D + groups / E)


def test_a_share_of_parameters_gives_the_largest_size_and_an_error_the_smallest() -> None:
    stack = draw()
    factors = latent_factors(*stack, num_groups=2, ratio=0.5)
    before, after = factors.parameters
    assert after <= 0.5 * before < after + 3 * (2 * D + E * WIDTH)
    bound = latent_factors(*stack, num_groups=2, rank=8).relative_error.max()
    for budget, rank in ((bound + 1e-9, 8), (bound - 1e-9, 9)):
        found = latent_factors(*stack, num_groups=2, max_error=float(budget))
        assert found.weights["latent_gate"].shape[1] == rank and (found.relative_error <= budget).all()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"num_groups": 8, "rank": 12},  # each expert a group of its own
            r"size 12 in 8 group\(s\) have 12,672 parameters, and the 8 experts of width 12 have 9,216.*from 1 to 8,",
        ),
        ({"num_groups": 4, "rank": 14}, r"have 9,408 parameters, .* have 9,216. Choose a size from 1 to 13"),
        ({"num_groups": 2, "max_error": 1e-6}, r"size 32 in 2 group\(s\) have 15,360"),
        ({"num_groups": 2, "ratio": 0.01}, r"size 0 in 2 group\(s\) have 0 parameters"),
        ({"num_groups": 3, "rank": 4}, "8 experts cannot stand in 3 groups of one size"),
        ({"num_groups": 2}, "Give one of rank, ratio and max_error"),
        ({"num_groups": 2, "rank": 4, "ratio": 0.5}, "Give one of rank, ratio and max_error"),
    ],
)
def test_what_saves_nothing_is_refused_with_both_numbers(arguments: dict, problem: str) -> None:
    with pytest.raises(UniMoEError, match=problem):
        latent_factors(*draw(), **arguments)


def test_wide_experts_never_save_at_their_width() -> None:
    """Mixtral: I > D."""
    gate, up, down = normal(3, 4, 20, 16).unbind()
    with pytest.raises(UniMoEError, match="size 20 in 1 group"):
        latent_factors(gate, up, down.mT, num_groups=1, rank=20)


def correlated(width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Activations (T, width) with some strong directions."""
    scale = torch.logspace(1, -1, width, dtype=torch.float64)
    rotation = torch.linalg.qr(normal(width, width, seed=seed)).Q
    return normal(2 * T, width, seed=seed + 50) * scale @ rotation + shift


def output_errors(stack: Stack, found: Stack, inputs: Tensor, inner: list[Tensor]) -> list[float]:
    """Mean squared error of what each kind of projection makes of activations, over experts."""
    gate, up, down = ((own - other) for own, other in zip(stack, found, strict=True))
    errors = [
        np.mean([float((x @ own.T).square().sum(-1).mean()) for own in kind])
        for kind, x in ((gate, inputs), (up, inputs))
    ]
    return [*errors, np.mean([float((h @ own.T).square().sum(-1).mean()) for own, h in zip(down, inner, strict=True)])]


@pytest.mark.parametrize("seed", range(3))
def test_with_activations_the_error_of_outputs_is_smaller_on_new_ones_too(seed: int) -> None:
    stack = draw(seed)
    inputs = correlated(D, seed, shift=0.5)
    inner = [correlated(WIDTH, seed + 10 * expert) for expert in range(E)]
    moments = {
        "input_moment": inputs[:T].T @ inputs[:T] / T,
        "inner_moments": torch.stack([h[:T].T @ h[:T] / T for h in inner]),
    }
    plain = latent_factors(*stack, num_groups=2, rank=10)
    white = latent_factors(*stack, num_groups=2, rank=10, **moments)
    seen = output_errors(stack, approximated(white, 2), inputs[:T], [h[:T] for h in inner])
    for kind in range(3):  # what is said to be lost is the error of what the calibration saw, summed over experts
        assert float(white.lost[kind].sum()) / E == pytest.approx(seen[kind], rel=1e-3)
    new = (inputs[T:], [h[T:] for h in inner])
    errors = output_errors(stack, approximated(white, 2), *new)
    without = output_errors(stack, approximated(plain, 2), *new)
    assert all(one < 0.9 * other for one, other in zip(errors, without, strict=True))


def test_an_expert_that_saw_nothing_keeps_what_the_others_leave_it() -> None:
    moments = normal(E, WIDTH, WIDTH)
    moments = moments @ moments.mT
    moments[3] = 0
    factors = latent_factors(*draw(), num_groups=2, rank=8, inner_moments=moments)
    assert all(value.isfinite().all() for value in factors.weights.values())
    best = factors.weights["latent_out"][0].T @ draw()[2][3]  # of the space that the group has
    torch.testing.assert_close(factors.weights["down_proj"][3], best)


def test_similar_experts_become_neighbours() -> None:
    group_of = [0, 1, 2, 0, 2, 1, 1, 0, 2]
    order = similar_neighbours(space_similarity(*planted(4, group_of)), 3)
    assert order == [0, 3, 7, 1, 5, 6, 2, 4, 8]
    with pytest.raises(UniMoEError, match="9 experts cannot stand in 2 groups"):
        similar_neighbours(torch.eye(9), 2)


def test_the_similarity_of_spaces_is_the_cosine_of_their_gram_matrices() -> None:
    stack = draw(experts=3)
    found = space_similarity(*stack)
    for i in range(3):
        for j in range(3):
            cosines = []
            for weights in (stack[0], stack[1], stack[2].mT):
                one, other = (weights[e].T @ weights[e] for e in (i, j))
                cosines.append(float((one * other).sum() / one.norm() / other.norm()))
            assert float(found[i, j]) == pytest.approx(np.mean(cosines), rel=1e-12)


def by_token(stack: Stack, expert: int, x: Tensor) -> Tensor:
    gate, up, down = (weights[expert] for weights in stack)
    return down @ (F.silu(gate @ x) * (up @ x))


def test_latent_experts_compute_what_the_approximated_experts_do() -> None:
    factors = latent_factors(*draw(), num_groups=4, rank=7)
    config = latent_config(7, groups=4)
    config._experts_implementation = "eager"
    experts = LatentExperts(config).double()
    experts.load_state_dict(factors.weights)
    tokens, stack = normal(5, D, seed=4), approximated(factors, 4)
    for expert in range(E):
        expected = torch.stack([by_token(stack, expert, x) for x in tokens])
        torch.testing.assert_close(experts.expert_output(expert, tokens), expected, rtol=1e-10, atol=1e-10)


def test_a_model_whose_experts_share_spaces_keeps_its_logits() -> None:
    """Groups stand anywhere; experts and router rows change places together."""
    fields = {**TEXT, "num_hidden_layers": 1, "num_experts": 6, "moe_intermediate_size": WIDTH}
    torch.manual_seed(0)
    dense = UniMoEForCausalLM._from_config(UniMoETextConfig(**fields), dtype=torch.float64).eval()
    latent_fields = {"expert_type": "latent", "expert_latent_size": 5, "expert_latent_groups": 2}
    config = UniMoETextConfig(**fields, **latent_fields)
    latent = UniMoEForCausalLM._from_config(config, dtype=torch.float64).eval()
    stack = planted(5, [0, 1, 1, 0, 1, 0], hidden=TEXT["hidden_size"])
    experts = dense.model.layers[0].mlp.experts
    experts.gate_up_proj.data.copy_(torch.cat(stack[:2], dim=1))
    experts.down_proj.data.copy_(stack[2])

    order = similar_neighbours(space_similarity(*stack), 2)
    gate, up, down = (weights[order] for weights in stack)
    state = {name: value for name, value in dense.state_dict().items() if ".experts." not in name}
    state["model.layers.0.mlp.router.weight"] = state["model.layers.0.mlp.router.weight"][order]
    made = latent_factors(gate, up, down, num_groups=2, rank=5).weights
    state |= {f"model.layers.0.mlp.experts.{name}": value for name, value in made.items()}
    latent.load_state_dict(state)
    ids = torch.randint(3, 64, (2, 9))
    for model in (dense, latent):
        model.set_experts_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(latent(input_ids=ids).logits, dense(input_ids=ids).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_have_the_dtype_of_the_experts(dtype: torch.dtype) -> None:
    gate, up, down = (weights.to(dtype) for weights in draw())
    factors = latent_factors(gate, up, down, num_groups=2, rank=8)
    assert {value.dtype for value in factors.weights.values()} == {dtype}
    assert all(value.is_contiguous() for value in factors.weights.values())
    assert factors.lost.dtype == torch.float64
