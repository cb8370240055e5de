"""Assembly: specialists become experts, certified; what cannot be assembled is refused by name."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_inputs, tiny_model

from unimoe import Modality, UniMoEForConditionalGeneration
from unimoe.surgery import Certificate, assemble


@pytest.fixture(scope="module")
def sources() -> dict[str, UniMoEForConditionalGeneration]:
    return {key: tiny_model(seed) for seed, key in enumerate(["base", "image", "speech"])}


def specialists(sources: dict) -> dict:
    return {key: sources[key] for key in ("image", "speech")}


@pytest.mark.parametrize("mode", ["shared", "bias", "separate", "isolated", "semi_isolated"])
def test_identical_specialists_leave_the_logits_unchanged(mode) -> None:
    base = tiny_model()
    inputs = tiny_inputs(base.config)
    moe, certificate = assemble(base, {"image": base, "speech": base}, modality_routing=mode)
    with torch.no_grad():
        expected, actual = base(**inputs).logits, moe(**inputs).logits
    assert (expected - actual).abs().max() <= 1e-5 * expected.abs().max()
    assert certificate.kind == "exact"


def test_tokens_sent_to_one_expert_meet_the_feed_forward_of_its_source(sources) -> None:
    moe, certificate = assemble(sources["base"], specialists(sources))
    hidden = torch.randn(9, 32)
    for expert, key in enumerate(certificate.details["expert_order"]):
        for index, layer in enumerate(moe.model.language_model.layers):
            expected = sources[key].model.language_model.layers[index].mlp(hidden)
            actual = layer.mlp.experts(hidden, torch.full((9, 1), expert), torch.ones(9, 1))
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_media_parts_come_from_their_specialist_and_the_rest_from_the_base(sources) -> None:
    moe, _ = assemble(sources["base"], specialists(sources))
    state = moe.state_dict()
    for name, value in sources["image"].state_dict().items():
        if ".image." in name:
            assert torch.equal(state[name], value), name
    for name, value in sources["base"].state_dict().items():
        if ("language_model.layers" in name and "mlp" not in name) or ".audio." in name or "embed_tokens" in name:
            assert torch.equal(state[name], value), name


def test_tokens_start_out_preferring_their_own_expert(sources) -> None:
    moe, _ = assemble(sources["base"], specialists(sources), router_bias=5.0)
    bias = moe.model.language_model.layers[0].mlp.router.modality_bias
    best = {modality.key: int(bias[modality].argmax()) for modality in Modality}
    assert best == {"text": 0, "image": 1, "video": 1, "audio": 0, "speech": 2}


@pytest.mark.parametrize(
    "moe",
    [
        {"router_type": "top_p", "router_top_p": 0.7, "num_null_experts": 1},
        {"router_type": "hash"},
        {"decoder_sparse_step": 2, "router_gradient": "straight_through"},
    ],
)
def test_any_router_can_be_put_before_the_specialists(sources, moe) -> None:
    k = 1 if moe.get("router_type") == "hash" else 2
    mode = "shared" if k == 1 else "bias"
    one, two = (
        assemble(sources["base"], specialists(sources), moe=moe, num_experts_per_tok=k, modality_routing=mode)[0]
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    text = one.config.text_config
    assert all(getattr(text, name) == value for name, value in moe.items())
    assert torch.isfinite(one(**tiny_inputs(one.config)).logits).all()


def test_what_the_specialists_decide_cannot_be_given(sources) -> None:
    with pytest.raises(ValueError, match="moe: expert_type, num_experts cannot be given"):
        assemble(sources["base"], specialists(sources), moe={"num_experts": 8, "expert_type": "lora"})


def test_the_generation_settings_of_the_base_are_kept(sources) -> None:
    base = tiny_model()
    base.generation_config.update(max_new_tokens=32, eos_token_id=[2, 9])
    moe, _ = assemble(base, specialists(sources))
    assert (moe.generation_config.max_new_tokens, moe.generation_config.eos_token_id) == (32, [2, 9])


def test_the_seed_decides_the_router(sources) -> None:
    routers = [
        assemble(sources["base"], specialists(sources), seed=seed)[0].model.language_model.layers[0].mlp.router.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(routers[0], routers[1]) and not torch.equal(routers[0], routers[2])


def test_assembly_works_from_folders_and_its_certificate_is_saved(sources, tmp_path: Path) -> None:
    for key, model in sources.items():
        model.save_pretrained(tmp_path / key)
    moe, certificate = assemble(tmp_path / "base", {"image": tmp_path / "image", "speech": tmp_path / "speech"})
    in_memory, _ = assemble(sources["base"], specialists(sources))
    assert all(torch.equal(a, b) for a, b in zip(moe.parameters(), in_memory.parameters(), strict=True))
    certificate.save(tmp_path)
    assert Certificate.load(tmp_path) == certificate
    assert certificate.details["experts"]["image"] == str(tmp_path / "image")


def test_a_specialist_of_another_shape_is_refused_by_name(sources) -> None:
    with pytest.raises(ValueError, match=r"image specialist does not fit the base: .*mlp"):
        assemble(sources["base"], {"image": tiny_model(intermediate_size=40)})


def test_a_sparse_source_is_refused(sources) -> None:
    with pytest.raises(ValueError, match="image model already has 4 experts"):
        assemble(sources["base"], {"image": tiny_model(num_experts=4)})


def test_a_modality_without_its_own_encoder_is_refused(sources) -> None:
    with pytest.raises(ValueError, match="'video' has no encoder of its own"):
        assemble(sources["base"], {"video": sources["image"]})
