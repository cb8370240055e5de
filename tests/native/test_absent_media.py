"""Placeholders without features are refused with both counts; not in later steps, nor for assistants that draft."""

import copy

import pytest
import torch
from tiny import TEXT, tiny_model
from transformers import GenerationConfig

from unimoe import MEDIA, Modality, UniMoEForCausalLM, UniMoETextConfig
from unimoe.errors import UniMoEError

GREEDY = {"max_new_tokens": 4, "eos_token_id": None, "do_sample": False}


def without(inputs: dict, *modalities: Modality) -> dict:
    """Inputs without the features of some modalities; without all of them if none is named."""
    dropped = {modality.feature_name for modality in modalities or MEDIA}
    return {name: value for name, value in inputs.items() if name not in dropped}


def counts(model, inputs, modality: Modality) -> int:
    return int((inputs["input_ids"] == model.config.token_id(modality)).sum())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("modality", MEDIA)
def test_a_forward_without_the_features_of_one_modality_is_refused_with_both_counts(inputs, modality, training):
    model = tiny_model().train(training)
    found = rf"Found {counts(model, inputs, modality)} {modality.key} placeholder token\(s\) but 0 {modality.key}"
    for part, labels in ((model, {}), (model, {"labels": inputs["input_ids"]}), (model.model, {})):
        with pytest.raises(UniMoEError, match=rf"{found}.*{modality.feature_name}"):
            part(**without(inputs, modality), **labels)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"use_cache": False}, {"prefill_chunk_size": 7}])
@pytest.mark.parametrize("modality", MEDIA)
def test_generation_without_the_features_of_one_modality_is_refused(model, inputs, modality, options) -> None:
    with pytest.raises(UniMoEError, match=rf"{modality.key} placeholder token\(s\) but 0"):
        model.generate(**without(inputs, modality), **{**GREEDY, **options})


@pytest.mark.parametrize("modality", MEDIA)
def test_features_without_placeholders_are_refused_in_forward_and_generate(model, inputs, modality) -> None:
    kept = inputs["input_ids"] != model.config.token_id(modality)
    text = {
        **inputs,
        "input_ids": inputs["input_ids"][kept][None],
        "attention_mask": inputs["attention_mask"][kept][None],
    }
    for call in (model, model.generate):
        with pytest.raises(UniMoEError, match=rf"Found 0 {modality.key} placeholder token\(s\) but \d+"):
            call(**text)


def test_a_medium_cut_off_with_its_text_is_refused(model, inputs) -> None:
    cut = {**inputs, **{name: inputs[name][:, :-4] for name in ("input_ids", "attention_mask")}}
    for call in (model, model.generate):
        with pytest.raises(UniMoEError, match="do not truncate"):
            call(**cut)


def test_a_unit_too_few_in_what_was_encoded_before_is_refused(model, inputs) -> None:
    outputs = {m.key: model.model.encode(m, inputs[m.feature_name]) for m in MEDIA}
    outputs["speech"].pooler_output = outputs["speech"].pooler_output[:1]
    for call in (model, model.generate):
        with pytest.raises(UniMoEError, match=r"speech placeholder token\(s\) but \d+ speech"):
            call(**without(inputs), mm_encoder_outputs=outputs)
    with pytest.raises(UniMoEError, match="taste"):
        model(**without(inputs), mm_encoder_outputs={"taste": outputs["image"]})


def test_new_placeholders_on_a_cache_need_their_features(model, inputs) -> None:
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, inputs["input_ids"]], dim=1)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    new = {**whole, "input_ids": ids[:, first.cache.get_seq_length() :]}
    for given in (whole, new):
        with pytest.raises(UniMoEError, match=r"placeholder token\(s\) but 0"):
            model.generate(**given, **GREEDY, cache=copy.deepcopy(first.cache))
    with pytest.raises(UniMoEError, match=r"placeholder token\(s\) but 0"):
        model(**new, cache=copy.deepcopy(first.cache))


def test_placeholders_that_the_cache_holds_need_nothing(model, inputs) -> None:
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[11, 12]])], dim=1)
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(**inputs | whole, **GREEDY)
    assert torch.equal(model.generate(**whole, **GREEDY, cache=copy.deepcopy(first.cache)), expected)
    step = model(input_ids=first.sequences[:, -1:], cache=first.cache)
    assert step.logits.shape[1] == 1


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_placeholder_that_the_model_itself_generates_stops_nothing(inputs, use_cache) -> None:
    model = tiny_model()
    token = model.config.image_token_id
    with torch.no_grad():
        model.lm_head.weight[token] = 10 * model.lm_head.weight.abs().max()
    model.generation_config.suppress_tokens = None
    text = {"input_ids": torch.tensor([[5, 6, 7]])}
    output = model.generate(**text, **GREEDY, use_cache=use_cache)
    assert output.shape == (1, 7)


def test_assistants_draft_from_placeholders_on_purpose(model, inputs) -> None:
    expected = model.generate(**inputs, **GREEDY)
    for assistant in (UniMoEForCausalLM(UniMoETextConfig(**TEXT)).eval(), tiny_model(1), model):
        assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=assistant), expected)
    assert torch.equal(model.generate(**inputs, **GREEDY, prompt_lookup_num_tokens=3), expected)


def test_a_text_only_model_reads_placeholders_as_it_reads_words(inputs) -> None:
    model = UniMoEForCausalLM(UniMoETextConfig(**TEXT)).eval()
    assert model(input_ids=inputs["input_ids"]).logits.shape[1] == inputs["input_ids"].shape[1]
    assert model.generate(inputs["input_ids"], **GREEDY).shape[1] == inputs["input_ids"].shape[1] + 4


@torch.no_grad()
def test_embeddings_into_which_media_were_merged_already_are_taken(model, inputs) -> None:
    base = model.model
    embeds = base.get_input_embeddings()(inputs["input_ids"])
    encoded = {m.key: base.encode(m, inputs[m.feature_name]) for m in MEDIA}
    merged = base.merge(embeds, base.placeholders(inputs["input_ids"]), encoded)
    types = sum((inputs["input_ids"] == model.config.token_id(m)).long() * int(m) for m in MEDIA)
    given = {"inputs_embeds": merged, "attention_mask": inputs["attention_mask"], "mm_token_type_ids": types}
    torch.testing.assert_close(model(**given).logits, model(**inputs).logits)
    assert torch.equal(model.generate(**given, **GREEDY), model.generate(**inputs, **GREEDY)[:, -4:])
    with pytest.raises(UniMoEError, match=r"placeholder token\(s\) but 0"):
        model(inputs_embeds=embeds)


def test_a_generation_config_of_the_users_own_changes_nothing(model, inputs) -> None:
    config = GenerationConfig(**{**GREEDY, "eos_token_id": None})
    with pytest.raises(UniMoEError, match=r"placeholder token\(s\) but 0"):
        model.generate(**without(inputs), generation_config=config)


@pytest.mark.parametrize("training", [False, True])
def test_features_of_no_units_are_none(training) -> None:
    """What a rank without a medium may pass; in training each connector still takes part."""
    model = tiny_model().train(training)
    ids = torch.tensor([[5, 6, 7]])
    empty = {"pixel_values": torch.zeros(0, 3, 32, 32), "speech_features": torch.zeros(0, 80, 100)}
    torch.testing.assert_close(model.eval()(ids, **empty).logits, model(ids).logits)
    if training:
        model.train()(ids, **empty, labels=ids).loss.backward()
        for connector in model.model.connectors.values():
            assert all(parameter.grad is not None for parameter in connector.parameters())
