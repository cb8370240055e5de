"""A sound, a film or a picture is whole or refused, whatever its header says."""

import io
import struct
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from unimoe.errors import MediaError
from unimoe.media import FrameSampling, load_clip, load_picture, load_sound, picture_size, sound_length

RATE = 16_000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wav float": ("WAV", "FLOAT"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "sphere": ("NIST", "PCM_16"),
}
CHAINS = ("vorbis", "opus", "mp3")
"""Formats in which one stream may follow another."""


def sound(kind: str, seconds: float, hertz: float = 440.0) -> bytes:
    samples = 0.3 * np.sin(np.arange(int(seconds * RATE)) * 2 * np.pi * hertz / RATE)
    container, subtype = FORMATS[kind]
    soundfile.write(buffer := io.BytesIO(), samples, RATE, format=container, subtype=subtype)
    return buffer.getvalue()


def seconds_of(data: bytes) -> float:
    """Length of what is loaded; the length before decoding is the same."""
    samples = load_sound(data, sampling_rate=RATE)
    assert sound_length(data, sampling_rate=RATE) == len(samples)
    return len(samples) / RATE


def refused(data: bytes, message: str) -> None:
    for read in (load_sound, sound_length):
        with pytest.raises(MediaError, match=message):
            read(data, sampling_rate=RATE)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_whole_sound_is_read_whole_and_tags_behind_it_change_nothing(kind):
    data = sound(kind, 2)
    assert seconds_of(data) == 2
    if kind not in ("caf", "w64"):
        assert seconds_of(data + b"TAG" + bytes(125)) == pytest.approx(2, abs=0.08)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.8, 0.97])
def test_a_sound_that_was_cut_is_refused_however_little_is_missing(kind, part):
    data = sound(kind, 4)
    refused(data[: int(len(data) * part)], "cut off|promises too much|cannot be read|end")


@pytest.mark.parametrize("kind", FORMATS)
def test_joined_sounds_are_read_whole_or_refused(kind):
    data = sound(kind, 2) + sound(kind, 3, 880)
    if kind in CHAINS:
        assert seconds_of(data) == pytest.approx(5, abs=0.3)
        assert seconds_of(data + sound(kind, 1)) == pytest.approx(6, abs=0.5)
    else:
        refused(data, "joined")


def test_chained_sounds_of_two_rates_are_refused():
    soundfile.write(slow := io.BytesIO(), np.zeros(8000), 8000, format="OGG", subtype="VORBIS")
    refused(sound("vorbis", 1) + slow.getvalue(), r"sounds of \[8000, 16000\] Hz follow each other")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sounds_of_every_width_and_number_of_channels_are_whole(subtype, channels):
    for container in ("AIFF", "AU", "CAF", "NIST", "WAV"):
        kind = "PCM_U8" if subtype == "PCM_S8" and container == "WAV" else subtype
        samples = np.repeat(0.3 * np.sin(np.arange(8000) / 9)[:, None], channels, axis=1)
        soundfile.write(buffer := io.BytesIO(), samples, RATE, format=container, subtype=kind)
        assert seconds_of(buffer.getvalue()) == 0.5
        refused(buffer.getvalue()[:-1], "cut off|cannot be read")


TAG = b"ID3\3\0\0" + bytes([0, 0, 3, 116]) + bytes(500)


@pytest.mark.parametrize("kind", ["flac", "wav", "vorbis", "aiff", "mp3"])
def test_a_tag_in_front_hides_nothing(kind):
    data = sound(kind, 2)
    assert seconds_of(TAG + data) == 2
    refused(TAG + data[: len(data) // 2], "cut off|promises too much")
    if kind not in CHAINS:
        refused(TAG + data + data, "joined")


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_the_second_layer_of_mpeg_is_read_whole(rate, layout):
    with av.open(buffer := io.BytesIO(), "w", format="mp2") as container:
        stream = container.add_stream("mp2", rate=rate, layout=layout)
        samples = (9000 * np.sin(np.arange(2 * rate) / 9)).astype(np.int16)
        packed = np.repeat(samples, 2 if layout == "stereo" else 1)[None]
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(load_sound(buffer.getvalue(), sampling_rate=rate)) / rate == pytest.approx(2, abs=0.06)


def test_formats_that_nothing_checks_are_refused_by_name():
    soundfile.write(buffer := io.BytesIO(), np.zeros(4000), RATE, format="VOC", subtype="PCM_16")
    with pytest.raises(MediaError, match="not one of AIFF"):
        load_sound(buffer.getvalue(), sampling_rate=RATE)


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def flac_states(samples: int) -> bytes:
    data = sound("flac", 2)
    word = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1)
    return patched(data, 18, (word | samples).to_bytes(8, "big"))


def wav_states(size: int) -> bytes:
    data = sound("wav", 2)
    return patched(data, data.index(b"data") + 4, struct.pack("<I", size))


def au_states(size: int) -> bytes:
    return patched(sound("au", 2), 8, struct.pack(">I", size))


def aiff_states(samples: int) -> bytes:
    data = sound("aiff", 2)
    return patched(data, data.index(b"COMM") + 10, struct.pack(">I", samples))


@pytest.mark.parametrize(
    "data",
    [flac_states(0), wav_states(0), wav_states(0xFFFFFFFF), wav_states(0x7FFFF000), au_states(0xFFFFFFFF)],
    ids=["flac", "wav 0", "wav all bits", "wav by sox", "au"],
)
def test_a_header_that_does_not_know_the_length_costs_nothing(data):
    assert seconds_of(data) == 2


@pytest.mark.parametrize(
    "data",
    [
        flac_states(16_000),
        flac_states(64_000),
        wav_states(32_000),
        wav_states(70_000),
        au_states(32_000),
        au_states(70_000),
        aiff_states(16_000),
        aiff_states(64_000),
    ],
    ids=["flac less", "flac more", "wav less", "wav more", "au less", "au more", "aiff less", "aiff more"],
)
def test_a_header_that_promises_too_much_or_too_little_is_refused(data):
    refused(data, "promises|cut off|states")


@pytest.mark.parametrize("states", [wav_states, au_states])
def test_piped_sounds_that_are_joined_are_refused(states):
    refused(states(0xFFFFFFFF) + sound(states.__name__[:3].rstrip("_"), 1), "joined")


def test_an_mp3_without_a_count_is_read_to_its_end():
    data = sound("mp3", 6)
    first = data.index(b"\xff", 4)
    while data[first + 1] != data[1]:
        first = data.index(b"\xff", first + 1)
    assert seconds_of(data[first:]) == pytest.approx(6, abs=0.1)


def film(form: str, codec: str, *, piped: bool = False, **options: str) -> bytes:
    """Two seconds of 10 frames that grow brighter; piped: written without going back."""
    with av.open(buffer := Pipe() if piped else io.BytesIO(), "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(0, 200, 10):
            pixels = np.full((48, 64, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return bytes(buffer.data) if isinstance(buffer, Pipe) else buffer.getvalue()


class Pipe:
    """What can be written to, and not be gone back in."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, piece: bytes) -> int:
        self.data += bytes(piece)
        return len(piece)


FILMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mp4": ("mp4", "mpeg4", {}),
    "mp4 in fragments": ("mp4", "mpeg4", {"piped": True, "movflags": "frag_keyframe+empty_moov"}),
    "mov": ("mov", "mpeg4", {}),
    "mkv": ("matroska", "mpeg4", {}),
    "live mkv": ("matroska", "mpeg4", {"piped": True, "live": "1"}),
    "live webm": ("webm", "libvpx", {"piped": True, "live": "1"}),
    "avi": ("avi", "mpeg4", {}),
    "flv": ("flv", "flv", {}),
    "wmv": ("asf", "wmv2", {}),
    "ts": ("mpegts", "mpeg4", {"piped": True}),
}


@pytest.mark.parametrize("name", FILMS)
def test_a_film_is_whole_or_refused(name):
    form, codec, options = FILMS[name]
    data, sampling = film(form, codec, **options), FrameSampling(maximum=4)
    clip = load_clip(data, sampling=sampling)
    np.testing.assert_allclose([np.asarray(frame).mean() for frame in clip.frames], [20, 70, 120, 170], atol=6)
    with pytest.raises(MediaError, match="joined"):
        load_clip(data + data, sampling=sampling)
    for part in (0.35, 0.9):
        with pytest.raises(MediaError, match=r"cut off|cannot be read"):
            load_clip(data[: int(len(data) * part)], sampling=sampling)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_joined_animations_are_refused(kind):
    frames = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 60, 120, 180, 240)]
    frames[0].save(buffer := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
    assert len(load_clip(buffer.getvalue(), sampling=FrameSampling(maximum=5)).frames) == 5
    with pytest.raises(MediaError, match=r"joined|follow"):
        load_clip(buffer.getvalue() * 2, sampling=FrameSampling(maximum=5))


def test_an_animation_that_states_fewer_frames_than_it_has_is_refused():
    frames = [Image.new("RGB", (20, 20), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(buffer := io.BytesIO(), "PNG", save_all=True, append_images=frames[1:])
    data = buffer.getvalue()
    at = data.index(b"acTL") + 4
    with pytest.raises(MediaError, match="states 1 frames, and 3 are in it"):
        load_clip(patched(data, at, struct.pack(">I", 1)), sampling=FrameSampling(maximum=3))


def test_a_film_of_jpegs_in_a_row_is_a_film():
    with av.open(buffer := io.BytesIO(), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for shade in range(0, 200, 10):
            pixels = np.full((48, 64, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    clip = load_clip(buffer.getvalue(), sampling=FrameSampling(maximum=4))
    np.testing.assert_allclose([np.asarray(frame).mean() for frame in clip.frames], [20, 70, 120, 170], atol=6)


def test_pictures_within_a_picture_are_none_behind_it():
    Image.new("RGB", (8, 8), "red").save(small := io.BytesIO(), "JPEG")
    Image.new("RGB", (20, 10), "red").save(buffer := io.BytesIO(), "JPEG", comment=small.getvalue() * 2)
    assert load_picture(buffer.getvalue()).size == (20, 10)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
@pytest.mark.parametrize("read", [load_picture, picture_size])
def test_joined_pictures_are_refused(kind, read: Callable[..., object]):
    Image.new("RGB", (20, 10), "red").save(buffer := io.BytesIO(), kind)
    read(buffer.getvalue())
    with pytest.raises(MediaError, match=r"joined|follow"):
        read(buffer.getvalue() * 2)
