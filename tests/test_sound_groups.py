"""Sounds whose tokens share times in groups, as the released weights of Uni-MoE-2.0-Omni know them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import save_tiny
from tiny_processor import LAYOUT, item, make_processor, picture, process, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe import UniMoEConfig, UniMoEProcessor
from unimoe.analysis import verify
from unimoe.processing.positions import sound_offsets, sound_times

GRIDS = {"image": [2, 2], "video": [2, 2], "audio": [1, 4], "speech": [1, 4]}
GROUPED = {"position_type": "omni", "sound_group_tokens": 2}


def processor_of(**layout: Any) -> UniMoEProcessor:
    return make_processor(media_layout={**LAYOUT, "grids": GRIDS, **GROUPED, **layout})


def slow_positions(windows: int, *, groups: int, tokens: int, step: int) -> list[int]:
    """Each window of 30 s has so many groups of so many tokens, each group `step` behind the one before."""
    found = []
    for group in range(windows * groups):
        for _ in range(tokens):
            found.append(group * step)
    return found


@pytest.mark.parametrize("windows", [1, 2, 7])
def test_two_hundred_tokens_of_30_s_are_ten_groups_six_positions_apart(windows: int) -> None:
    found = sound_offsets(sound_times(windows, [1, 200], seconds=30.0), 2.0, 20)
    assert found.tolist() == [slow_positions(windows, groups=10, tokens=20, step=6)] * 3


def test_groups_of_one_are_the_times_of_the_tokens() -> None:
    times = sound_times(3, [1, 7], seconds=10.24)
    assert np.array_equal(sound_offsets(times, 2.0, 1), sound_offsets(times, 2.0))


def test_text_goes_on_behind_the_last_group() -> None:
    # Windows of 1 s with two groups of two tokens, 8 positions a second: 4 positions a group.
    processor = processor_of(positions_per_second=8.0)
    out = processor(text="x<|image|><|speech|>y", images=picture(), speech=sound(1.5), return_tensors="pt")
    heard = out["position_ids"][:, 0, out["mm_token_type_ids"][0] == 4]
    assert heard.tolist() == [[3, 3, 7, 7, 11, 11, 15, 15]] * 3  # text 0, picture 1 and 2
    assert out["position_ids"][:, 0, -1].tolist() == [16] * 3


@pytest.mark.parametrize("kinds", [("speech",), ("audio", "speech"), ("speech", "speech")])
def test_a_row_that_only_hears_has_plain_positions(kinds: tuple[str, ...]) -> None:
    chat = [turn("a", *(item(kind, sound(0.3 + index)) for index, kind in enumerate(kinds)), "b")]
    out = process(processor_of(), chat)
    assert torch.equal(out["position_ids"], torch.arange(out["input_ids"].shape[1]).expand(3, 1, -1))
    assert processor_of().count_tokens(chat) == out["input_ids"].shape[1]


def test_each_row_of_a_batch_is_looked_at_alone() -> None:
    rows = [
        [turn(item("speech", sound(1.2)), "heard")],
        [turn(item("speech", sound(1.2)), item("image", picture()), "heard and seen")],
        [turn("read")],
    ]
    for side in ("left", "right"):
        batch = process(processor_of(), rows, padding_side=side)
        for index, row in enumerate(rows):
            real = batch["attention_mask"][index].bool()
            assert torch.equal(
                batch["position_ids"][:, index, real], process(processor_of(), row)["position_ids"][:, 0]
            )
    spoken = [batch["position_ids"][0, index, batch["mm_token_type_ids"][index] == 4] for index in (0, 1)]
    assert len(set(spoken[0].tolist())) == 8 and len(set(spoken[1].tolist())) < 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"position_type": "plain"},
            r"sound_group_tokens is 2, but position_type 'plain' knows no time\. Take 'omni'",
        ),
        ({"sound_group_tokens": 3}, r"sound_group_tokens is 3, but a unit of audio has \[1, 4\] tokens"),
        ({"sound_group_tokens": 0}, r"sound_group_tokens is 0, but a unit of audio"),
        ({"grids": {**GRIDS, "speech": [2, 2]}}, r"a unit of speech has \[2, 2\] tokens \(rows, columns\)"),
    ],
)
def test_groups_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor_of(**changes)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A tiny sparse model with groups of one token, as its units have 3 and 5: rows that only hear are plain."""
    media = {"position_type": "omni", "sound_group_tokens": 1}
    folder = save_tiny(tmp_path_factory.mktemp("groups"), media, num_experts=4)
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder), folder


def test_groups_survive_saving_and_loading(parts: tuple[Any, Any, Path]) -> None:
    model, processor, folder = parts
    assert model.config.sound_group_tokens == processor.layout.sound_group_tokens == 1
    assert UniMoEConfig.from_pretrained(folder).media_layout == processor.layout


def test_verify_finds_nothing(parts: tuple[Any, Any, Path]) -> None:
    assert [check.name for check in verify(*parts[:2]) if not check.passed] == []


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    rows = [
        [turn(item("speech", sound(1.2)), "a")],
        [turn(item("speech", sound(1.2)), item("image", picture()), item("audio", sound(0.3)), "b")],
    ]
    logits = model(**process(processor, rows, padding_side="right")).logits
    for index, row in enumerate(rows):
        alone = model(**process(processor, row)).logits[0]
        torch.testing.assert_close(logits[index, : len(alone)], alone, atol=1e-5, rtol=1e-4)
