"""Loading of pictures, clips and sounds: every way in gives the same medium, every failure says where and why."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from unimoe.media import FrameSampling, cut_windows, load_clip, load_picture, load_sound, window_samples

MEDIA = Path(__file__).parents[1] / "training/quickstart/media"
PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32) * 0.5


class Decoder:
    """Has the two methods of torchcodec's VideoDecoder that are used."""

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        return SimpleNamespace(data=self.frames[indices])


def file_bytes(image: Image.Image) -> bytes:
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "medium",
    [
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        PIXELS.astype(np.float32) / 255,
        PIXELS.astype(np.float64),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1),
        file_bytes(Image.fromarray(PIXELS)),
        {"bytes": file_bytes(Image.fromarray(PIXELS)), "path": None},
    ],
    ids=["pil", "HWC", "CHW", "float01", "float255", "tensor HWC", "tensor CHW", "alpha", "bytes", "dict"],
)
def test_every_form_of_a_picture_gives_the_same_pixels(medium):
    image = load_picture(medium)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_picture_files_load_by_path_string_and_dict(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    for medium in (path, str(path), {"bytes": None, "path": str(path)}):
        np.testing.assert_array_equal(np.asarray(load_picture(medium)), PIXELS)


def test_real_palette_png_becomes_rgb():
    path = sorted((MEDIA / "image_kind").glob("*.png"))[0]
    assert load_picture(path).mode == "RGB"
    assert load_picture(path).size == Image.open(path).size


def test_grey_pictures_and_masks_get_three_equal_channels():
    for grey in (PIXELS[..., 0], PIXELS[..., :1], Image.fromarray(PIXELS[..., 0]), PIXELS[..., 0] > 9):
        pixels = np.asarray(load_picture(grey))
        assert pixels.shape == (6, 5, 3)
        assert (pixels == pixels[..., :1]).all()


def test_ambiguous_layout_is_channels_last_for_arrays_and_channels_first_for_tensors():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 7, 3), dtype=np.uint8)
    assert load_picture(pixels).size == (7, 3)
    assert load_picture(torch.from_numpy(pixels)).size == (3, 7)


@pytest.mark.parametrize(
    ("medium", "message"),
    [
        ("nowhere.png", "no file 'nowhere.png'.*Correct the path"),
        ("https://example.org/cat.png", "is an address"),
        (b"not a picture", "cannot be read as a picture"),
        (np.zeros((2, 5, 5)), r"got \(2, 5, 5\)"),
        (np.full((4, 4, 3), -1.0), "must lie in 0..1"),
        (np.zeros((0, 4, 3)), "as an array has the shape"),
        (object(), "cannot load a object"),
        ({"url": "x"}, r"cannot load a dict with \['url'\]"),
    ],
)
def test_bad_pictures_are_refused_with_their_place_and_a_cure(medium, message):
    with pytest.raises(ValueError, match=rf"row 3, image 1: .*{message}"):
        load_picture(medium, where="row 3, image 1")


def clip(frames: int) -> np.ndarray:
    return np.stack([np.full((4, 6, 3), index, dtype=np.uint8) for index in range(frames)])


def brightness(frames: list[Image.Image]) -> list[int]:
    return [int(np.asarray(frame)[0, 0, 0]) for frame in frames]


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
    assert brightness(load_clip(form(clip(16)), sampling=FrameSampling(maximum=4)).frames) == [2, 6, 10, 14]


def test_short_clips_repeat_frames_in_order():
    assert brightness(load_clip(clip(3), sampling=FrameSampling()).frames) == [0, 0, 0, 1, 1, 2, 2, 2]
    assert brightness(load_clip(clip(1), sampling=FrameSampling(maximum=3)).frames) == [0, 0, 0]


def test_animated_gif_needs_no_video_decoder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    frames = [Image.fromarray(frame * 60) for frame in clip(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    loaded = brightness(load_clip(tmp_path / "a.gif", sampling=FrameSampling(maximum=4)).frames)
    assert np.abs(np.array(loaded) - [0, 60, 120, 180]).max() <= 4


def test_a_film_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").write_bytes(b"\0" * 64)
    with pytest.raises(ImportError, match=r"row 0, video 0: .*film.mp4.*pip install unimoe\[video\]"):
        load_clip(tmp_path / "film.mp4", sampling=FrameSampling(), where="row 0, video 0")


@pytest.mark.parametrize(
    ("medium", "message"),
    [
        ([], "0 frames, 4 are sampled"),
        (clip(1)[:0], "0 frames"),
        (clip(2)[0], r"4 dimensions .* got shape \(4, 6, 3\)"),
        ("nowhere.mp4", "no file 'nowhere.mp4'"),
        ([PIXELS, "nowhere.png"], "frame 1: there is no file"),
    ],
)
def test_bad_clips_are_refused_with_their_place(medium, message):
    with pytest.raises(ValueError, match=f"row 1, video 0.*{message}"):
        load_clip(medium, sampling=FrameSampling(maximum=4), where="row 1, video 0")


def test_every_form_of_a_sound_gives_the_same_samples(tmp_path):
    sound = tone(0.2)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    data = (tmp_path / "a.wav").read_bytes()
    decoder = SimpleNamespace(
        get_all_samples=lambda: SimpleNamespace(data=torch.from_numpy(sound)[None], sample_rate=RATE)
    )
    path = tmp_path / "a.wav"
    forms = [path, str(path), data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}]
    forms += [{"array": sound, "sampling_rate": RATE}, sound, sound.astype(np.float64), torch.from_numpy(sound)]
    forms += [sound.tolist(), np.stack([sound, sound]), np.stack([sound, sound], axis=1), decoder]
    for form in forms:
        loaded = load_sound(form, sampling_rate=RATE)
        assert loaded.dtype == np.float32
        np.testing.assert_allclose(loaded, sound, atol=1e-6)


def test_stereo_is_averaged():
    left, right = tone(0.1), tone(0.1, hertz=100)
    np.testing.assert_allclose(load_sound(np.stack([left, right]), sampling_rate=RATE), (left + right) / 2, atol=1e-6)


def test_integer_samples_are_scaled_to_one():
    loaded = load_sound(np.array([-32768, 0, 16384], dtype=np.int16), sampling_rate=RATE)
    np.testing.assert_allclose(loaded, [-1, 0, 0.5])


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_sounds_are_resampled_to_the_wanted_rate(rate, tmp_path):
    soundfile.write(tmp_path / "a.flac", tone(0.5, rate), rate)
    wanted = tone(0.5)
    from_file = load_sound(tmp_path / "a.flac", sampling_rate=RATE)
    from_dict = load_sound({"array": tone(0.5, rate), "sampling_rate": rate}, sampling_rate=RATE)
    bare = load_sound(tone(0.5, rate), sampling_rate=RATE, array_sampling_rate=rate)
    for loaded in (from_file, from_dict, bare):
        assert loaded.shape == wanted.shape
        np.testing.assert_allclose(loaded[400:-400], wanted[400:-400], atol=0.02)


def test_resampling_without_torchaudio_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(ImportError, match="from 8000 to 16000 Hz needs torchaudio"):
        load_sound(tone(0.1), sampling_rate=RATE, array_sampling_rate=8_000)


@pytest.mark.parametrize("kind", ["spoken_word", "sound_kind"])
def test_real_flac_files_load_whole(kind):
    path = sorted((MEDIA / kind).glob("*.flac"))[0]
    assert load_sound(path, sampling_rate=RATE).shape == (soundfile.info(path).frames,)


@pytest.mark.parametrize(
    ("medium", "message"),
    [
        ([], "sound is empty"),
        (np.zeros(0, dtype=np.float32), "sound is empty"),
        (np.array([0.0, np.nan]), "1 of 2 samples are NaN"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.array(["a"]), "samples are floats"),
        ("nowhere.wav", "no file 'nowhere.wav'"),
        (b"noise", "cannot read a bytes|cannot be read as a sound"),
    ],
)
def test_bad_sounds_are_refused_with_their_place(medium, message):
    with pytest.raises(ValueError, match=f"row 2, speech 0: .*({message})"):
        load_sound(medium, sampling_rate=RATE, where="row 2, speech 0")


def test_window_lengths_are_those_of_the_extractors():
    assert window_samples(WhisperFeatureExtractor(chunk_length=1)) == 16_000
    assert window_samples(WhisperFeatureExtractor()) == 480_000
    assert window_samples(ASTFeatureExtractor()) == 163_840  # 10.24 s
    with pytest.raises(ValueError, match="states no window length"):
        window_samples(SimpleNamespace(sampling_rate=RATE))


@pytest.mark.parametrize(("length", "windows"), [(1, 1), (399, 1), (1600, 1), (1601, 2), (3200, 2), (5000, 4)])
def test_windows_hold_every_sample_once(length, windows):
    sound = np.arange(1, length + 1, dtype=np.float32)
    cut = cut_windows(sound, window=1600, sampling_rate=RATE)
    assert len(cut) == windows
    joined = np.concatenate(cut)
    np.testing.assert_array_equal(joined[:length], sound)
    assert (joined[length:] == 0).all()
    assert min(map(len, cut)) >= 400


def test_ast_does_not_truncate_a_full_window():
    extractor = ASTFeatureExtractor(max_length=16, num_mel_bins=16)
    window = window_samples(extractor)
    quiet, loud_end = np.zeros(window, dtype=np.float32), np.zeros(window, dtype=np.float32)
    loud_end[-200:] = 0.5
    features = [extractor(sound, sampling_rate=RATE)["input_values"][0] for sound in (quiet, loud_end)]
    assert np.abs(features[0] - features[1]).max() > 0.1
