"""Damaged files of every format: what is loaded agrees with what was measured, or one error names the place."""

import io
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from films import write_film
from PIL import Image

from unimoe.errors import MediaError
from unimoe.media import FrameSampling, clip_times, load_clip, load_picture, load_sound, picture_size, sound_length

DAMAGED = 300
SAMPLING = FrameSampling(maximum=3)
Reader = Callable[[bytes], Any]


def pictures() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    files = {}
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "ICO"):
        Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
        files[f"picture.{kind}"] = buffer.getvalue()
    return files


def sounds() -> dict[str, bytes]:
    samples = 0.3 * np.sin(np.arange(24_000) / 7)
    kinds = [("WAV", "PCM_16"), ("WAV", "MS_ADPCM"), ("AIFF", "PCM_24"), ("AU", "PCM_16"), ("FLAC", "PCM_16")]
    kinds += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("CAF", "PCM_16"), ("W64", "PCM_16")]
    files = {}
    for container, subtype in kinds:
        soundfile.write(buffer := io.BytesIO(), samples, 16_000, format=container, subtype=subtype)
        files[f"sound.{container}.{subtype}"] = buffer.getvalue()
    return files


def films(folder: Path) -> dict[str, bytes]:
    sound = 0.2 * np.sin(np.arange(20_000) / 5).astype(np.float32)
    files = {
        f"clip.{ending}": write_film(
            folder / f"a.{ending}", range(0, 200, 20), codec="mpeg4", sound=sound
        ).read_bytes()
        for ending in ("mp4", "mkv", "avi")
    }
    frames = [Image.new("RGB", (24, 16), (shade, 0, 0)) for shade in range(0, 250, 50)]
    for kind in ("GIF", "WEBP", "PNG"):
        frames[0].save(buffer := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
        files[f"clip.{kind}"] = buffer.getvalue()
    return files


def damage(data: bytes, chance: random.Random) -> bytes:
    """Cut, flip, overwrite, remove or repeat parts; most damage falls on the header."""
    broken = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if len(broken) < 8:
            break
        reach = min(len(broken), chance.choice((64, 256, len(broken))))
        at = chance.randrange(reach)
        kind = chance.randrange(6)
        if kind == 0:
            broken[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            broken[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        elif kind == 2:
            broken[at : at + 8] = chance.randbytes(8)
        elif kind == 3:
            del broken[at : at + chance.randint(1, 50)]
        elif kind == 4:
            broken[at:at] = broken[at : at + chance.randint(1, 50)]
        else:
            del broken[chance.randrange(len(broken)) :]
    return bytes(broken)


def read_picture(data: bytes) -> None:
    assert picture_size(data, where="row 1, image 0") == load_picture(data, where="row 1, image 0").size


def read_sound(data: bytes) -> None:
    samples = load_sound(data, sampling_rate=16_000, where="row 1, audio 0")
    assert sound_length(data, sampling_rate=16_000, where="row 1, audio 0") == len(samples)


def read_clip(data: bytes) -> None:
    clip = load_clip(data, sampling=SAMPLING, where="row 1, video 0")
    np.testing.assert_array_equal(clip_times(data, sampling=SAMPLING, where="row 1, video 0"), clip.times)


READERS: dict[str, Reader] = {"picture": read_picture, "sound": read_sound, "clip": read_clip}


@pytest.mark.slow
def test_damaged_media_are_read_or_refused_in_time_and_memory(tmp_path):
    files = {**pictures(), **sounds(), **films(tmp_path)}
    for name, data in files.items():
        READERS[name.partition(".")[0]](data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chance, refused = random.Random(0), 0
    for number in range(DAMAGED):
        name = list(files)[number % len(files)]
        data = damage(files[name], chance)
        begin = time.monotonic()
        try:
            READERS[name.partition(".")[0]](data)
        except MediaError as error:
            refused += 1
            assert str(error).startswith("row 1, "), (name, number, error)
        except Exception as error:
            (tmp_path / "broken").write_bytes(data)
            raise AssertionError(f"{name}, number {number}: {type(error).__name__}: {error}") from error
        assert time.monotonic() - begin < 5, (name, number)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "kB"
    assert 0.3 * DAMAGED < refused < DAMAGED
