"""Tokens are counted without decoding media, and the count is what the processor makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from films import write_film
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_processor import (
    EVERYTHING,
    FOLDER,
    LAYOUT,
    byte_tokenizer,
    first,
    item,
    make_processor,
    process,
    sound,
    turn,
)
from torchaudio.functional import resample

from unimoe.media import load_picture, load_sound, picture_size, resampled_length, sound_length

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiles": {"image_max_tiles": 4},
    "grids": {"image_grids": [[1, 1], [1, 2], [2, 1]]},
    "omni": {"position_type": "omni"},
    "linspace": {"video_sampling": "linspace", "video_temporal_stride": 1, "video_max_frames_with_sound": 2},
    "whole clips": {"video_pooling": "clip", "video_temporal_stride": 1},
    "timestamps": {"video_timestamps": True, "video_frame_rate": 2.0},
    "sound of clips": {"video_sound": "speech", "video_timestamps": True, "video_chunk_seconds": 1.0},
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Media of each kind as people have them: files, bytes, arrays, dicts."""
    folder = tmp_path_factory.mktemp("media")
    lying = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 100, 3), dtype=np.uint8))
    lying.getexif()[0x0112] = 6  # a camera held upright
    lying.save(folder / "turned.jpg", exif=lying.getexif())
    for rate, seconds in ((16_000, 1.0), (22_050, 2.51), (8_000, 0.01)):
        soundfile.write(folder / f"{rate}.wav", sound(seconds)[: int(rate * seconds)], rate)
    samples = np.random.default_rng(0).standard_normal((30_000, 2)).astype(np.float32) / 10
    soundfile.write(folder / "stereo.ogg", samples, 24_000)
    film = write_film(folder / "film.mp4", [0, 20, 40, 60, 80] * 5, sound=sound(2.5))
    frames = [str(first("image_kind", "*.png"))] * 3
    animation = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 99, 200)]
    animation[0].save(folder / "moving.gif", save_all=True, append_images=animation[1:], duration=400)
    sounds = [
        *map(str, sorted(folder.glob("*.wav"))),
        str(folder / "stereo.ogg"),
        str(first("spoken_word", "*.flac")),
        {"bytes": (folder / "22050.wav").read_bytes(), "path": None},
        {"array": samples.T, "sampling_rate": 11_025},
        sound(1.2),
        torch.zeros(40_001),
    ]
    return {
        "image": [
            str(folder / "turned.jpg"),
            {"bytes": (folder / "turned.jpg").read_bytes(), "path": "a.jpg"},
            Image.new("L", (70, 33)),
            np.zeros((90, 33, 3), np.uint8),
            torch.zeros(3, 20, 80),
        ],
        "video": [str(film), {"frames": frames, "fps": 1.5}, str(folder / "moving.gif"), film.read_bytes()],
        "audio": sounds,
        "speech": sounds,
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["image", "video", "audio", "speech"])
def test_the_count_is_the_length_of_what_the_processor_makes(layout: str, kind: str, media: dict[str, Any]) -> None:
    processor = make_processor(media_layout={**LAYOUT, **LAYOUTS[layout]})
    for medium in media[kind]:
        messages = [turn("before ", item(kind, medium), " after", item(kind, medium)), turn("ok", role="assistant")]
        assert processor.count_tokens(messages) == process(processor, [messages])["input_ids"].shape[1], medium


def test_text_alone_and_all_kinds_together_are_counted() -> None:
    processor = make_processor()
    for messages in (EVERYTHING, [turn("ä word"), {"role": "assistant", "content": "yes"}]):
        assert processor.count_tokens(messages) == process(processor, [messages])["input_ids"].shape[1]


def test_a_first_token_that_the_tokenizer_adds_counts_and_one_in_the_template_does_not_count_twice() -> None:
    tokenizer = byte_tokenizer(bos_token="<s>")
    tokenizer.add_tokens(["<s>"], special_tokens=True)
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    for begin in ("", "{{- '<s>' -}}"):
        template = begin + "{%- for m in messages -%}{{- m['content'][0]['text'] -}}{%- endfor -%}"
        processor = make_processor(tokenizer=tokenizer, chat_template=template)
        messages = [turn("abc")]
        length = process(processor, [messages])["input_ids"].shape[1]
        assert processor.count_tokens(messages) == length == 4


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 60_000), rates=st.tuples(*[st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])] * 2)
)
def test_a_resampled_sound_has_the_stated_length(length: int, rates: tuple[int, int]) -> None:
    assert resampled_length(length, *rates) == len(resample(torch.zeros(length), *rates))


def test_lengths_and_sizes_are_those_of_what_is_loaded(media: dict[str, list[Any]]) -> None:
    for medium in media["image"]:
        assert picture_size(medium) == load_picture(medium).size
    for medium in media["audio"]:
        assert sound_length(medium, sampling_rate=16_000) == len(load_sound(medium, sampling_rate=16_000))


def test_files_are_not_decoded_to_be_counted(media: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    processor = make_processor(media_layout={**LAYOUT, "image_max_tiles": 4, "video_timestamps": True})
    files = {"image": media["image"][0], "speech": media["speech"][1], "video": media["video"][0]}
    messages = [turn(*(item(kind, medium) for kind, medium in files.items())), turn("ok", role="assistant")]
    expected = processor.count_tokens(messages)

    def decode(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a medium was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    monkeypatch.setattr("soundfile.SoundFile.read", decode)
    monkeypatch.setattr("unimoe.media.films._pictures_at", decode)
    monkeypatch.setattr("unimoe.processing.units.UnitCollector._tile_size", (32, 32))
    assert processor.count_tokens(messages) == expected


def test_what_the_processor_refuses_is_refused_by_the_count() -> None:
    processor = make_processor()
    for medium, problem in (
        ("nowhere.png", "there is no file"),
        (str(FOLDER / "README.md"), r"image 0: .*README.md' cannot be read as a picture"),
    ):
        with pytest.raises(ValueError, match=problem):
            processor.count_tokens([turn(item("image", medium)), turn("ok", role="assistant")])
    with pytest.raises(ValueError, match="the image item has no medium"):
        processor.count_tokens([turn({"type": "image"}), turn("ok", role="assistant")])
    with pytest.raises(ValueError, match="speech_feature_extractor"):
        make_processor(speech_feature_extractor=None).count_tokens([turn(item("speech", Path("a.wav")))])
