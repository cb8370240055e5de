"""Films by time: which frames, when they appear, what is heard, and what is said of damaged ones."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from films import STEP, write_film
from PIL import Image

from unimoe.media import Clip, FrameSampling, load_clip, load_clip_sound, load_sound

RATE = 16_000


def tone(seconds: float) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)


def numbers(clip: Clip) -> list[int]:
    """Which frames of `write_film` these are."""
    return [round(float(np.asarray(frame).mean()) / STEP) for frame in clip.frames]


@pytest.mark.parametrize(
    ("length", "sampling", "count"),
    [
        (4.0, FrameSampling(), 8),
        (4.0, FrameSampling(rate=1.0), 4),
        (4.0, FrameSampling(rate=1.0, multiple=4), 4),
        (2.5, FrameSampling(rate=2.0, multiple=2), 6),
        (100.0, FrameSampling(rate=1.0), 8),
        (0.1, FrameSampling(rate=1.0), 1),
        (0.1, FrameSampling(rate=1.0, minimum=3, multiple=2), 4),
        (0.0, FrameSampling(rate=1.0), 1),
    ],
)
def test_the_number_of_frames_follows_the_length(length: float, sampling: FrameSampling, count: int) -> None:
    assert sampling.count(length) == count


@pytest.mark.parametrize("key_frames", [1, 12, 1000])
def test_frames_are_those_shown_in_the_middles_of_equal_parts(tmp_path: Path, key_frames: int) -> None:
    film = write_film(tmp_path / "a.mp4", key_frames=key_frames)
    clip = load_clip(film, sampling=FrameSampling(rate=1.0))
    assert numbers(clip) == [5, 15, 25, 35]
    np.testing.assert_allclose(clip.times, [0.5, 1.5, 2.5, 3.5])
    assert clip.length == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_every_container_and_bytes_give_the_same(tmp_path: Path, suffix: str) -> None:
    film = write_film(tmp_path / f"a.{suffix}")
    for medium in (film, str(film), film.read_bytes(), {"bytes": film.read_bytes(), "path": None}):
        assert numbers(load_clip(medium, sampling=FrameSampling(maximum=4))) == [5, 15, 25, 35]


def test_far_moments_are_reached_by_jumps_and_near_ones_by_decoding_on(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", seconds=4.0, times=[index * 0.5 for index in range(40)])
    assert numbers(load_clip(film, sampling=FrameSampling(maximum=3))) == [6, 19, 32]
    clip = load_clip(film, sampling=FrameSampling(maximum=40))
    assert numbers(clip) == [int((part + 0.5) * clip.length / 40 / 0.5) for part in range(40)]


def test_frames_of_uneven_duration_are_taken_by_time(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv", times=[0.0, 0.1, 0.2, 0.3, 3.0, 3.9])
    clip = load_clip(film, sampling=FrameSampling(maximum=4))
    assert numbers(clip)[1:] == [3, 3, 4] and clip.times[1:].tolist() == pytest.approx([0.3, 0.3, 3.0])


def test_frames_of_an_animation_are_taken_by_their_durations(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), 60 * index) for index in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[1000, 3000, 1000], loop=0)
    clip = load_clip(tmp_path / "a.gif", sampling=FrameSampling(rate=1.0))
    assert [round(float(np.asarray(frame).mean()) / 60) for frame in clip.frames] == [0, 1, 1, 1, 2]
    assert clip.times.tolist() == [0, 1, 1, 1, 4] and clip.length == 5.0
    assert load_clip_sound(tmp_path / "a.gif", sampling_rate=RATE) is None


def test_frames_in_memory_have_the_rate_that_is_stated() -> None:
    frames = [Image.new("RGB", (8, 8), (STEP * index,) * 3) for index in range(20)]
    clip = load_clip({"frames": frames, "fps": 4.0}, sampling=FrameSampling(rate=1.0))
    assert numbers(clip) == [2, 6, 10, 14, 18]
    assert clip.times.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5] and clip.length == 5.0
    assert load_clip(frames, sampling=FrameSampling(maximum=2)).times.tolist() == [5.0, 15.0]


def test_a_rate_cannot_be_kept_where_none_is_known() -> None:
    with pytest.raises(ValueError, match=r'row 0, video 0: .* Pass {"frames": frames, "fps": frames per second}'):
        load_clip(np.zeros((4, 8, 8, 3), np.uint8), sampling=FrameSampling(rate=1.0), where="row 0, video 0")
    with pytest.raises(ValueError, match="fps is 0"):
        load_clip({"frames": np.zeros((4, 8, 8, 3), np.uint8), "fps": 0}, sampling=FrameSampling())


def test_decoders_tell_their_rate() -> None:
    class Decoder:
        metadata = SimpleNamespace(average_fps=5.0)

        def __len__(self) -> int:
            return 20

        def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
            return SimpleNamespace(data=torch.stack([torch.full((3, 8, 8), STEP * i).byte() for i in indices]))

    clip = load_clip(Decoder(), sampling=FrameSampling(rate=1.0))
    assert numbers(clip) == [2, 7, 12, 17] and clip.times.tolist() == [0.4, 1.4, 2.4, 3.4]
    with pytest.raises(ValueError, match="a Decoder gives no sound"):
        load_clip_sound(Decoder(), sampling_rate=RATE)


def test_the_sound_track_is_heard_at_the_wanted_rate(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", seconds=2.0, sound=tone(2.0))
    for medium in (film, film.read_bytes()):
        heard = load_clip_sound(medium, sampling_rate=8000)
        assert heard is not None and heard.dtype == np.float32 and abs(len(heard) - 16_000) < 1200
        loudest = np.abs(np.fft.rfft(heard[2000:10_000])).argmax() * 8000 / 8000
        assert abs(loudest - 440) <= 2 and 0.15 < np.abs(heard[2000:10_000]).max() < 0.4
    np.testing.assert_array_equal(load_sound(film, sampling_rate=8000), heard)


def test_a_film_without_sound_is_silent(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", seconds=1.0)
    assert load_clip_sound(film, sampling_rate=RATE) is None
    assert load_clip_sound([Image.new("RGB", (8, 8))], sampling_rate=RATE) is None
    with pytest.raises(ValueError, match=r"cannot be read as a sound \(it has no sound track\)"):
        load_sound(film, sampling_rate=RATE)


def test_frames_may_bring_their_sound() -> None:
    frames = [Image.new("RGB", (8, 8))]
    heard = load_clip_sound({"frames": frames, "fps": 1, "audio": tone(0.5)}, sampling_rate=RATE)
    np.testing.assert_allclose(heard, tone(0.5), atol=1e-6)


def test_damaged_films_are_refused_with_their_place(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mkv", seconds=8.0)
    content = film.read_bytes()
    cases = {
        "no film": b"\0" * 4096,
        "cut.mkv": content[: len(content) * 2 // 5],
        "cut.mp4": write_film(tmp_path / "a.mp4").read_bytes()[:3000],
        "empty": b"",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=r"row 2, video 1: .* cannot be read as a video .*Replace the file"):
            load_clip(tmp_path / name, sampling=FrameSampling(maximum=4), where="row 2, video 1")


def test_a_sound_is_no_video(tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    with pytest.raises(ValueError, match=r"cannot be read as a video \(it has no pictures\)"):
        load_clip(tmp_path / "a.wav", sampling=FrameSampling())
