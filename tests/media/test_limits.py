"""What would take the machine down is refused at once, by the name of the limit and the ways to raise it."""

import io
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from films import write_film
from PIL import Image

from unimoe.errors import ConfigError, LimitError, MediaError
from unimoe.files.strict_json import parse_json
from unimoe.media import FrameSampling, Limits, clip_times, load_clip, load_picture, load_sound, picture_size
from unimoe.media import sound_length as length_of

SAMPLING = FrameSampling(maximum=4)


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + width // 8)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def pages(width: int, height: int) -> bytes:
    small, large = Image.new("1", (10, 10)), Image.new("1", (width, height))
    small.save(buffer := io.BytesIO(), "TIFF", compression="tiff_deflate", save_all=True, append_images=[large])
    return buffer.getvalue()


def flac(seconds: int) -> bytes:
    """Silence of 8 kHz: four hours are some kB."""
    with soundfile.SoundFile(buffer := io.BytesIO(), "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(seconds // 100):
            file.write(np.zeros(800_000, dtype=np.int16))
    return buffer.getvalue()


def aac(seconds: int) -> bytes:
    """Silence of 8 kHz."""
    import av

    with av.open(buffer := io.BytesIO(), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        for _ in range(seconds // 100):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800_000), dtype=np.float32), format="fltp", layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def wav(rate: int, channels: int = 1, samples: int = 500) -> bytes:
    data = bytes(2 * channels * samples)
    head = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate % 2**32, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt \x10\0\0\0" + head + b"data" + struct.pack(
        "<I", len(data)
    ) + data  # fmt: skip


def unstated(data: bytes) -> bytes:
    """A FLAC file whose header does not count its samples."""
    word = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1)
    return data[:18] + word.to_bytes(8, "big") + data[26:]


BOMBS: dict[str, tuple[Callable[[], object], Callable[..., object], str]] = {
    "picture": (lambda: png(13_000, 13_000), load_picture, "picture_pixels"),
    "picture of 900 megapixels": (lambda: png(30_000, 30_000), load_picture, "picture_pixels"),
    "size of a picture": (lambda: png(13_000, 13_000), picture_size, "picture_pixels"),
    "array": (lambda: np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), load_picture, "picture_pixels"),
    "frames": (lambda: gif(13_000, 13_000, 300), load_clip, "picture_pixels"),
    "frames of a film's length": (lambda: gif(2000, 2000, 600), load_clip, "animation_pixels"),
    "tiny frames": (lambda: gif(1, 1, 1_000_000), load_clip, "animation_frames"),
    "times of frames": (lambda: gif(13_000, 13_000, 300), clip_times, "picture_pixels"),
    "canvas of a clip": (lambda: gif(4000, 4000, 130), load_clip, "animation_pixels"),
    "pages of a clip": (lambda: pages(10_000, 10_000), load_clip, "picture_pixels"),
    "pages beyond Pillow's limit": (lambda: pages(15_000, 15_000), load_clip, "picture_pixels"),
    "length of a sound of many channels": (lambda: wav(16_000, channels=70), length_of, "channels"),
    "length of a sound of a high rate": (lambda: wav(800_000), length_of, "sampling_rate"),
    "hours": (lambda: flac(4 * 3600), load_sound, "sound_seconds"),
    "hours that no header states": (lambda: unstated(flac(4 * 3600)), load_sound, "sound_seconds"),
    "length of hours": (lambda: unstated(flac(4 * 3600)), length_of, "sound_seconds"),
    "hours for PyAV": (lambda: aac(3600), load_sound, "sound_seconds"),
    "rate": (lambda: wav(2_000_000_000), load_sound, "sampling_rate"),
    "channels": (lambda: wav(16_000, channels=500), load_sound, "channels"),
    "samples": (lambda: {"array": np.broadcast_to(np.float32(0), (10**9,)), "sampling_rate": 16_000}, load_sound, "s"),
    "json": (lambda: "[" * 100_000 + "]" * 100_000, parse_json, "json_depth"),
    "digits": (lambda: "9" * 5_000_000, parse_json, "number_digits"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_by_the_name_of_a_limit_and_the_ways_to_raise_it(name):
    make, read, limit = BOMBS[name]
    bomb = make()
    options = {"sampling_rate": 16_000} if read in (load_sound, length_of) else {}
    options |= {"sampling": SAMPLING} if read in (load_clip, clip_times) else {}
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LimitError, match=rf"row 7: .*limit {limit}.*UNIMOE_LIMIT_{limit.upper()}.*limits="):
        read(bomb, where="row 7", **options)
    assert time.process_time() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB"


def test_an_odd_rate_takes_no_more_memory_than_another():
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(load_sound(wav(44_101, samples=1000), sampling_rate=16_000)) == 363
    assert time.process_time() - begin < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kB"


def test_a_film_of_too_many_frames_or_seconds_is_refused(tmp_path):
    path = write_film(tmp_path / "a.mp4", [10, 20, 30, 40])
    for limits in (Limits(film_frames=3), Limits(film_pixels=4000), Limits(picture_pixels=1000)):
        with pytest.raises(LimitError, match="the limit"):
            load_clip(path, sampling=SAMPLING, limits=limits)
    assert len(load_clip(path, sampling=SAMPLING, limits=Limits(film_frames=4)).frames) == 4
    with pytest.raises(LimitError, match="film_seconds"):
        clip_times(
            write_film(tmp_path / "b.mp4", [1, 2], times=[0, 5]), sampling=SAMPLING, limits=Limits(film_seconds=2)
        )


def test_a_limit_is_raised_and_lowered_by_argument_and_by_environment(monkeypatch):
    large = Image.new("RGB", (100, 100))
    with pytest.raises(LimitError, match="100 x 100"):
        load_picture(large, limits=Limits(picture_pixels=9_999))
    monkeypatch.setenv("UNIMOE_LIMIT_PICTURE_PIXELS", "9999")
    with pytest.raises(LimitError, match="100 x 100"):
        load_picture(large)
    monkeypatch.setenv("UNIMOE_LIMIT_PICTURE_PIXELS", "10000")
    assert load_picture(large).size == (100, 100)


@pytest.mark.parametrize(("name", "value"), [("PIXELS", "1"), ("PICTURE_PIXELS", "many"), ("PICTURE_PIXELS", "0")])
def test_a_setting_that_is_no_limit_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(f"UNIMOE_LIMIT_{name}", value)
    with pytest.raises(ConfigError, match=r"no such limit|no whole number"):
        load_picture(Image.new("RGB", (2, 2)))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


def test_formats_are_those_that_are_named():
    with pytest.raises(MediaError, match=r"not one of AVIF, .*PNG"):
        load_picture(EPS)
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        load_picture(b"SIMPLE  =                    T" + bytes(2880))


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1,\nb.mp4\n", "ffconcat version 1.0\nfile b.mp4\n"])
def test_a_playlist_opens_no_other_file(text, tmp_path):
    write_film(tmp_path / "b.mp4", [10, 20])
    for ending in ("m3u8", "mp4"):
        (path := tmp_path / f"list.{ending}").write_text(text)
        for read in (lambda: load_clip(path, sampling=SAMPLING), lambda: load_sound(path, sampling_rate=16_000)):
            with pytest.raises(MediaError, match="cannot be read"):
                read()


@pytest.mark.parametrize("read", [load_picture, lambda path: load_sound(path, sampling_rate=16_000)])
def test_pipes_and_devices_are_refused_and_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", "/dev/zero", "/dev/stdin"):
        if Path(path).exists() and not Path(path).is_file():
            with pytest.raises(MediaError, match="pipe or a device"):
                read(path)


def test_a_file_that_is_too_large_is_not_opened(tmp_path):
    with (tmp_path / "a.wav").open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(LimitError, match="file_bytes"):
        load_sound(tmp_path / "a.wav", sampling_rate=16_000)
