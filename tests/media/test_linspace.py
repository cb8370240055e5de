"""An even number of frames from the first to the last, as the released weights of Uni-MoE-2.0-Omni know them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from films import write_film
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.uni_moe_media import some_frames
from tiny_model import save_tiny
from tiny_processor import LAYOUT, item, make_processor, picture, process, runs, sound, turn
from transformers import AutoModelForMultimodalLM, AutoProcessor

from training.encoder_cache.settings import choose_modalities
from unimoe import UniMoEConfig, UniMoEProcessor
from unimoe.errors import ConfigError
from unimoe.media import FrameSampling, clip_times, load_clip
from unimoe.media.sampling import sample_frames

GRIDS = {"image": [2, 2], "video": [2, 2], "audio": [1, 3], "speech": [1, 4]}
LINSPACE: dict[str, Any] = {"video_sampling": "linspace", "video_temporal_stride": 1, "video_frame_rate": 1.0}
FEW = {"video_max_frames": 8, "video_max_frames_with_sound": 4}


def processor_of(**layout: Any) -> UniMoEProcessor:
    return make_processor(media_layout={**LAYOUT, "grids": GRIDS, **LINSPACE, **FEW, **layout})


@given(
    st.integers(1, 5000),
    st.sampled_from([5.0, 12.5, 24.0, 25.0, 30.0]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([(8, 64), (2, 32), (1, 7)]),
)
@settings(max_examples=200, deadline=None)
def test_frames_and_positions_are_those_of_the_slow_reference(
    total: int, fps: float, rate: float, bounds: tuple[int, int]
) -> None:
    sampling = FrameSampling(rate=rate, minimum=bounds[0], maximum=bounds[1], multiple=2, spread="linspace")
    indices, times = sample_frames(np.arange(total) / fps, total / fps, sampling, where="clip")
    numbers, positions = some_frames(total, fps, rate, *bounds)
    assert indices.tolist() == numbers and len(numbers) % 2 == 0
    assert np.rint(times * 2.0).astype(int).tolist() == positions


def test_ten_seconds_at_one_frame_a_second() -> None:
    sampling = FrameSampling(rate=1, minimum=8, maximum=64, multiple=2, spread="linspace")
    indices, times = sample_frames(np.arange(300) / 30, 10.0, sampling, where="clip")
    assert indices.tolist() == [0, 33, 66, 100, 133, 166, 199, 233, 266, 299] and times.tolist() == list(range(10))


def test_a_clip_gives_no_frame_twice_but_a_lone_one() -> None:
    sampling = FrameSampling(minimum=8, maximum=8, multiple=2, spread="linspace")
    for available, wanted in ((1, [0, 0]), (2, [0, 1]), (5, [0, 1, 3, 4]), (9, [0, 1, 2, 3, 5, 6, 7, 8])):
        assert sample_frames(np.arange(available) / 2, available / 2, sampling, where="clip")[0].tolist() == wanted


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds with sound, 10 frames a second."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(6 * 16_000)
    return write_film(tmp_path_factory.mktemp("film") / "a.mp4", range(0, 240, 4), sound=samples)


def test_all_forms_of_a_clip_agree(film: Path) -> None:
    sampling = FrameSampling(rate=1, maximum=64, multiple=2, spread="linspace")
    loaded = load_clip(film, sampling=sampling)
    assert loaded.times.tolist() == clip_times(film, sampling=sampling).tolist()
    frames = {
        "frames": np.zeros((60, 4, 4, 3), np.uint8),
        "fps": 10,
    }
    assert len(load_clip(frames, sampling=sampling).frames) == len(clip_times(frames, sampling=sampling)) == 6
    np.testing.assert_allclose(load_clip(frames, sampling=sampling).times, np.arange(6.0))


FRAMES = {"frames": [picture()] * 9, "fps": 1}
CHATS = {
    "film": lambda film: [turn(item("video", film), "?")],
    "film and sound": lambda film: [turn(item("video", film), item("speech", sound(0.3)), "?")],
    "frames and sound": lambda _: [turn(item("audio", sound(0.1)), item("video", FRAMES))],
    "picture and film": lambda film: [turn(item("image", picture()), item("video", film), "?")],
}  # fmt: skip
UNITS = {"film": 6, "film and sound": 4, "frames and sound": 4, "picture and film": 6}


@pytest.mark.parametrize("chat", CHATS)
def test_clips_in_a_row_with_a_sound_have_fewer_frames(chat: str, film: Path) -> None:
    processor = processor_of(position_type="omni")
    messages = CHATS[chat](film)
    rows = [[turn(item("audio", sound(0.2)), "another row")], messages, CHATS["film"](film)]
    out = process(processor, rows)
    seen = [(kind, length) for kind, length in runs(out["mm_token_type_ids"][1].tolist()) if kind == 2]
    assert seen == [(2, 4 * UNITS[chat])]
    alone = process(processor, [messages])
    assert processor.count_tokens(messages) == alone["input_ids"].shape[1]
    assert alone["pixel_values_videos"].shape[:2] == (UNITS[chat], 1)
    real = out["attention_mask"][1].bool()
    assert torch.equal(out["position_ids"][:, 1, real], alone["position_ids"][:, 0])


def test_positions_of_frames_are_rounded() -> None:
    chat = [turn(item("video", {"frames": [picture()] * 7, "fps": 2.0}))]
    out = process(processor_of(position_type="omni", video_frame_rate=2.0), chat)
    times = out["position_ids"][0, 0, out["mm_token_type_ids"][0] == 2][::4]
    assert (times - times[0]).tolist() == [0, 1, 2, 4, 5, 6]  # six frames in 3.5 s: 1.17, 2.33, 3.5, 4.67, 5.83


def test_the_sound_of_clips_counts_too(film: Path) -> None:
    processor = processor_of(video_sound="speech")
    assert process(processor, CHATS["film"](film))["pixel_values_videos"].shape[0] == 4
    assert process(processor, CHATS["film"](film), video_sound=None)["pixel_values_videos"].shape[0] == 6
    more = process(processor, CHATS["film"](film), video_max_frames_with_sound=None)
    assert more["pixel_values_videos"].shape[0] == 6
    assert process(processor, CHATS["film"](film), video_max_frames=2)["pixel_values_videos"].shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_sampling": "random"}, "video_sampling is 'random'; choose middles or linspace"),
        (
            {"video_temporal_stride": 2},
            r"takes an even number of frames, each a unit: set video_temporal_stride \(2\)",
        ),
        ({"video_max_frames": 1}, r"the most frames \(1\) to 2 at least"),
        ({"video_max_frames_with_sound": 1}, r"the most frames \(1\) to 2 at least"),
        ({"video_min_frames": 6}, r"video_max_frames_with_sound is 4; it is .* at least video_min_frames \(6\)"),
        (
            {"video_sampling": "middles", "video_temporal_stride": 2, "video_max_frames_with_sound": 3},
            r"video_max_frames_with_sound is 3; it is a multiple of video_temporal_stride \(2\)",
        ),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processor_of(**changes)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    media = {**LINSPACE, **FEW, "position_type": "omni"}
    folder = save_tiny(tmp_path_factory.mktemp("linspace"), media)
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder), folder


def test_the_sampling_survives_saving_and_loading(parts: tuple[Any, Any, Path]) -> None:
    model, processor, folder = parts
    assert model.config.video_sampling == processor.layout.video_sampling == "linspace"
    assert UniMoEConfig.from_pretrained(folder).media_layout == processor.layout


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_row_alone(parts: tuple[Any, Any, Path], film: Path) -> None:
    model, processor, _ = parts
    rows = [CHATS["film"](film), CHATS["film and sound"](film)]
    logits = model(**process(processor, rows, padding_side="right")).logits
    for index, row in enumerate(rows):
        alone = model(**process(processor, row)).logits[0]
        torch.testing.assert_close(logits[index, : len(alone)], alone, atol=1e-5, rtol=1e-4)


def test_tokens_of_clips_that_depend_on_their_rows_are_not_cached(parts: tuple[Any, Any, Path]) -> None:
    model = parts[0].requires_grad_(False)
    assert [modality.key for modality in choose_modalities(None, model)] == ["image", "audio", "speech"]
    with pytest.raises(ConfigError, match=r"with video_max_frames_with_sound, how many frames .* Leave video out"):
        choose_modalities(["video"], model)
