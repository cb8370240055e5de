"""Sounds: every way in gives the same samples, every failure says where and why; windows hold each sample once."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from films import write_film
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from unimoe.media import cut_windows, load_sound, window_samples

MEDIA = Path(__file__).parents[2] / "training/quickstart/media"
RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32) * 0.5


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
        (np.array(["a"]), "got <U1 of shape"),
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


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mp4", "aac"), ("a.mkv", "libopus"), ("a.mp3", "mp3")]
)
def test_sounds_that_soundfile_may_not_know_load_with_pyav(name, codec, tmp_path):
    rate = 48_000 if codec == "libopus" else RATE
    path = write_sound(tmp_path / name, tone(1.0, rate), rate, codec)
    for medium in (path, path.read_bytes()):
        loaded = load_sound(medium, sampling_rate=RATE)
        assert len(loaded) == pytest.approx(RATE, abs=2500)  # encoders pad to whole frames
        assert np.abs(loaded).max() == pytest.approx(0.5, abs=0.05)


def write_sound(path: Path, samples: np.ndarray, rate: int, codec: str) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_track_of_a_film_is_a_sound(tmp_path):
    path = write_film(tmp_path / "a.mp4", [0] * 10, sound=tone(1.0))
    assert len(load_sound(path, sampling_rate=RATE)) == pytest.approx(RATE, abs=2500)
    with pytest.raises(ValueError, match=r"row 0, audio 0: .*it holds no sound"):
        load_sound(write_film(tmp_path / "b.mp4", [0] * 10), sampling_rate=RATE, where="row 0, audio 0")


def test_formats_beyond_soundfile_say_what_to_install(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", [0] * 10, sound=tone(1.0))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"soundfile cannot read .*a\.mp4.*pip install unimoe\[audio\]"):
        load_sound(path, sampling_rate=RATE)


def test_a_short_sound_of_many_channels_is_averaged_over_channels(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full((3, 6), 0.25), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(load_sound(tmp_path / "a.wav", sampling_rate=RATE), np.full(3, 0.25))
