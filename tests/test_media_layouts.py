"""Media of every kind under every option that decides how many units there are: counts worked out by hand.

Tiles are 32 x 32 pixels (the tiny image processor), windows of audio 0.32 s, of speech 1 s.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import write_film
from PIL import Image
from tiny_processor import AST_WINDOW, LAYOUT, NUM_TOKENS, RATE, item, make_processor, process, runs, turn

from unimoe.processing_unimoe import UniMoEProcessor

TILE = 32


@pytest.fixture(scope="module")
def processor() -> UniMoEProcessor:
    return make_processor()


def counts(processor: UniMoEProcessor, kind: str, medium: Any, **options: Any) -> dict[int, int]:
    """Tokens of each modality id that one medium becomes; their features are all there and finite."""
    out = process(processor, [turn("a", item(kind, medium), "b")], **options)
    found: dict[int, int] = {}
    for modality, size in runs(out["mm_token_type_ids"][0].tolist()):
        found[modality] = found.get(modality, 0) + size
    for key, number, name in (
        ("image", 1, "pixel_values"),
        ("video", 2, "pixel_values_videos"),
        ("audio", 3, "audio_features"),
        ("speech", 4, "speech_features"),
    ):
        assert (name in out) == (number in found)
        if name in out:
            assert len(out[name]) * NUM_TOKENS[key] == found[number]
            assert torch.isfinite(out[name]).all()
    return found


def tiles_by_hand(width: int, height: int, most: int) -> int:
    """Units of a picture: try every grid; keep most pixels, then take the fewest tiles."""
    best = (-1, 0)
    for rows in range(1, most + 1):
        for columns in range(1, most // rows + 1):
            scale = min(columns * TILE / width, rows * TILE / height, 1)
            best = max(best, (round(width * height * scale * scale), -rows * columns))
    tiles = -best[1]
    return 1 if tiles == 1 else 1 + tiles


SIZES = [(1, 1), (5, 3), (32, 32), (33, 32), (48, 40), (64, 64), (200, 30), (1, 4000), (4000, 1), (640, 480)]


@pytest.mark.parametrize("most", [1, 2, 4, 9])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_every_shape_fill_their_tiles(processor, size, most):
    expected = tiles_by_hand(*size, most) * NUM_TOKENS["image"]
    assert counts(processor, "image", Image.new("RGB", size, (9, 90, 200)), image_max_tiles=most) == {1: expected}


def test_a_picture_of_48_megapixels_is_tiled(processor):
    expected = tiles_by_hand(8000, 6000, 12) * NUM_TOKENS["image"]
    assert counts(processor, "image", Image.new("RGB", (8000, 6000)), image_max_tiles=12) == {1: expected}


def frames_by_hand(seconds: float, rate: float | None, least: int, most: int) -> int:
    """Frames of a clip in pairs (the tiny stride)."""
    wanted = most if rate is None else min(max(round(seconds * rate), least), most)
    return wanted + wanted % 2


FILMS: dict[str, tuple[float, dict[str, Any]]] = {
    "two seconds": (2.0, {"shades": range(20)}),
    "one frame": (0.1, {"shades": [5]}),
    "nine seconds": (9.0, {"shades": [index % 200 for index in range(90)]}),
    "variable rate": (4.1, {"shades": [0, 9, 90], "times": [0, 0.1, 4.0]}),
}


@pytest.mark.parametrize("bounds", [(1, 4), (4, 16), (2, 64)])
@pytest.mark.parametrize("rate", [None, 0.5, 2.0, 7.3])
@pytest.mark.parametrize("name", FILMS)
def test_films_fill_their_groups_of_frames(processor, name, rate, bounds, tmp_path):
    seconds, film = FILMS[name]
    path = write_film(tmp_path / "film.mp4", **film)
    options = {"video_frame_rate": rate, "video_min_frames": bounds[0], "video_max_frames": bounds[1]}
    expected = frames_by_hand(seconds, rate, *bounds) // 2 * NUM_TOKENS["video"]
    assert counts(processor, "video", path, **options) == {2: expected}


def test_frames_with_and_without_their_rate(processor):
    pictures = [Image.new("RGB", (40, 40))] * 50
    with_rate = {"frames": pictures, "fps": 25.0}
    assert counts(processor, "video", with_rate, video_frame_rate=2, video_max_frames=64) == {
        2: 2 * NUM_TOKENS["video"]
    }
    with pytest.raises(ValueError, match=r'row 0, video 0: 2 frames per second .*"fps"'):
        counts(processor, "video", pictures, video_frame_rate=2)


@pytest.mark.parametrize("seconds", [0.05, 1.0, 2.3])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("heard", ["audio", "speech"])
def test_the_sound_track_of_a_film_fills_its_windows(processor, heard, rate, seconds, tmp_path):
    tone = 0.3 * np.sin(np.arange(round(seconds * rate)) / 9)
    path = write_film(tmp_path / "film.mkv", range(20), sound=tone, sound_rate=rate, sound_codec="flac")
    window, modality = (AST_WINDOW, 3) if heard == "audio" else (RATE, 4)
    windows = math.ceil(math.ceil(len(tone) * RATE / rate) / window)
    video = LAYOUT["video_max_frames"] // LAYOUT["video_temporal_stride"] * NUM_TOKENS["video"]
    found = counts(processor, "video", path, video_sound=heard)
    assert found == {2: video, modality: windows * NUM_TOKENS[heard]}
    assert counts(processor, "video", path, video_sound=heard, video_timestamps=True) == found
    assert counts(processor, "video", path, video_sound=None) == {2: video}


def test_clips_without_a_track_are_heard_as_nothing(processor, tmp_path):
    gif = tmp_path / "a.gif"
    frames = [Image.new("RGB", (40, 40), (shade, 0, 0)) for shade in (0, 90, 200)]
    frames[0].save(gif, save_all=True, append_images=frames[1:])
    for medium in (write_film(tmp_path / "a.mp4", range(20)), gif, frames, {"frames": frames, "fps": 3}):
        assert counts(processor, "video", medium, video_sound="audio") == {2: 2 * NUM_TOKENS["video"]}


def test_a_damaged_track_is_refused_with_its_place(processor, tmp_path):
    tone = np.random.default_rng(0).uniform(-1, 1, 160_000)
    path = write_film(tmp_path / "a.mkv", range(100), sound=tone, sound_codec="flac")
    data = bytearray(path.read_bytes())
    for position in range(len(data) // 2, len(data) - 2000, 997):
        data[position : position + 9] = b"\0" * 9
    Path(path).write_bytes(data)
    with pytest.raises(ValueError, match=r"row 0, video 0: .*cannot be read as a video"):
        counts(processor, "video", path, video_sound="audio")
