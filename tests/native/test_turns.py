"""A conversation that goes on from the cache of its last turn encodes its new media only, and answers the same."""

import copy

import pytest
import torch
from tiny import tiny_inputs

GREEDY = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 4}
MEDIA = ("pixel_values", "speech_features", "audio_features", "pixel_values_videos")


def second_turn(model, inputs, answered, **media) -> dict:
    """The whole conversation: the first turn, its answer, and a turn with the same layout and other media."""
    other = tiny_inputs(model.config, seed=1)
    ids = torch.cat([answered, other["input_ids"].expand(len(answered), -1)], dim=1)
    new = {name: torch.cat([inputs[name], other[name]]) for name in MEDIA}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **new, **media}


@pytest.fixture
def first(model, inputs):
    return model.generate(**inputs, **GREEDY, return_dict_in_generate=True)


def test_a_second_turn_encodes_its_new_media_only_and_answers_as_from_scratch(model, inputs, first, encoded) -> None:
    whole = second_turn(model, inputs, first.sequences)
    expected = model.generate(**whole, **GREEDY)
    from_scratch = dict(encoded)
    encoded.clear()
    cache = copy.deepcopy(first.cache)
    assert torch.equal(model.generate(**whole, **GREEDY, cache=cache), expected)
    assert dict(encoded) == {key: count // 2 for key, count in from_scratch.items()}


def test_the_media_of_the_new_turn_alone_will_do(model, inputs, first) -> None:
    whole = second_turn(model, inputs, first.sequences)
    new = {name: tiny_inputs(model.config, seed=1)[name] for name in MEDIA}
    expected = model.generate(**whole, **GREEDY)
    assert torch.equal(model.generate(**{**whole, **new}, **GREEDY, cache=first.cache), expected)


def test_a_second_turn_of_text_encodes_nothing(model, inputs, first, encoded) -> None:
    ids = torch.cat([first.sequences, torch.tensor([[11, 12, 13]])], dim=1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(**whole, **GREEDY)
    encoded.clear()
    assert torch.equal(model.generate(**whole, **GREEDY, cache=first.cache), expected)
    assert not encoded


def test_the_new_tokens_alone_come_with_their_own_media(model, inputs, first) -> None:
    whole = second_turn(model, inputs, first.sequences)
    expected = model.generate(**whole, **GREEDY)
    cache = first.cache
    new = tiny_inputs(model.config, seed=1)
    new["input_ids"] = whole["input_ids"][:, cache.get_seq_length() :]
    new["attention_mask"] = whole["attention_mask"]
    answer = model.generate(**new, **GREEDY, cache=cache)
    assert torch.equal(answer[:, -4:], expected[:, -4:])


def test_rows_with_padding_and_different_numbers_of_media_go_on_together(model, inputs, encoded) -> None:
    """The second row has a picture in its second turn alone, the first row in both."""
    tokens = model.config.num_tokens["image"]
    picture = [60] * tokens
    long, short = [5, *picture, 6], [7, 8]
    ids = torch.tensor([long, [0] * tokens + short])
    mask = (ids != 0).long()
    pixels = [tiny_inputs(model.config, seed=seed)["pixel_values"] for seed in range(3)]
    past = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=pixels[0], **GREEDY, return_dict_in_generate=True
    )
    turn = torch.tensor([[9, *picture, 10]]).expand(2, -1)
    whole = {
        "input_ids": torch.cat([past.sequences, turn], dim=1),
        "attention_mask": torch.cat([mask, torch.ones(2, 4 + tokens + 2, dtype=torch.long)], dim=1),
        "pixel_values": torch.cat(pixels),
    }
    expected = model.generate(**whole, **GREEDY)
    encoded.clear()
    assert torch.equal(model.generate(**whole, **GREEDY, cache=past.cache), expected)
    assert encoded["image"] == 2


def test_a_wrong_number_of_media_is_refused_with_all_counts(model, inputs, first) -> None:
    whole = second_turn(model, inputs, first.sequences)
    whole["pixel_values"] = torch.cat([whole["pixel_values"], whole["pixel_values"]])
    with pytest.raises(
        ValueError, match=r"Found 4 unit\(s\) in pixel_values, .* has 2 and its part after the cache 1"
    ):
        model.generate(**whole, **GREEDY, cache=first.cache)


def test_a_cache_that_ends_within_a_medium_is_refused(model, inputs, first) -> None:
    whole = second_turn(model, inputs, first.sequences)
    first.cache.crop(5 - first.cache.get_seq_length())
    with pytest.raises(ValueError, match="Row 0: the cache ends within a medium; it holds 4 image tokens"):
        model.generate(**whole, **GREEDY, cache=first.cache)


def test_a_second_turn_from_embeddings_equals_one_from_ids(model, inputs, first, encoded) -> None:
    whole = second_turn(model, inputs, first.sequences)
    expected = model.generate(**whole, **GREEDY)
    embeds = model.get_input_embeddings()(whole.pop("input_ids"))
    encoded.clear()
    answer = model.generate(inputs_embeds=embeds, **whole, **GREEDY, cache=first.cache)
    assert torch.equal(answer, expected[:, -4:])
    assert encoded["speech"] == 2
