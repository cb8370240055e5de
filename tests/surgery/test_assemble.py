"""Assembly: specialists become experts, certified; what cannot be assembled is refused by name."""

import copy
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
    with pytest.raises(ValueError, match="moe: expert_groups, num_experts cannot be given"):
        assemble(sources["base"], specialists(sources), moe={"num_experts": 8, "expert_groups": {}})


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


def test_any_number_of_experts_comes_from_several_specialists_copies_and_the_base(sources) -> None:
    speech = [sources["speech"], tiny_model(7)]
    moe, certificate = assemble(
        sources["base"], {"image": sources["image"], "speech": speech}, base_experts=2, copies=2, router_bias=4.0
    )
    order = ["base", "base", "image", "image", "speech", "speech", "speech", "speech"]
    assert certificate.details["expert_order"] == order and moe.config.text_config.num_experts == 8
    origins = [sources["base"]] * 2 + [sources["image"]] * 2 + [speech[0]] * 2 + [speech[1]] * 2
    hidden = torch.randn(5, 32)
    for expert, origin in enumerate(origins):
        expected = origin.model.language_model.layers[1].mlp(hidden)
        actual = moe.model.language_model.layers[1].mlp.experts(hidden, torch.full((5, 1), expert), torch.ones(5, 1))
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    bias = moe.model.language_model.layers[0].mlp.router.modality_bias
    assert bias[Modality.SPEECH].tolist() == [0, 0, 0, 0, 4, 4, 4, 4]
    assert bias[Modality.TEXT].tolist() == [4, 4, 0, 0, 0, 0, 0, 0]


def test_groups_hold_all_experts_of_a_modality(sources) -> None:
    moe, _ = assemble(
        sources["base"],
        {"image": sources["image"], "text": sources["speech"]},
        copies=2,
        modality_routing="isolated",
    )
    assert moe.config.text_config.expert_groups == {"image": [1, 2], "text": [0, 3, 4]}


@torch.no_grad()
def test_slices_of_a_specialist_add_up_to_it(sources) -> None:
    moe, certificate = assemble(sources["base"], specialists(sources), pieces=4)
    experts = moe.model.language_model.layers[0].mlp.experts
    assert certificate.kind == "exact" and "4 neighbouring experts add up to" in certificate.claim
    assert (moe.config.text_config.num_experts, experts.num_experts) == (12, 12)
    hidden = torch.randn(5, 32)
    total = sum(experts.expert_output(expert, hidden) for expert in range(4, 8))
    torch.testing.assert_close(
        total, sources["image"].model.language_model.layers[0].mlp(hidden), atol=1e-6, rtol=1e-5
    )


def changed_by_rank(base: UniMoEForConditionalGeneration, rank: int) -> UniMoEForConditionalGeneration:
    """The base with a change of a rank to each feed-forward, as LoRA training leaves it."""
    model = copy.deepcopy(base)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            for weight in layer.mlp.parameters():
                weight += torch.randn(len(weight), rank) @ torch.randn(rank, weight.shape[1]) * 0.05
    return model


def test_specialists_trained_by_lora_become_lora_experts_whole(sources) -> None:
    specialist = changed_by_rank(sources["base"], 4)
    moe, certificate = assemble(sources["base"], {"image": specialist}, moe={"expert_type": "lora", "expert_rank": 4})
    assert certificate.kind == "exact" and certificate.difference < 1e-5
    experts = moe.model.language_model.layers[1].mlp.experts
    hidden = torch.randn(5, 32)
    expected = specialist.model.language_model.layers[1].mlp(hidden)
    torch.testing.assert_close(experts.expert_output(1, hidden), expected, atol=1e-5, rtol=1e-4)
    assert not experts.base.gate_proj.weight.requires_grad


def test_a_rank_too_small_is_refused_or_measured(sources) -> None:
    specialist = changed_by_rank(sources["base"], 10)
    with pytest.raises(ValueError, match=r"differs from its source by .*expert_rank is 4.*pass exact=False"):
        assemble(sources["base"], {"image": specialist}, moe={"expert_type": "lora", "expert_rank": 4})
    losses = [
        assemble(
            sources["base"], {"image": specialist}, moe={"expert_type": "lora", "expert_rank": rank}, exact=False
        )[1]
        for rank in (4, 8)
    ]
    assert [certificate.kind for certificate in losses] == ["measured", "measured"]
    assert losses[0].difference > losses[1].difference > 1e-3


def test_noise_is_measured_and_must_be_asked_for(sources) -> None:
    with pytest.raises(ValueError, match="Use noise=0"):
        assemble(sources["base"], specialists(sources), noise=0.1)
    _, certificate = assemble(sources["base"], specialists(sources), noise=0.1, exact=False)
    assert certificate.kind == "measured" and certificate.difference > 1e-3


@torch.no_grad()
def test_shared_parts_come_from_the_base_or_are_averaged_and_what_is_left_is_said(sources) -> None:
    states = {key: model.state_dict() for key, model in sources.items()}
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    kept, certificate = assemble(sources["base"], specialists(sources))
    assert torch.equal(kept.state_dict()[name], states["base"][name])
    assert set(certificate.details["left_to_the_base"]) == {"image", "speech"}
    mean, certificate = assemble(sources["base"], specialists(sources), shared_parts="average")
    expected = sum(state[name].double() for state in states.values()) / 3
    torch.testing.assert_close(mean.state_dict()[name].double(), expected, atol=1e-7, rtol=0)
    foreign = {
        key: sum(
            name.startswith(("model.encoders.", "model.connectors."))
            and f".{key}." not in name
            and not torch.equal(value, states["base"][name])
            for name, value in states[key].items()
        )
        for key in ("image", "speech")
    }
    assert certificate.details["left_to_the_base"] == foreign
    _, certificate = assemble(sources["base"], {"image": changed_by_rank(sources["base"], 2)})
    assert certificate.details["left_to_the_base"] == {}, "a specialist that changed feed-forwards alone leaves none"


@torch.no_grad()
def test_media_parts_that_are_not_taken_are_counted_too(sources) -> None:
    """The first specialist of a modality gives its connector; what a later one, or another's, learned is left."""
    models = [copy.deepcopy(sources["base"]) for _ in range(3)]
    for number, model in enumerate(models):
        model.model.connectors["image"].get_parameter("linear_1.weight").add_(0.1 * (number + 1))
    first, second, other = models
    given = {"image": [first, second], "speech": other}
    moe, certificate = assemble(sources["base"], given)
    assert certificate.details["left_to_the_base"] == {"image": 1, "speech": 1}
    name = "model.connectors.image.linear_1.weight"
    assert torch.equal(moe.state_dict()[name], first.state_dict()[name])
    moe, certificate = assemble(sources["base"], given, shared_parts="average")
    assert certificate.details["left_to_the_base"] == {"speech": 1}
    torch.testing.assert_close(moe.state_dict()[name], sources["base"].state_dict()[name] + 0.15)


def test_layers_that_stay_dense_are_averaged_too(sources) -> None:
    moe, certificate = assemble(sources["base"], specialists(sources), shared_parts="average", moe={"moe_layers": [1]})
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    expected = sum(model.state_dict()[name].double() for model in sources.values()) / 3
    torch.testing.assert_close(moe.state_dict()[name].double(), expected, atol=1e-7, rtol=0)
    assert certificate.details["moe_layers"] == [1]


@torch.no_grad()
def test_shared_experts_begin_as_the_first_channels_of_the_base(sources) -> None:
    fields = {"num_shared_experts": 2, "shared_expert_intermediate_size": 8, "shared_expert_weighting": "router"}
    moe, _ = assemble(sources["base"], specialists(sources), moe=fields | {"num_null_experts": 1})
    shared = moe.model.language_model.layers[0].mlp.shared_expert
    dense = sources["base"].model.language_model.layers[0].mlp
    assert torch.equal(shared.up_proj.weight, dense.up_proj.weight[:16])
    assert torch.equal(shared.down_proj.weight, dense.down_proj.weight[:, :16])
    with pytest.raises(ValueError, match="shared experts are 400 wide in all"):
        assemble(sources["base"], specialists(sources), moe=fields | {"shared_expert_intermediate_size": 200})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pieces": 5}, r"pieces \(5\) does not divide"),
        ({"copies": 0}, "copies is 0; it is at least 1"),
        ({"moe": {"expert_type": "latent"}}, "'latent' holds no feed-forwards"),
        ({"moe": {"expert_type": "lora"}, "pieces": 2}, "LoRA experts change a whole feed-forward"),
    ],
)
def test_what_cannot_be_assembled_is_refused(sources, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        assemble(sources["base"], specialists(sources), **arguments)
