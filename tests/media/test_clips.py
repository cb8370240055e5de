"""Clips: frames by count or by rate, at the right times, from every form; every failure says where and why."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from films import brightness, write_film
from PIL import Image

from unimoe.media import FrameSampling, load_clip, load_clip_sound

PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


class Decoder:
    """Has the two methods of torchcodec's VideoDecoder that are used."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        return SimpleNamespace(data=self.frames[indices])


def frames(count: int) -> FrameSampling:
    return FrameSampling(maximum=count)


def clip(frames: int) -> np.ndarray:
    return np.stack([np.full((5, 6, 3), index, dtype=np.uint8) for index in range(frames)])


@pytest.mark.parametrize(
    "form",
    [
        list,
        np.asarray,
        torch.from_numpy,
        lambda c: torch.from_numpy(c).permute(0, 3, 1, 2),
        Decoder,
        lambda c: [Image.fromarray(frame) for frame in c],
    ],
    ids=["arrays", "array", "tensor FHWC", "tensor FCHW", "decoder", "pil"],
)
def test_every_form_of_a_clip_is_sampled_uniformly(form):
    assert brightness(load_clip(form(clip(16)), sampling=frames(4)).frames) == [2, 6, 10, 14]


def test_short_clips_repeat_frames_in_order():
    assert brightness(load_clip(clip(3), sampling=frames(8)).frames) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert brightness(load_clip(clip(1), sampling=frames(3)).frames) == [0, 0, 0]


@pytest.mark.parametrize(
    ("sampling", "duration", "count"),
    [
        (FrameSampling(maximum=6), 100.0, 6),
        (FrameSampling(maximum=7, multiple=2), 100.0, 6),
        (FrameSampling(rate=2, maximum=64), 10.0, 20),
        (FrameSampling(rate=2, maximum=64, multiple=3), 10.0, 21),
        (FrameSampling(rate=2, maximum=20, multiple=3), 10.0, 18),
        (FrameSampling(rate=2, maximum=8), 10.0, 8),
        (FrameSampling(rate=2, minimum=4, maximum=8), 0.1, 4),
        (FrameSampling(rate=2, minimum=3, maximum=8, multiple=2), 0.1, 4),
        (FrameSampling(rate=0.5, maximum=8), 0.0, 1),
    ],
)
def test_number_of_frames_follows_the_duration(sampling, duration, count):
    assert sampling.count(duration, available=1) == count  # a clip that has fewer repeats them


@pytest.mark.parametrize("values", [{"rate": 0}, {"minimum": 9}, {"minimum": 0}, {"multiple": 9}, {"multiple": 0}])
def test_sampling_that_no_number_of_frames_fits_is_refused(values):
    with pytest.raises(ValueError, match=r"positive number of frames per second|No number of frames"):
        FrameSampling(**values)


def test_frames_with_their_rate_have_times():
    loaded = load_clip({"frames": clip(20), "fps": 4}, sampling=FrameSampling(rate=1, maximum=64))
    assert loaded.duration == 5
    assert brightness(loaded.frames) == [2, 6, 10, 14, 18]
    np.testing.assert_allclose(loaded.times, [0.5, 1.5, 2.5, 3.5, 4.5])
    assert loaded.times.dtype == np.float64


def test_bare_frames_count_as_a_second_each_and_have_no_rate_to_sample_by():
    loaded = load_clip(list(clip(8)), sampling=frames(4))
    assert (loaded.times.tolist(), loaded.duration) == ([1, 3, 5, 7], 8)
    for bare in (list(clip(8)), clip(8), Decoder(clip(8)), {"frames": clip(8)}):
        with pytest.raises(ValueError, match=r'row 0, video 0: 2 frames per second .* 8 frames .*"fps"'):
            load_clip(bare, sampling=FrameSampling(rate=2), where="row 0, video 0")
    with pytest.raises(ValueError, match="rate is -1 per second"):
        load_clip({"frames": clip(2), "fps": -1}, sampling=frames(2))


def test_decoders_say_their_rate_and_times():
    decoder = Decoder(clip(20))
    decoder.metadata = SimpleNamespace(average_fps=4.0, duration_seconds=5.0, begin_stream_seconds=0.25)
    loaded = load_clip(decoder, sampling=FrameSampling(rate=1, maximum=64))
    assert brightness(loaded.frames) == [2, 6, 10, 14, 18]
    np.testing.assert_allclose(loaded.times, [0.5, 1.5, 2.5, 3.5, 4.5])
    stamped = [9.25, 9.75]
    decoder.get_frames_at = lambda indices: SimpleNamespace(data=decoder.frames[indices], pts_seconds=stamped)
    np.testing.assert_allclose(load_clip(decoder, sampling=frames(2)).times, [9, 9.5])
    with pytest.raises(ValueError, match=r"gives no sound\. Pass the path or the bytes"):
        load_clip_sound(decoder, sampling_rate=16_000)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animations_keep_their_durations(suffix, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    pictures = [Image.fromarray(frame * 60) for frame in clip(4)]
    shown = {"duration": [100, 100, 100, 900], "save_all": True, "append_images": pictures[1:]}
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(path, **shown, **({"lossless": True} if suffix == "webp" else {}))
    for medium in (path, path.read_bytes()):
        loaded = load_clip(medium, sampling=FrameSampling(rate=5, maximum=64))
        assert loaded.duration == pytest.approx(1.2)
        np.testing.assert_allclose(loaded.times, [0.1, 0.3, 0.3, 0.3, 0.3, 0.3])
        assert np.abs(np.array(brightness(loaded.frames)) - [60, *[180] * 5]).max() <= 4
    assert load_clip_sound(path, sampling_rate=16_000) is None


def test_an_animation_without_durations_plays_as_in_a_browser(tmp_path):
    pictures = [Image.fromarray(frame * 60) for frame in clip(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=0)
    assert load_clip(tmp_path / "a.gif", sampling=frames(4)).duration == pytest.approx(0.4)


SHADES = [20 * index for index in range(12)]
FILMS = [
    ("a.mp4", "mpeg4", {}),
    ("b.mp4", "libx264", {"g": "5", "bf": "2"}),
    ("c.mkv", "libx264", {"g": "4", "bf": "3"}),
    ("d.webm", "libvpx-vp9", {}),
    ("e.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
    ("f.ts", "libx264", {"g": "5", "bf": "2"}),
    ("g.avi", "libx264", {"g": "5", "bf": "2"}),  # reordered frames in a format without times
    ("h.h264", "libx264", {"bf": "2"}),  # a stream without times: 25 frames a second
    ("i.flv", "flv1", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), FILMS, ids=[name for name, *_ in FILMS])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_films_give_the_frames_of_the_wanted_times(name, codec, options, count, tmp_path):
    path = write_film(tmp_path / name, SHADES, codec=codec, options=options)
    loaded = load_clip(path, sampling=frames(count))
    indices = [(2 * index + 1) * 12 // (2 * count) for index in range(count)]
    assert np.abs(np.array(brightness(loaded.frames)) - [SHADES[index] for index in indices]).max() <= 4
    seconds = 1 / 25 if name.endswith("h264") else 1 / 10
    np.testing.assert_allclose(loaded.times, np.array(indices) * seconds, atol=1e-3)
    assert loaded.duration == pytest.approx(12 * seconds, abs=2e-3)
    assert brightness(load_clip(path.read_bytes(), sampling=frames(count)).frames) == brightness(loaded.frames)


def test_films_are_sampled_by_rate(tmp_path):
    path = write_film(tmp_path / "a.mp4", SHADES)
    loaded = load_clip(path, sampling=FrameSampling(rate=5, maximum=64, multiple=4))
    assert len(loaded.frames) == 8
    assert len(load_clip(path, sampling=FrameSampling(rate=5, maximum=4)).frames) == 4


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    path = write_film(tmp_path / "a.mp4", [0, 60, 120, 180], times=[0, 0.1, 0.2, 1.6])
    loaded = load_clip(path, sampling=FrameSampling(rate=2.5, maximum=64))
    assert loaded.duration == pytest.approx(1.7, abs=0.02)
    np.testing.assert_allclose(loaded.times, [0.2] * 4)
    assert np.abs(np.array(brightness(loaded.frames)) - 120).max() <= 4


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_films_are_turned_upright(rotation, tmp_path):
    path = write_film(tmp_path / "a.mp4", [200] * 3, rotation=rotation)
    (frame,) = load_clip(path, sampling=frames(1)).frames
    (unturned,) = load_clip(write_film(tmp_path / "b.mp4", [200] * 3), sampling=frames(1)).frames
    np.testing.assert_array_equal(np.asarray(frame), np.asarray(unturned.rotate(rotation, expand=True)))


def test_a_film_of_one_frame(tmp_path):
    loaded = load_clip(write_film(tmp_path / "a.mp4", [120]), sampling=FrameSampling(rate=1, maximum=4))
    assert (loaded.times.tolist(), loaded.duration) == ([0], 0.1)
    assert brightness(load_clip(tmp_path / "a.mp4", sampling=frames(3)).frames) == brightness(loaded.frames) * 3


def test_only_the_sampled_frames_of_a_film_are_decoded(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", [index % 200 for index in range(600)], codec="libx264", options={"g": "10"})
    made = []
    monkeypatch.setattr("unimoe.media.films._stamped", lambda *args: made_of(args, made))
    assert len(load_clip(path, sampling=frames(3)).frames) == 3
    assert len(made) <= 3 * 2 * 10


def made_of(args, made):
    container, stream, _ = args
    for frame in container.decode(stream):
        made.append(frame.pts)
        yield frame.pts, frame


def test_sound_of_a_film_starts_with_its_first_frame(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    path = write_film(tmp_path / "a.mp4", SHADES * 2, sound=tone, sound_delay=0.5)
    track = load_clip_sound(path, sampling_rate=16_000)
    assert track.dtype == np.float32
    assert len(track) == pytest.approx(1.5 * 16_000, abs=1100)
    assert np.abs(track[:7_800]).max() < 0.02 < 0.4 < np.abs(track[8_200:23_000]).max()
    assert len(load_clip_sound(path, sampling_rate=8_000)) == pytest.approx(len(track) / 2, abs=1)


def test_a_film_without_sound_has_none(tmp_path):
    assert load_clip_sound(write_film(tmp_path / "a.mp4", SHADES), sampling_rate=16_000) is None
    for frame_list in (clip(2), list(clip(2)), {"frames": clip(2), "fps": 1}):
        assert load_clip_sound(frame_list, sampling_rate=16_000) is None


def test_a_film_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").write_bytes(b"\0" * 64)
    for load in (lambda path, where: load_clip(path, sampling=frames(2), where=where), sound_of):
        with pytest.raises(ImportError, match=r"row 0, video 0: .*film.mp4.*pip install unimoe\[video\]"):
            load(tmp_path / "film.mp4", where="row 0, video 0")


def sound_of(path, where="video"):
    return load_clip_sound(path, sampling_rate=16_000, where=where)


def test_damaged_films_are_refused(tmp_path):
    whole = write_film(tmp_path / "a.mkv", SHADES, codec="libx264").read_bytes()
    (tmp_path / "empty.mp4").touch()
    damaged = [b"x", whole[:300], whole[: len(whole) // 2], tmp_path / "empty.mp4", b""]
    for medium in damaged:
        with pytest.raises(ValueError, match=r"row 0, video 1: .*(cannot be read as a video|empty|0 bytes)"):
            load_clip(medium, sampling=frames(2), where="row 0, video 1")
    with pytest.raises(ValueError, match=r"it is cut off: at least \d+ bytes are missing"):
        load_clip(whole[: len(whole) // 2], sampling=frames(2))


def test_a_sound_given_as_a_film_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mp4", [], sound=np.zeros(16_000, dtype=np.float32))
    with pytest.raises(ValueError, match=r"only sound: pass it as audio or speech|0 frames"):
        load_clip(path, sampling=frames(2))


def test_a_playlist_does_not_lead_to_the_network(tmp_path):
    address = "http://127.0.0.1:9/a.ts"
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
    with pytest.raises(ValueError, match=r"cannot be read as a video"):
        load_clip(tmp_path / "list.m3u8", sampling=frames(1))


@pytest.mark.parametrize(
    ("medium", "message"),
    [
        ([], "0 frames, 4 are sampled"),
        (clip(1)[:0], "0 frames"),
        (clip(2)[0], r"4 dimensions .* got shape \(5, 6, 3\)"),
        ("nowhere.mp4", "no file 'nowhere.mp4'"),
        ("https://example.org/a.mp4", "is a remote address"),
        ([PIXELS, "nowhere.png"], "frame 1: there is no file"),
    ],
)
def test_bad_clips_are_refused_with_their_place(medium, message):
    with pytest.raises(ValueError, match=f"row 1, video 0.*{message}"):
        load_clip(medium, sampling=frames(4), where="row 1, video 0")
