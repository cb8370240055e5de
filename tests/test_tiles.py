"""Pictures fitted into given grids, as the released weights of Uni-MoE-2.0-Omni know them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import uni_moe_media as reference
from tiny_model import save_tiny
from tiny_processor import LAYOUT, item, make_processor, picture, process, runs, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe import UniMoEConfig, UniMoEProcessor
from unimoe.errors import UniMoEError
from unimoe.processing.tiles import best_grid, letterbox

GRIDS = {"image": [2, 2], "video": [2, 2], "audio": [1, 3], "speech": [1, 4]}
BOXES = [[rows, columns] for columns in (1, 2, 3) for rows in (1, 2, 3)]  # (1x1),...,(3x3), width first


def processor_of(**layout: Any) -> UniMoEProcessor:
    return make_processor(media_layout={**LAYOUT, "grids": GRIDS, "image_grids": BOXES, **layout})


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(1, 255, (height, width, 3), dtype=np.uint8))


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([32, 384]))
@settings(max_examples=200, deadline=None)
def test_the_grid_is_the_slow_reference(width: int, height: int, side: int) -> None:
    assert list(best_grid((width, height), (side, side), BOXES)) == reference.best_grid(width, height, side, BOXES)


@pytest.mark.parametrize(
    ("size", "grid"),
    [((10, 10), (1, 1)), ((40, 32), (1, 2)), ((64, 32), (1, 2)), ((30, 90), (3, 1)), ((4000, 1), (1, 1))],
)
def test_grids_of_known_pictures(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert best_grid(size, (32, 32), BOXES) == grid


@pytest.mark.parametrize("size", [(20, 10), (10, 20), (7, 32), (65, 33), (3, 100), (50, 50), (1, 1)])
@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_a_picture_stands_in_the_middle_of_black(size: tuple[int, int], grid: tuple[int, int]) -> None:
    expected = reference.letterbox(noise(*size), grid[1] * 32, grid[0] * 32)
    assert np.array_equal(letterbox(noise(*size), grid, (32, 32)), expected)


@pytest.mark.parametrize(("size", "grid"), [((40, 10), (1, 2)), ((64, 64), (2, 2)), ((8, 30), (1, 1))])
def test_tiles_are_those_of_the_letterbox_row_by_row_without_a_thumbnail(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    processor = processor_of(position_type="omni")
    chat = [turn("a", item("image", noise(*size)), "b")]
    out = process(processor, [chat])
    rows, columns = grid
    assert runs(out["mm_token_type_ids"][0].tolist()) == [(1, 4 * rows * columns)]
    assert processor.count_tokens(chat) == out["input_ids"].shape[1]
    box = letterbox(noise(*size), grid, (32, 32))
    tiles = [box.crop((32 * c, 32 * r, 32 * c + 32, 32 * r + 32)) for r in range(rows) for c in range(columns)]
    torch.testing.assert_close(
        out["pixel_values"], processor.image_processor(tiles, return_tensors="pt")["pixel_values"]
    )
    positions = out["position_ids"][:, 0, out["mm_token_type_ids"][0] == 1]
    time, row, column = positions - positions[:, :1]
    assert not time.any()
    places = [(2 * r + i, 2 * c + j) for r in range(rows) for c in range(columns) for i in (0, 1) for j in (0, 1)]
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == places


def test_one_tile_is_boxed_and_not_squashed() -> None:
    white = Image.new("RGB", (30, 10), (255, 255, 255))
    pixels = processor_of(image_grids=[[1, 1]])(images=white, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    assert (pixels[0, :, :10] == pixels[0, :, 0, 0, None, None]).all()
    assert (pixels[0, :, 14:18] > pixels[0, :, :1]).all()


def test_frames_of_clips_stay_as_they_are() -> None:
    chat = [turn(item("video", [noise(40, 10)] * 4), "?")]
    plain = make_processor(media_layout={**LAYOUT, "grids": GRIDS})
    assert torch.equal(
        process(processor_of(), chat)["pixel_values_videos"], process(plain, chat)["pixel_values_videos"]
    )


def test_one_call_may_ask_for_other_grids() -> None:
    assert len(processor_of()(images=noise(64, 64), image_grids=[[3, 1]], return_tensors="pt")["pixel_values"]) == 3
    with pytest.raises(ValueError, match=r"image_grids: .* so does image_max_tiles \(4\)\. Use one of both"):
        processor_of()(images=noise(64, 64), image_max_tiles=4)


@pytest.mark.parametrize("grids", [[], [[1]], [[0, 1]], [[1, 2, 3]]])
def test_grids_that_are_none_are_refused(grids: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"image_grids is .*; it lists grids of tiles, each \[rows, columns\]"):
        processor_of(image_grids=grids)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    folder = save_tiny(tmp_path_factory.mktemp("grids"), {"image_grids": BOXES, "position_type": "omni"})
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder), folder


def test_grids_survive_saving_and_loading(parts: tuple[Any, Any, Path]) -> None:
    model, processor, folder = parts
    assert model.config.image_grids == processor.layout.image_grids == BOXES
    assert UniMoEConfig.from_pretrained(folder).media_layout == processor.layout
    with pytest.raises(UniMoEError, match="image_grids"):
        UniMoEConfig.from_dict({**model.config.to_dict(), "image_max_tiles": 2})


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone(parts: tuple[Any, Any, Path]) -> None:
    model, processor, _ = parts
    rows = [
        [turn(item("image", noise(90, 20)), "a", item("speech", sound(0.4)), item("image", picture()), "b")],
        [turn(item("image", noise(5, 5)), "c")],
    ]
    logits = model(**process(processor, rows, padding_side="right")).logits
    for index, row in enumerate(rows):
        alone = model(**process(processor, row)).logits[0]
        torch.testing.assert_close(logits[index, : len(alone)], alone, atol=1e-5, rtol=1e-4)
