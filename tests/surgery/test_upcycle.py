"""Upcycling: what the algebra says is exact is exact, and what is not is refused with the difference."""

import pytest
import torch
from tiny import tiny_inputs, tiny_model

from unimoe import UniMoEForConditionalGeneration
from unimoe.moe import SparseMoeBlock
from unimoe.surgery import Certificate, upcycle

EXACT = [
    {},
    {"num_experts": 8, "num_experts_per_tok": 1},
    {"num_experts": 3, "num_experts_per_tok": 3, "norm_topk_prob": False},
    {"modality_routing": "bias"},
    {"moe_layers": [1]},
    {"expert_type": "lora", "expert_rank": 4},
    {"expert_type": "lora", "modality_routing": "separate", "num_experts_per_tok": 1},
]
INEXACT = [
    {"norm_topk_prob": False},
    {"num_null_experts": 2},
    {"noise": 0.1},
]


def largest_difference(model, other, inputs) -> float:
    with torch.no_grad():
        expected, actual = (m(**inputs).logits for m in (model, other))
    return float((expected - actual).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
@pytest.mark.parametrize("settings", EXACT, ids=str)
def test_an_exact_recipe_keeps_the_logits_for_every_router(settings, dtype, tolerance) -> None:
    dense = tiny_model().to(dtype)
    inputs = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in tiny_inputs(dense.config).items()
    }
    for seed in range(3):
        model, certificate = upcycle(dense, seed=seed, **settings)
        for module in model.modules():
            if isinstance(module, SparseMoeBlock):
                module.router.weight.data.mul_(50)
        assert largest_difference(dense, model, inputs) <= tolerance
        assert certificate.kind == "exact" and certificate.difference <= tolerance


@pytest.mark.parametrize("settings", INEXACT, ids=str)
def test_an_inexact_recipe_is_refused_with_its_difference_or_measured(settings) -> None:
    dense = tiny_model()
    with pytest.raises(ValueError, match=r"not exact: .* by 0\.\d+ of .*exact=False"):
        upcycle(dense, **settings)
    model, certificate = upcycle(dense, exact=False, **settings)
    assert certificate.kind == "measured" and certificate.difference > 1e-3
    assert largest_difference(dense, model, tiny_inputs(dense.config)) > 1e-4


def test_without_renormalisation_the_output_is_the_dense_one_times_the_chosen_probability() -> None:
    dense = tiny_model()
    model, _ = upcycle(dense, norm_topk_prob=False, exact=False)
    block, mlp = (m.model.language_model.layers[0].mlp for m in (model, dense))
    hidden, modalities = torch.randn(1, 40, dense.config.text_config.hidden_size), torch.zeros(1, 40, dtype=torch.long)
    chosen = (hidden[0] @ block.router.weight.T).softmax(-1).topk(2).values.sum(-1)
    torch.testing.assert_close(block(hidden, modalities)[0], mlp(hidden)[0] * chosen[:, None], atol=1e-6, rtol=1e-5)


def test_only_the_named_layers_become_sparse() -> None:
    model, certificate = upcycle(tiny_model(), moe_layers=[1])
    assert [isinstance(layer.mlp, SparseMoeBlock) for layer in model.model.language_model.layers] == [False, True]
    assert certificate.details["moe_layers"] == [1]


def test_equal_experts_give_the_router_no_gradient_from_the_language_loss_and_noise_does() -> None:
    dense = tiny_model()
    inputs = tiny_inputs(dense.config)
    largest = {}
    for noise in (0.0, 0.1):
        model, _ = upcycle(dense, noise=noise, exact=noise == 0)
        model(**inputs, labels=inputs["input_ids"]).losses["language"].backward()
        largest[noise] = float(model.model.language_model.layers[0].mlp.router.weight.grad.abs().max())
    assert largest[0.0] < 1e-6 < 1e-5 < largest[0.1]


def test_the_result_is_saved_and_loaded_like_any_model(tmp_path) -> None:
    dense = tiny_model()
    dense.save_pretrained(tmp_path / "dense")
    model, certificate = upcycle(tmp_path / "dense", num_experts=5)
    model.save_pretrained(tmp_path / "moe")
    certificate.save(tmp_path / "moe")
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path / "moe")
    assert largest_difference(dense, loaded, tiny_inputs(dense.config)) <= 1e-5
    assert Certificate.load(tmp_path / "moe").details["dense"] == str(tmp_path / "dense")


def test_what_cannot_be_upcycled_is_refused() -> None:
    moe, _ = upcycle(tiny_model())
    with pytest.raises(ValueError, match="upcycled model already has 4 experts"):
        upcycle(moe)
    with pytest.raises(ValueError, match="use assemble"):
        upcycle(tiny_model(), modality_routing="isolated")


def test_lora_experts_keep_the_feed_forward_frozen_and_start_out_by_the_seed(tmp_path) -> None:
    dense = tiny_model()
    one, two, other = (upcycle(dense, expert_type="lora", seed=seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    experts = one.model.language_model.layers[0].mlp.experts
    assert not torch.equal(experts.down_a, other.model.language_model.layers[0].mlp.experts.down_a)
    assert torch.equal(experts.base.up_proj.weight, dense.model.language_model.layers[0].mlp.up_proj.weight)
    one.save_pretrained(tmp_path)
    loaded = UniMoEForConditionalGeneration.from_pretrained(tmp_path)
    assert not any(p.requires_grad for p in loaded.model.language_model.layers[0].mlp.experts.base.parameters())
    with pytest.raises(ValueError, match="noise is added to copies"):
        upcycle(dense, expert_type="lora", noise=0.1)
