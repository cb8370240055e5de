"""Families of experts: each equals a slow loop over tokens, whichever implementation computes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unimoe import UniMoEForCausalLM, UniMoETextConfig
from unimoe.moe.experts import GroupedExperts
from unimoe.moe.experts.build import build_experts, outputs_of_choices
from unimoe.moe.experts.latent import LatentExperts
from unimoe.moe.experts.lora import LoRAExperts

T, D, E, K, WIDTH = 13, 16, 6, 3, 24
GROUPS = {"text": [0, 2, 4], "image": [1, 3, 5]}
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "lora": {"expert_type": "lora", "expert_rank": 4, "expert_lora_alpha": 6},
    "latent": {"expert_type": "latent", "expert_latent_size": 8, "expert_latent_groups": 3},
    "two widths": {
        "modality_routing": "isolated",
        "expert_groups": GROUPS,
        "expert_group_intermediate_sizes": {"image": 8},
    },
}
ALONE = {  # one expert in the group of images
    "modality_routing": "isolated",
    "expert_groups": {"text": [0, 1, 2, 3, 4], "image": [5]},
    "expert_group_intermediate_sizes": {"image": 8},
}
KERNELS = ["eager", "grouped_mm", "batched_mm"]
PRECISE = [("eager", torch.float64), ("batched_mm", torch.float64), ("grouped_mm", torch.float32)]


def make(family: str, dtype: torch.dtype = torch.float32, kernel: str = "eager") -> Any:
    config = UniMoETextConfig(
        hidden_size=D, num_attention_heads=2, intermediate_size=WIDTH, num_experts=E, **FAMILIES[family]
    )
    config._experts_implementation = kernel
    experts = build_experts(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in experts.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype) * 0.3
    return experts


def routing(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, experts and weights; some assignments and one whole token ask no expert."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(T, D, generator=generator, dtype=torch.float64).to(dtype)
    index = torch.rand(T, E, generator=generator).topk(K).indices
    weights = torch.rand(T, K, generator=generator, dtype=torch.float64).to(dtype)
    index[::4, 1] = E
    index[5] = E
    return hidden, index, weights.masked_fill(index == E, 0.0)


def mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return down @ (F.silu(gate @ x) * (up @ x))


def expert_by_hand(experts: Any, e: int, x: Tensor) -> Tensor:
    """One expert on one token (D,), from the equations."""
    if isinstance(experts, LoRAExperts):
        s, base = 6 / 4, experts.base  # alpha / rank
        gate_a, up_a = experts.gate_up_a[e].chunk(2)
        gate = base.gate_proj.weight + s * experts.gate_b[e] @ gate_a
        up = base.up_proj.weight + s * experts.up_b[e] @ up_a
        return mlp(x, gate, up, base.down_proj.weight + s * experts.down_b[e] @ experts.down_a[e])
    if isinstance(experts, LatentExperts):
        g = e // 2  # six experts in three groups
        gate = experts.gate_proj[e] @ (experts.latent_gate[g] @ x)
        up = experts.up_proj[e] @ (experts.latent_up[g] @ x)
        return experts.latent_out[g] @ (experts.down_proj[e] @ (F.silu(gate) * up))
    if isinstance(experts, GroupedExperts):
        small, large = experts.banks
        assert small.intermediate_dim == 8 and large.intermediate_dim == WIDTH
        group, local_index = (small, GROUPS["image"].index(e)) if e % 2 else (large, GROUPS["text"].index(e))
        return expert_by_hand(group, local_index, x)
    gate, up = experts.gate_up_proj[e].chunk(2)
    return mlp(x, gate, up, experts.down_proj[e])


def by_hand(experts: Any, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    rows = []
    for x, chosen, share in zip(hidden, index.tolist(), weights, strict=True):
        parts = [w * expert_by_hand(experts, e, x) for e, w in zip(chosen, share, strict=True) if e < E]
        rows.append(torch.stack(parts).sum(0) if parts else torch.zeros_like(x))
    return torch.stack(rows)


@pytest.mark.parametrize(("kernel", "dtype"), PRECISE)
@pytest.mark.parametrize("family", FAMILIES)
def test_experts_equal_a_loop_over_tokens_forward_and_backward(family: str, kernel: str, dtype: torch.dtype) -> None:
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-6}
    results = []
    for compute in (by_hand, lambda experts, *inputs: experts(*inputs)):
        experts, inputs = make(family, dtype, kernel), routing(dtype)
        hidden = inputs[0].requires_grad_()
        weights = inputs[2].requires_grad_()
        output = compute(experts, hidden, inputs[1], weights)
        output.backward(torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output))
        gradients = [hidden.grad, weights.grad.masked_fill(inputs[1] == E, 0.0)]
        results.append([output.detach(), *gradients, *(p.grad for p in experts.parameters() if p.requires_grad)])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_is_as_precise_as_float32_is(family: str, kernel: str) -> None:
    exact = by_hand(make(family, torch.float64), *routing(torch.float64))
    with torch.no_grad():
        error = make(family, kernel=kernel)(*routing()).double() - exact
    assert error.abs().max() <= 1e-6 * exact.abs().max()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_under_autocast_every_kernel_is_near_the_exact_result(family: str, kernel: str) -> None:
    exact = by_hand(make(family, torch.float64), *routing(torch.float64))
    experts, (hidden, index, weights) = make(family, kernel=kernel), routing()
    with torch.autocast("cpu", torch.bfloat16):
        output = experts(hidden.requires_grad_(), index, weights)
    assert output.dtype == torch.float32
    assert (output.double() - exact).abs().max() <= 0.02 * exact.abs().max()
    output.sum().backward()
    assert hidden.grad.dtype == torch.float32 and hidden.grad.abs().max() > 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_tokens_give_no_rows_and_a_backward_pass(family: str, kernel: str) -> None:
    experts, hidden = make(family, kernel=kernel), torch.zeros(0, D, requires_grad=True)
    output = experts(hidden, torch.zeros(0, K, dtype=torch.long), torch.zeros(0, K))
    assert output.shape == (0, D)
    output.sum().backward()
    assert hidden.grad.shape == (0, D)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_without_experts_gets_zero_whatever_is_in_memory(family: str, kernel: str) -> None:
    experts, (hidden, index, weights) = make(family, kernel=kernel), routing()
    hidden.requires_grad_()
    for _ in range(3):
        _poison()
        output = experts(hidden, index, weights)
        assert torch.equal(output[5], torch.zeros(D))
        _poison()
        output.sum().backward()
        assert torch.isfinite(hidden.grad).all() and torch.equal(hidden.grad[5], torch.zeros(D))
        assert all(torch.isfinite(p.grad).all() for p in experts.parameters() if p.grad is not None)


def _poison() -> None:
    """Leave not-a-number in the memory that the next tensors get."""
    for size in (T * K * WIDTH * 2, T * K * WIDTH, T * K * D, T * K * 8, T * D, E * D * WIDTH):
        for _ in range(4):
            torch.full((size,), float("nan"))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_expert_and_the_choices_answer_as_the_weighted_sum_does(family: str) -> None:
    experts, (hidden, index, weights) = make(family, torch.float64), routing(torch.float64)
    torch.testing.assert_close(
        experts.expert_output(4, hidden), torch.stack([expert_by_hand(experts, 4, x) for x in hidden])
    )
    outputs = outputs_of_choices(experts, hidden, index)
    assert outputs.shape == (T, K, D) and (outputs[index == E] == 0).all()
    torch.testing.assert_close((outputs * weights[..., None]).sum(1), experts(hidden, index, weights))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("family", ["lora", "latent"])
def test_materialised_experts_compute_the_same(family: str, dtype: torch.dtype, tolerance: float) -> None:
    experts, inputs = make(family, dtype), routing(dtype)
    factored = experts(*inputs)
    assert (experts.materialize()(*inputs) - factored).abs().max() <= tolerance * factored.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parameters_are_those_of_the_closed_form(family: str) -> None:
    experts = make(family)
    own, shared = {
        "mlp": (3 * WIDTH * D * E, 0),
        "lora": (3 * E * 4 * (D + WIDTH), 3 * WIDTH * D),
        "latent": (3 * E * WIDTH * 8, 3 * 3 * 8 * D),
        "two widths": (3 * 3 * D * (WIDTH + 8), 0),
    }[family]
    assert sum(p.numel() for p in experts.parameters()) == own + shared
    assert sum(experts.expert_sizes()) == own


def _grouped_flops(inputs: Tensor, weights: Tensor, offsets: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """The rows up to the last offset; torch does not count this product."""
    return 2 * int(offsets[-1]) * weights.shape[1] * weights.shape[2]


_grouped_flops._get_raw = True  # type: ignore[attr-defined]  # the counter then gives tensors, not shapes
GROUPED = {torch.ops.aten._grouped_mm: _grouped_flops}


def flops(experts: Any, hidden: Tensor, index: Tensor) -> int:
    with FlopCounterMode(display=False, custom_mapping=GROUPED) as counter, torch.no_grad():
        experts(hidden, index, torch.ones(index.shape))
    return counter.get_total_flops()


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
@pytest.mark.parametrize("family", [*FAMILIES, "alone"])
def test_flops_fall_with_the_share_of_assignments_that_ask_no_expert(
    family: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared products cost the same however many experts a token asks; expert groups that nobody asks cost nothing."""
    monkeypatch.setitem(FAMILIES, "alone", ALONE)
    experts = make(family, kernel=kernel)
    sizes = experts.expert_sizes()
    shared = sum(p.numel() for p in experts.parameters()) - sum(sizes)
    hidden = torch.randn(T, D)
    for asked in range(K + 1):
        index = (E - 1 - torch.arange(K)).repeat(T, 1).masked_fill(torch.arange(K) >= asked, E)
        expected = 2 * T * (shared + sum(sizes[E - asked :]))
        assert flops(experts, hidden, index) == expected, asked


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nulls", [False, True])
def test_a_lone_expert_equals_a_feed_forward_and_skips_who_does_not_ask(kernel: str, nulls: bool) -> None:
    config = UniMoETextConfig(
        hidden_size=D, num_attention_heads=2, intermediate_size=WIDTH, num_experts=1, num_experts_per_tok=1
    )
    config._experts_implementation = kernel
    experts = build_experts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    hidden, weights = torch.randn(T, D, requires_grad=True), torch.rand(T, 1)
    index = (torch.arange(T) % 2 * int(nulls))[:, None]
    output = experts(hidden, index, weights)
    expected = experts.expert_output(0, hidden) * weights.masked_fill(index == 1, 0.0)
    torch.testing.assert_close(output, expected)
    wanted = [hidden, *experts.parameters()]
    actual_gradients = torch.autograd.grad(output.square().sum(), wanted)
    for actual, wish in zip(actual_gradients, torch.autograd.grad(expected.square().sum(), wanted), strict=True):
        torch.testing.assert_close(actual, wish)
    if kernel != "batched_mm":
        assert flops(experts, hidden, index) == 2 * int((index == 0).sum()) * experts.expert_sizes()[0]


def test_lora_experts_start_as_the_frozen_feed_forward() -> None:
    config = UniMoETextConfig(
        hidden_size=D,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        vocab_size=20,
        num_experts=E,
        **FAMILIES["lora"],
    )
    block = UniMoEForCausalLM(config).model.layers[0].mlp
    assert not any(p.requires_grad for p in block.experts.base.parameters())
    for drawn, inputs in ((block.experts.gate_up_a, D), (block.experts.down_a, WIDTH)):  # as peft draws A
        assert 0.9 <= drawn.abs().max() * inputs**0.5 <= 1
    assert all(b.abs().max() == 0 for name, b in block.experts.named_parameters() if name.endswith("_b"))
    hidden = torch.randn(T, D)
    _, index, weights = routing()
    for kernel in KERNELS:
        config._experts_implementation = kernel
        expected = block.experts.base(hidden) * weights.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(block.experts(hidden, index, weights), expected)


def test_loaded_lora_weights_are_not_drawn_again_when_others_are_missing(tmp_path: Path) -> None:
    config = UniMoETextConfig(
        hidden_size=D,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        vocab_size=20,
        num_experts=E,
        **FAMILIES["lora"],
    )
    model = UniMoEForCausalLM(config)
    part = {name: value for name, value in model.state_dict().items() if not name.endswith("down_b")}
    model.save_pretrained(tmp_path, state_dict=dict(part))  # which it empties
    loaded = UniMoEForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in part.items())
    assert all((value == 0).all() for name, value in loaded.items() if name.endswith("down_b"))


@pytest.mark.parametrize("kernel", ["eager", "grouped_mm"])
def test_an_expert_group_that_nobody_asks_is_not_read_and_not_trained(kernel: str) -> None:
    experts = make("two widths", kernel=kernel)
    hidden, index, weights = routing()
    index = torch.tensor(GROUPS["text"]).repeat(T, 1)
    before = experts(hidden, index, weights)
    experts.banks[0].gate_up_proj.data.fill_(float("nan"))
    after = experts(hidden, index, weights)
    assert torch.equal(before, after)
    after.sum().backward()
    gradient = experts.banks[0].gate_up_proj.grad
    assert gradient is None or (gradient == 0).all()


def test_a_rank_that_grouped_mm_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "lora", {"expert_type": "lora", "expert_rank": 3})
    with pytest.raises(ValueError, match=r"3 values .* in torch\.float32 are none. Choose a multiple of 4"):
        make("lora", kernel="grouped_mm")(*routing())


@pytest.mark.parametrize("family", ["lora", "latent"])
def test_a_kernel_that_a_family_does_not_know_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be computed by 'sonicmoe'.*eager, grouped_mm, batched_mm"):
        make(family, kernel="sonicmoe")(*routing())
