"""Pictures in tiles, clips by time, and what stands for them in the text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import write_film
from PIL import Image
from tiny_processor import LAYOUT, item, make_processor, picture, process, runs, sound, turn

from unimoe import UniMoEProcessor
from unimoe.configuration.media_layout import MediaLayout
from unimoe.processing.tiles import cut_tiles, tile_grid

GRIDS = {"image": [2, 2], "video": [2, 2], "audio": [1, 3], "speech": [1, 4]}


def processor_of(**layout: Any) -> UniMoEProcessor:
    return make_processor(media_layout={**LAYOUT, "grids": GRIDS, **layout})


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((32, 32), (1, 1)),
        ((10, 10), (1, 1)),  # a small picture is not enlarged
        ((64, 32), (1, 2)),
        ((32, 64), (2, 1)),
        ((64, 64), (2, 2)),
        ((640, 640), (2, 2)),
        ((960, 320), (1, 3)),
        ((4000, 1), (1, 4)),
    ],
)
def test_the_grid_keeps_most_of_the_resolution(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert tile_grid(size, (32, 32), 4) == grid


def test_tiles_put_together_are_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    tiles = [np.asarray(tile) for tile in cut_tiles(Image.fromarray(pixels), (2, 3), (32, 32))]
    assert np.array_equal(
        np.block([[[tiles[0]], [tiles[1]], [tiles[2]]], [[tiles[3]], [tiles[4]], [tiles[5]]]]), pixels
    )


def test_a_large_picture_is_a_thumbnail_and_its_tiles() -> None:
    processor = processor_of(image_max_tiles=4)
    small, large = picture(), Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    out = process(processor, [turn(item("image", large), "a", item("image", small.resize((20, 20))), "b")])
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(1, 5 * 4), (1, 4)]
    assert len(out["pixel_values"]) == 6
    alone = processor.image_processor([large, small.resize((20, 20))], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out["pixel_values"][[0, 5]], alone)
    tile = processor.image_processor([large.crop((32, 0, 64, 32))], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(out["pixel_values"][[2]], tile)


def test_one_call_may_ask_for_other_tiles_and_frames() -> None:
    processor = processor_of()
    large = picture().resize((64, 64))
    assert len(processor(images=large, return_tensors="pt")["pixel_values"]) == 1
    assert len(processor(images=large, image_max_tiles=4, return_tensors="pt")["pixel_values"]) == 5
    clip = [picture(shade) for shade in range(0, 200, 25)]
    chat = [turn(item("video", clip), "?")]
    assert len(process(processor, chat)["pixel_values_videos"]) == 2
    assert len(process(processor, chat, video_max_frames=8)["pixel_values_videos"]) == 4
    with pytest.raises(ValueError, match=r"video_temporal_stride \(2\) does not divide video_max_frames \(5\)"):
        process(processor, chat, video_max_frames=5)


def test_layout_survives_saving_and_loading(tmp_path: Any) -> None:
    processor = processor_of(image_max_tiles=4, video_frame_rate=2.0, video_sound="speech", position_type="omni")
    processor.save_pretrained(tmp_path)
    loaded = UniMoEProcessor.from_pretrained(tmp_path)
    assert loaded.layout == processor.layout == MediaLayout(**processor.media_layout)


def test_positions_of_a_batch_are_those_of_its_rows() -> None:
    processor = processor_of(position_type="omni", image_max_tiles=4)
    rows = [
        [turn(item("image", picture().resize((64, 64))), "a", item("speech", sound(1.5)), "b")],
        [turn("only text")],
        [turn(item("audio", sound(0.2)), item("image", picture()), "c")],
    ]
    for side in ("left", "right"):
        batch = process(processor, rows, padding_side=side)
        assert batch["position_ids"].shape == (3, *batch["input_ids"].shape)
        for index, row in enumerate(rows):
            alone = process(processor, row)["position_ids"][:, 0]
            real = batch["attention_mask"][index].bool()
            assert torch.equal(batch["position_ids"][:, index, real], alone)
            assert not batch["position_ids"][:, index, ~real].any()
    ragged = process(processor, rows, return_tensors=None, padding=False)["position_ids"]
    assert [[len(row) for row in axis] for axis in ragged] == [batch["attention_mask"].sum(-1).tolist()] * 3


def test_text_has_plain_positions() -> None:
    out = process(processor_of(position_type="omni"), [turn("only text"), turn("and more", role="assistant")])
    expected = torch.arange(out["input_ids"].shape[1]).expand(3, 1, -1)
    assert torch.equal(out["position_ids"], expected)


def test_a_thumbnail_comes_before_its_tiles_in_every_direction() -> None:
    processor = processor_of(position_type="omni", image_max_tiles=2)
    out = processor(text="<|image|>x", images=picture().resize((64, 32)), return_tensors="pt")
    assert out["position_ids"][:, 0].tolist() == [
        [0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 6],
        [0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 6],
        [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6],
    ]


def test_speech_tells_the_time() -> None:
    # Windows of 1 s with 4 tokens, 8 positions a second: 2 positions a token.
    processor = processor_of(position_type="omni", positions_per_second=8.0)
    out = processor(text="x<|speech|>y", speech=sound(1.5), return_tensors="pt")
    assert out["position_ids"][:, 0].tolist() == [[0, 1, 3, 5, 7, 9, 11, 13, 15, 16]] * 3


def test_plain_processors_return_no_positions() -> None:
    assert "position_ids" not in process(processor_of(), [turn(item("image", picture()), "?")])


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds with sound."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(4 * 16_000)
    return write_film(tmp_path_factory.mktemp("film") / "a.mp4", range(0, 240, 6), sound=samples)


def test_a_clip_by_frame_rate_has_as_many_units_as_its_length_asks_for(film: Path) -> None:
    processor = processor_of(video_frame_rate=1.0, video_max_frames=64)
    for rate, units in ((1.0, 2), (2.0, 4), (0.1, 1)):
        out = process(processor, [turn(item("video", film), "?")], video_frame_rate=rate)
        assert runs(out["mm_token_type_ids"][0].tolist()) == [(2, 4 * units)]
        assert out["pixel_values_videos"].shape == (units, 2, 3, 32, 32)


def test_timestamps_stand_in_front_of_the_units(film: Path) -> None:
    out = process(processor_of(video_frame_rate=1.0, video_timestamps=True), [turn(item("video", film), "?")])
    text = processor_of().tokenizer.decode(out["input_ids"][0])
    assert f"<1.0 seconds>{'<|video|>' * 4}<3.0 seconds>{'<|video|>' * 4}?" in text
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(2, 4), (2, 4)]


@pytest.mark.parametrize(("kind", "modality", "tokens"), [("speech", 4, 4), ("audio", 3, 3)])
def test_frames_and_sound_of_a_clip_take_turns(film: Path, kind: str, modality: int, tokens: int) -> None:
    # 2 units of 2 frames, at 1 s and 3 s; the sound in windows of 1 s (speech) or 0.32 s.
    processor = processor_of(video_sound=kind)
    chat = [turn(item(kind, sound(0.2)), "first", item("video", film), "?", item(kind, sound(0.1)))]
    out = process(processor, chat)
    found = runs(out["mm_token_type_ids"][0].tolist())
    features = len(out[f"{kind}_features"])
    heard = (features - 2) * tokens
    assert [kind for kind, _ in found] == [modality, 2, modality, 2, modality, modality]
    assert found[1] == found[3] == (2, 4) and found[0] == found[-1] == (modality, tokens)
    assert found[2][1] + found[4][1] == heard and abs(found[2][1] - found[4][1]) <= 2 * tokens
    alone = process(processor, [turn(item(kind, sound(0.1)), "?")])[f"{kind}_features"]
    torch.testing.assert_close(out[f"{kind}_features"][-1:], alone)


def test_a_silent_clip_gives_its_frames_alone() -> None:
    chat = [turn(item("video", [picture(shade) for shade in range(4)]), "?")]
    found, expected = process(processor_of(video_sound="speech"), chat), process(processor_of(), chat)
    assert "speech_features" not in found and torch.equal(found["input_ids"], expected["input_ids"])


def test_what_is_heard_and_seen_at_one_moment_has_one_time(film: Path) -> None:
    processor = processor_of(video_sound="speech", position_type="omni", video_frame_rate=1.0)
    out = process(processor, [turn("x", item("video", film), "?")])
    kinds, (time, row, column) = out["mm_token_type_ids"][0], out["position_ids"][:, 0]
    start = int(time[kinds == 2].min()) - 2  # the first unit is at 1 s, 2 positions a second
    assert (time[kinds == 2] - start).tolist() == [2] * 4 + [6] * 4
    seconds = torch.arange(int((kinds == 4).sum())) * 0.25
    assert torch.equal(time[kinds == 4] - start, (seconds * 2).long())
    assert torch.equal(row[kinds == 4], time[kinds == 4]) and torch.equal(column[kinds == 4], time[kinds == 4])
    assert (row[kinds == 2] - start).tolist() == [0, 0, 1, 1] * 2
