"""`generate` with every medium in one row: kinds of decoding, caches, assistants, streaming, embeddings, outputs."""

import threading

import pytest
import torch
from tiny import TEXT, tiny_inputs, tiny_model
from tiny_processor import byte_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, TextIteratorStreamer, TextStreamer

from unimoe import Modality, UniMoEForCausalLM, UniMoETextConfig

ONCE = {"image": 1 + 2, "speech": 2, "audio": 1}  # units of `tiny_inputs`; a clip of 4 frames is 2 groups of images
LENGTH = {"max_new_tokens": 5, "eos_token_id": None}
GREEDY = {**LENGTH, "do_sample": False}
DECODING = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"num_beams": 3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
    "several beams": {"num_beams": 3, "num_return_sequences": 2},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 2},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "no cache": {"do_sample": False, "use_cache": False},
    "prefill in chunks": {"do_sample": False, "prefill_chunk_size": 7},
}


@pytest.mark.parametrize("decoding", DECODING)
def test_every_kind_of_decoding_encodes_each_medium_once(model, inputs, encoded, decoding) -> None:
    output = model.generate(**inputs, **LENGTH, **DECODING[decoding])
    assert output.shape == (DECODING[decoding].get("num_return_sequences", 1), inputs["input_ids"].shape[1] + 5)
    assert dict(encoded) == ONCE


@pytest.fixture
def typed(model, inputs) -> dict[str, torch.Tensor]:
    """The inputs with `mm_token_type_ids`, as the processor gives them."""
    kinds = {model.config.token_id(modality): int(modality) for modality in model.config.media}
    types = torch.tensor([[kinds.get(int(token), 0) for token in inputs["input_ids"][0]]])
    return {**inputs, "mm_token_type_ids": types}


EXACT = ["prompt lookup", "static cache", "no cache", "prefill in chunks"]


@pytest.mark.parametrize("decoding", EXACT)
def test_kinds_of_decoding_that_promise_the_greedy_answer_give_it(model, typed, inputs, decoding) -> None:
    """With `mm_token_type_ids` and without."""
    expected = model.generate(**inputs, **GREEDY)
    for given in (typed, inputs):
        assert torch.equal(model.generate(**given, **{**GREEDY, **DECODING[decoding]}), expected)


@pytest.mark.parametrize("options", [DECODING["several beams"], DECODING["several samples"]])
def test_a_batch_of_different_media_is_expanded_row_by_row(model, inputs, options) -> None:
    """The second row holds one window of speech alone: the two of the first row must not move into it."""
    speech = model.config.num_tokens["speech"]
    length = inputs["input_ids"].shape[1]
    short = torch.tensor([5] + [63] * speech + [6])
    batch = {**inputs, "speech_features": torch.cat([inputs["speech_features"], torch.randn(1, 80, 100)])}
    batch["input_ids"] = torch.stack([inputs["input_ids"][0], torch.zeros(length).long()])
    batch["input_ids"][1, -len(short) :] = short
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    alone = {"input_ids": short[None], "speech_features": batch["speech_features"][2:]}
    first = model.generate(**batch, **LENGTH, **options)
    count = options["num_return_sequences"]
    assert first.shape == (2 * count, length + 5)
    if "num_beams" in options:
        assert torch.equal(first[count:, -5:], model.generate(**alone, **LENGTH, **options)[:, -5:])
        assert torch.equal(first[:count], model.generate(**inputs, **LENGTH, **options))


def text_assistant() -> UniMoEForCausalLM:
    torch.manual_seed(1)
    return UniMoEForCausalLM(UniMoETextConfig(**TEXT)).eval()


def foreign_assistant() -> LlamaForCausalLM:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval()


ASSISTANTS = {"text-only unimoe": text_assistant, "unimoe": lambda: tiny_model(1), "llama": foreign_assistant}


@pytest.mark.parametrize("kind", ASSISTANTS)
def test_assisted_decoding_gives_the_greedy_answer_and_encodes_once(model, inputs, typed, encoded, kind) -> None:
    expected = model.generate(**inputs, **GREEDY)
    encoded.clear()
    assert torch.equal(model.generate(**typed, **GREEDY, assistant_model=ASSISTANTS[kind]()), expected)
    assert dict(encoded) == ONCE


def test_drafted_tokens_are_text(model, typed) -> None:
    """Seen in what the model is given: the answer alone seldom depends on the modality of a few tokens."""
    seen = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["mm_token_type_ids"]), with_kwargs=True
    )
    model.generate(**typed, **GREEDY, assistant_model=text_assistant())
    hook.remove()
    prompt = typed["mm_token_type_ids"]
    assert torch.equal(seen[0][:, : prompt.shape[1]], prompt) and seen[0].shape[1] > prompt.shape[1]
    assert not any(ids.any() for ids in (seen[0][:, prompt.shape[1] :], *seen[1:]))


def test_the_model_itself_as_assistant_drafts_without_media_and_is_corrected(model, inputs) -> None:
    expected = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, assistant_model=model), expected)


def test_drafts_of_the_first_layers_are_refused(model, inputs) -> None:
    with pytest.raises(ValueError, match="assistant_early_exit is for text-only models; pass an assistant_model"):
        model.generate(**inputs, **GREEDY, assistant_early_exit=1)


def test_generation_from_embeddings_equals_generation_from_ids(model, inputs) -> None:
    expected = model.generate(**inputs, **GREEDY)[:, -5:]
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(model.generate(inputs_embeds=embeds, **others, **GREEDY), expected)
    assert torch.equal(
        model.generate(inputs_embeds=embeds, **others, **LENGTH, num_beams=3),
        model.generate(**inputs, **LENGTH, num_beams=3)[:, -5:],
    )


def test_media_that_were_encoded_before_generation_are_taken_as_they_are(model, inputs, encoded) -> None:
    names = {modality.feature_name: modality for modality in Modality if modality.feature_name}
    with torch.no_grad():
        outputs = {m.key: model.model.encode(m, inputs[name]) for name, m in names.items()}
    expected = model.generate(**inputs, **GREEDY)
    encoded.clear()
    text = {name: value for name, value in inputs.items() if name not in names}
    assert torch.equal(model.generate(**text, mm_encoder_outputs=outputs, **GREEDY), expected)
    assert not encoded
    with pytest.raises(ValueError, match=r"Pass pixel_values or mm_encoder_outputs\['image'\], not both"):
        model.generate(**inputs, mm_encoder_outputs=outputs, **GREEDY)


def test_after_the_first_step_no_media_reach_the_model(model, inputs, monkeypatch) -> None:
    seen = []
    forward = model.forward

    def watch(**kwargs):
        names = {name for name, value in kwargs.items() if value is not None}
        seen.append(names & {m.feature_name for m in Modality} | names & {"mm_encoder_outputs"})
        return forward(**kwargs)

    monkeypatch.setattr(model, "forward", watch)
    monkeypatch.setattr(model, "_validate_model_kwargs", lambda kwargs: None)  # it reads the signature of `forward`
    monkeypatch.setattr(model, "_supports_mm_encoder_outputs", lambda: True)
    model.generate(**inputs, **GREEDY)
    assert seen == [{"mm_encoder_outputs"}] + [set()] * 4


def test_streamers_give_the_text_as_it_comes(model, inputs) -> None:
    tokenizer = byte_tokenizer()
    expected = tokenizer.decode(model.generate(**inputs, **GREEDY)[0, -5:], skip_special_tokens=True)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()


def test_a_text_streamer_prints_the_answer(model, inputs, capsys) -> None:
    tokenizer = byte_tokenizer()
    expected = tokenizer.decode(model.generate(**inputs, **GREEDY)[0, -5:])
    model.generate(**inputs, **GREEDY, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == expected + "\n"


def test_generate_returns_what_every_step_saw(sparse, inputs) -> None:
    options = {"output_hidden_states": True, "output_logits": True, "output_scores": True}
    model = tiny_model(**sparse)
    model.set_attn_implementation({"text_config": "eager"})  # the one that gives attention weights
    output = model.generate(**inputs, **GREEDY, **options, output_attentions=True, return_dict_in_generate=True)
    length, layers = inputs["input_ids"].shape[1], model.config.text_config.num_hidden_layers
    assert [len(step) for step in output.hidden_states] == [layers + 1] * 5
    assert [step[0].shape[1] for step in output.hidden_states] == [length, 1, 1, 1, 1]
    assert [tuple(step[0].shape[2:]) for step in output.attentions][:2] == [(length, length), (1, length + 1)]
    assert len(output.logits) == len(output.scores) == 5


def test_a_generated_placeholder_is_suppressed(model, inputs) -> None:
    placeholders = [model.config.token_id(modality) for modality in model.config.media]
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight[placeholders] = 0.1 + model.lm_head.weight.abs().max()
    output = model.generate(**inputs, **GREEDY)[:, -5:]
    assert not torch.isin(output, torch.tensor(placeholders)).any()


def test_a_row_of_text_alone_generates_without_media(model) -> None:
    output = model.generate(torch.tensor([[5, 6, 7]]), **GREEDY)
    assert output.shape == (1, 8)


def test_beams_over_media_that_do_not_meet_the_rows_are_refused(model, inputs) -> None:
    doubled = {**inputs, "audio_features": tiny_inputs(model.config)["audio_features"].repeat(2, 1, 1)}
    with pytest.raises(ValueError, match=r"Found 3 audio placeholder token\(s\) but 6 audio feature\(s\)"):
        model.generate(**doubled, **LENGTH, num_beams=2)
