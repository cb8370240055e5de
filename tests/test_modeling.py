"""The multimodal model: merging, invariances, generation, saving."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_config, tiny_inputs, tiny_model
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM

from unimoe import Modality, UniMoEForConditionalGeneration, UniMoEModel

SPARSE = {"num_experts": 4, "num_null_experts": 1, "modality_routing": "bias", "shared_expert_intermediate_size": 8}


@pytest.fixture(scope="module")
def model() -> UniMoEForConditionalGeneration:
    return tiny_model(**SPARSE)


@pytest.fixture(scope="module")
def inputs(model: UniMoEForConditionalGeneration) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config)


@torch.no_grad()
def logits(model: UniMoEForConditionalGeneration, **inputs: torch.Tensor) -> torch.Tensor:
    return model(**inputs).logits


def test_every_medium_reaches_the_last_token(model, inputs) -> None:
    before = logits(model, **inputs)[:, -1]
    for modality in Modality:
        if name := modality.feature_name:
            changed = logits(model, **{**inputs, name: inputs[name] + 1})[:, -1]
            assert not torch.allclose(before, changed), name


@pytest.mark.parametrize("modality", [m for m in Modality if m.feature_name])
def test_one_medium_too_many_is_refused_with_both_counts(model, inputs, modality) -> None:
    name = modality.feature_name
    doubled = {**inputs, name: torch.cat([inputs[name], inputs[name]])}
    tokens = int((inputs["input_ids"] == model.config.token_id(modality)).sum())
    with pytest.raises(ValueError, match=rf"Found {tokens} {modality.key} placeholder token.* but {2 * tokens} "):
        model(**doubled)


def test_placeholders_without_media_are_left_alone_but_media_without_placeholders_are_refused(model, inputs) -> None:
    text = {"input_ids": torch.tensor([[5, 6, 7]]), "pixel_values": inputs["pixel_values"]}
    with pytest.raises(ValueError, match="Found 0 image placeholder"):
        model(**text)


def test_modality_ids_are_read_from_the_placeholders_when_not_given(model, inputs) -> None:
    tokens = {model.config.token_id(modality): int(modality) for modality in model.config.media}
    ids = torch.tensor([[tokens.get(int(token), 0) for token in inputs["input_ids"][0]]])
    torch.testing.assert_close(logits(model, **inputs), logits(model, **inputs, mm_token_type_ids=ids))


def test_left_padding_and_batch_mates_change_nothing(model, inputs) -> None:
    other = tiny_inputs(model.config, seed=1)
    pad = 4
    batch = {
        name: torch.cat([inputs[name], other[name]]) for name in inputs if name not in ("input_ids", "attention_mask")
    }
    ids = torch.cat([inputs["input_ids"], other["input_ids"]])
    batch["input_ids"] = torch.cat([torch.zeros(2, pad, dtype=torch.long), ids], 1)
    batch["attention_mask"] = torch.cat([torch.zeros(2, pad, dtype=torch.long), torch.ones_like(ids)], 1)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    alone = logits(model, **inputs)
    torch.testing.assert_close(logits(model, **batch, position_ids=positions)[:1, pad:], alone, atol=1e-5, rtol=1e-4)


def test_prefill_equals_step_by_step_decoding(model, inputs) -> None:
    whole = logits(model, **inputs)
    cut = inputs["input_ids"].shape[1] - 2
    prefix = {**inputs, "input_ids": inputs["input_ids"][:, :cut], "attention_mask": inputs["attention_mask"][:, :cut]}
    with torch.no_grad():
        first = model(**prefix, use_cache=True)
        rest = model(input_ids=inputs["input_ids"][:, cut:], cache=first.cache)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, atol=1e-5, rtol=1e-4)


def test_implementations_of_experts_and_attention_agree(inputs) -> None:
    model = tiny_model(**SPARSE)
    expected = logits(model, **inputs)
    assert model.model.language_model.config._experts_implementation == "grouped_mm"
    for implementation in ("eager", "batched_mm"):
        model.set_experts_implementation(implementation)
        torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-5, rtol=1e-4)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-5, rtol=1e-4)


def test_permuting_experts_with_their_router_rows_changes_nothing(inputs) -> None:
    model = tiny_model(num_experts=4, modality_routing="bias")
    expected = logits(model, **inputs)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            experts, router = layer.mlp.experts, layer.mlp.router
            for parameter in (experts.gate_up_proj, experts.down_proj, router.weight):
                parameter.copy_(parameter[order])
            router.modality_bias.copy_(router.modality_bias[:, order])
    torch.testing.assert_close(logits(model, **inputs), expected, atol=1e-5, rtol=1e-4)


def test_router_logits_can_be_asked_for_while_decoding_with_a_cache(model, inputs) -> None:
    first = model(**inputs, use_cache=True)
    mask = torch.ones(1, inputs["input_ids"].shape[1] + 1)
    step = model(torch.tensor([[5]]), attention_mask=mask, cache=first.cache, output_router_logits=True)
    assert len(step.router_logits) == 2 and step.losses is None


def test_losses_from_embeddings_are_those_from_ids(inputs) -> None:
    model = tiny_model(num_experts=4, router_aux_loss_scope="modality")
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    expected = model(**inputs, labels=inputs["input_ids"]).loss
    torch.testing.assert_close(model(inputs_embeds=embeds, **others, labels=inputs["input_ids"]).loss, expected)


def test_no_units_give_no_features(model) -> None:
    for modality, shape in ((Modality.IMAGE, (0, 3, 32, 32)), (Modality.VIDEO, (0, 4, 3, 32, 32))):
        assert model.model.encode(modality, torch.zeros(shape)).pooler_output == ()


def test_loss_is_the_weighted_sum_of_its_parts(model, inputs) -> None:
    output = model(**inputs, labels=inputs["input_ids"])
    text = model.config.text_config
    expected = output.losses["language"]
    expected = expected + text.router_aux_loss_coef * output.losses["balance"]
    expected = expected + text.router_z_loss_coef * output.losses["z"]
    torch.testing.assert_close(output.loss, expected)
    assert len(output.router_logits) == len(output.expert_mask) == text.num_hidden_layers


def test_a_dense_model_has_no_router_losses() -> None:
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    assert set(model(**inputs, labels=inputs["input_ids"]).losses) == {"language"}


def test_every_parameter_stands_in_a_part_and_gets_a_gradient(inputs) -> None:
    model = tiny_model(**SPARSE).train()
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == {"model.encoders.speech.tower.embed_positions.weight"}  # Whisper's sinusoids are frozen by design
    parts = model.parts()
    assert {name for names in parts.values() for name in names} == {name for name, _ in model.named_parameters()}
    assert {"encoders.image", "connectors.speech", "router", "experts", "shared_experts", "attention"} <= set(parts)


def test_connectors_of_absent_media_still_take_part_in_training() -> None:
    model = tiny_model().train()
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.connectors.parameters())


def test_gradient_checkpointing_keeps_the_gradients_of_router_losses(inputs) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(**SPARSE).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model(**inputs, labels=inputs["input_ids"]).losses["balance"].backward()
        gradients.append(model.model.language_model.layers[0].mlp.router.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("options", [{"do_sample": False}, {"num_beams": 3}, {"do_sample": True, "top_k": 5}])
def test_generation_with_and_without_cache_gives_the_same_tokens(model, inputs, options) -> None:
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        outputs.append(model.generate(**inputs, **options, max_new_tokens=4, use_cache=use_cache))
    assert torch.equal(*outputs)


def test_batched_beams_equal_beams_one_by_one(model) -> None:
    rows = [tiny_inputs(model.config, seed=seed) for seed in (0, 1)]
    batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    together = model.generate(**batch, num_beams=3, max_new_tokens=4)
    for row, expected in zip(rows, together, strict=True):
        alone = model.generate(**row, num_beams=3, max_new_tokens=4)[0]
        assert expected.tolist()[: len(alone)] == alone.tolist()


def test_a_saved_model_loads_bit_equal_through_every_auto_class(model, inputs, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModelForMultimodalLM, AutoModelForImageTextToText):
        loaded = auto_class.from_pretrained(tmp_path)
        assert isinstance(loaded, UniMoEForConditionalGeneration)
        assert torch.equal(logits(loaded, **inputs), logits(model, **inputs))
    assert isinstance(AutoModel.from_pretrained(tmp_path), UniMoEModel)


def test_router_stays_in_float32_when_loaded_in_bfloat16(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    layer = loaded.model.language_model.layers[0]
    assert layer.mlp.router.weight.dtype == torch.float32
    assert layer.mlp.experts.down_proj.dtype == torch.bfloat16
    assert loaded(**tiny_inputs(loaded.config)).logits.dtype == torch.bfloat16


def test_isolated_routing_survives_saving_and_loading(inputs, tmp_path: Path) -> None:
    groups = {"text": [0, 1], "image": [2, 3], "video": [2, 3]}
    model = tiny_model(num_experts=4, modality_routing="isolated", expert_groups=groups)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, **inputs), logits(model, **inputs))
    assert torch.equal(
        loaded.model.language_model.layers[0].mlp.router.permitted.sum(1), torch.tensor([2, 2, 2, 2, 2])
    )


def test_tied_embeddings_are_one_tensor_after_loading(inputs, tmp_path: Path) -> None:
    config = tiny_config()
    config.tie_word_embeddings = True
    model = UniMoEForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(logits(loaded, **inputs), logits(model, **inputs))
    assert "lm_head" not in loaded.parts()


def test_features_without_an_encoder_are_refused() -> None:
    config = tiny_config()
    config.audio_config = config.audio_connector_config = None
    model = UniMoEForConditionalGeneration(config)
    with pytest.raises(ValueError, match="Got audio_features, but this model takes image, speech"):
        model(input_ids=torch.tensor([[5]]), audio_features=torch.zeros(1, 56, 32))


def test_the_cache_has_its_former_name_too(model, inputs) -> None:
    """What transformers called `past_key_values` before 5.24 is taken, not left out without a word."""
    step = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 1)}
    with torch.no_grad():
        caches = [model(**inputs, use_cache=True).cache for _ in range(2)]
    expected = logits(model, **step, cache=caches[0])
    torch.testing.assert_close(logits(model, **step, past_key_values=caches[1]), expected)
