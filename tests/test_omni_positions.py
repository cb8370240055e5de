"""A model with positions in time and space: prefill, cache, padding, beams and turns agree."""

from typing import Any

import pytest
import torch
from tiny_model import save_tiny
from tiny_processor import item, picture, process, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe.analysis import verify

ROWS = [
    [turn(item("image", picture(40)), "a", item("speech", sound(1.5)), "b")],
    [turn("only text")],
    [turn(item("video", [picture(shade) for shade in (0, 80, 160)]), item("audio", sound(0.2)), "c")],
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny sparse model with `omni` positions, and its processor."""
    folder = save_tiny(tmp_path_factory.mktemp("omni"), {"position_type": "omni", "image_max_tiles": 4}, num_experts=4)
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone(parts: Any) -> None:
    model, processor = parts
    batch = process(processor, ROWS, add_generation_prompt=True)
    logits = model(**batch).logits
    for index, row in enumerate(ROWS):
        alone = model(**process(processor, row, add_generation_prompt=True)).logits[0]
        torch.testing.assert_close(logits[index, -len(alone) :], alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_positions_move_what_the_model_says(parts: Any) -> None:
    model, processor = parts
    inputs = process(processor, ROWS[0])
    plain = {**inputs, "position_ids": torch.arange(inputs["input_ids"].shape[1]).expand(3, 1, -1)}
    assert not torch.allclose(model(**inputs).logits, model(**plain).logits, atol=1e-5)


@torch.no_grad()
def test_step_by_step_equals_all_at_once(parts: Any) -> None:
    model, processor = parts
    inputs = process(processor, ROWS[2])
    whole = model(**inputs).logits
    cut = inputs["input_ids"].shape[1] - 3
    lengths = ("input_ids", "mm_token_type_ids", "position_ids")
    first = {
        name: value[..., :cut] if name in (*lengths, "attention_mask") else value for name, value in inputs.items()
    }
    cache = model(**first, use_cache=True).cache
    for step in range(cut, cut + 3):
        rest = {name: inputs[name][..., step : step + 1] for name in lengths}
        out = model(**rest, attention_mask=inputs["attention_mask"][:, : step + 1], cache=cache)
        torch.testing.assert_close(out.logits[:, 0], whole[:, step], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_generation_in_a_batch_equals_generation_row_by_row(parts: Any, options: dict[str, Any]) -> None:
    model, processor = parts
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, **options}
    batch = process(processor, ROWS, add_generation_prompt=True)
    found = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    for index, row in enumerate(ROWS):
        inputs = process(processor, row, add_generation_prompt=True)
        alone = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        assert found[index].tolist() == alone[0].tolist()


def test_generated_tokens_go_on_behind_the_prompt(parts: Any) -> None:
    model, processor = parts
    inputs = process(processor, ROWS[0], add_generation_prompt=True)
    sequences = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=-1)
    positions = inputs["position_ids"]
    new = positions[..., -1:] + torch.arange(1, 4)
    whole = {**inputs, "input_ids": sequences, "position_ids": torch.cat([positions, new], dim=-1)}
    whole["attention_mask"] = torch.ones_like(sequences)
    whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros(1, 3, dtype=torch.long)], dim=-1)
    with torch.no_grad():
        greedy = model(**whole).logits[0, -4:-1].argmax(-1)
    suppressed = set(model.generation_config.suppress_tokens)
    assert not suppressed & set(greedy.tolist()) and greedy.tolist() == sequences[0, -3:].tolist()


def test_media_without_positions_are_refused(parts: Any) -> None:
    model, processor = parts
    inputs = process(processor, ROWS[0], add_generation_prompt=True)
    del inputs["position_ids"]
    for call in (lambda: model(**inputs), lambda: model.generate(**inputs, max_new_tokens=2)):
        with pytest.raises(ValueError, match=r"Pass the position_ids \(3, B, S\) that the processor returned"):
            call()


def test_text_needs_no_positions(parts: Any) -> None:
    model, processor = parts
    inputs = process(processor, ROWS[1], add_generation_prompt=True)
    with_positions = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    del inputs["position_ids"]
    assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), with_positions)


def test_verify_finds_nothing(parts: Any) -> None:
    assert [check.name for check in verify(*parts) if not check.passed] == []


def test_a_second_turn_goes_on_from_the_cache_of_the_first(parts: Any) -> None:
    model, processor = parts
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}
    first = [*ROWS[0], turn("a cat", role="assistant")]
    second = [*first, turn(item("image", picture(200)), item("speech", sound(0.4)), "and this?")]
    whole = process(processor, second, add_generation_prompt=True)
    expected = model.generate(**whole, **options)
    with torch.no_grad():
        cache = model(**process(processor, first), use_cache=True).cache
    assert 0 < cache.get_seq_length() < whole["input_ids"].shape[1]
    assert torch.equal(model.generate(**whole, **options, cache=cache), expected)
