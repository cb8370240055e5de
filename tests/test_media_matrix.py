"""Every form of a medium with every content through the processor: the right number of tokens, or one clear error."""

import io
import math
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from films import write_film
from pairwise import pairs_in_fast_tests
from PIL import Image
from tiny_processor import AST_WINDOW, NUM_TOKENS, RATE, first, item, make_processor, process, runs, turn

from unimoe.processing_unimoe import UniMoEProcessor

WINDOWS = {"audio": AST_WINDOW, "speech": RATE}
KINDS = {"image": 1, "video": 2, "audio": 3, "speech": 4}


@pytest.fixture(scope="module")
def processor() -> UniMoEProcessor:
    return make_processor()


def tokens(processor: UniMoEProcessor, kind: str, medium: Any) -> int:
    """Tokens of a medium between two texts; what is not its block is checked to be text."""
    out = process(processor, [turn("a", item(kind, medium), "b")])
    blocks = runs(out["mm_token_type_ids"][0].tolist())
    assert [modality for modality, _ in blocks] == [KINDS[kind]]
    features = [
        name for name in ("pixel_values", "pixel_values_videos", "audio_features", "speech_features") if name in out
    ]
    assert len(features) == 1 and torch.isfinite(out[features[0]]).all()
    assert len(out[features[0]]) * NUM_TOKENS[kind] == blocks[0][1], "units x tokens of a unit"
    return blocks[0][1]


def refusal(processor: UniMoEProcessor, kind: str, medium: Any) -> str:
    """The one error for a medium in the second row, behind a good one."""
    good = (
        Image.new("RGB", (8, 8))
        if kind == "image"
        else [Image.new("RGB", (8, 8))]
        if kind == "video"
        else np.ones(500)
    )
    rows = [[turn(item(kind, good), "x")], [turn(item(kind, good), item(kind, medium), "y")]]
    with pytest.raises(ValueError) as caught:
        process(processor, rows)
    message = str(caught.value)
    assert message.startswith(f"row 1, {kind} 1"), message
    cures = ("Replace", "Correct", "Pass", "save the file", "Leave", "leave", "State", "as audio or speech")
    assert any(cure in message for cure in cures), message
    return message


def encoded(image: Image.Image, suffix: str, **options: Any) -> bytes:
    image.save(buffer := io.BytesIO(), suffix, **options)
    return buffer.getvalue()


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


RGB = Image.fromarray(noise(40, 30))
PICTURES: dict[str, Callable[[], bytes]] = {
    "rgb png": lambda: encoded(RGB, "PNG"),
    "jpeg": lambda: encoded(RGB, "JPEG"),
    "webp": lambda: encoded(RGB, "WEBP"),
    "bmp": lambda: encoded(RGB, "BMP"),
    "tiff": lambda: encoded(RGB, "TIFF"),
    "grey": lambda: encoded(Image.fromarray(noise(40, 30, 1)), "PNG"),
    "grey with alpha": lambda: encoded(RGB.convert("LA"), "PNG"),
    "rgba": lambda: encoded(Image.fromarray(noise(40, 30, 4)), "PNG"),
    "palette": lambda: encoded(RGB.quantize(16), "PNG"),
    "palette with transparency": lambda: encoded(RGB.quantize(16), "PNG", transparency=3),
    "one bit": lambda: encoded(RGB.convert("1"), "PNG"),
    "16 bit": lambda: encoded(Image.fromarray(noise(40, 30, 1).astype(np.uint16) * 257), "PNG"),
    "cmyk jpeg": lambda: encoded(RGB.convert("CMYK"), "JPEG"),
    "1x1": lambda: encoded(Image.fromarray(noise(1, 1)), "PNG"),
    "1x4000": lambda: encoded(Image.fromarray(noise(1, 4000)), "PNG"),
    "4000x1": lambda: encoded(Image.fromarray(noise(4000, 1)), "PNG"),
    "animated gif": lambda: encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)]),
    "turned by exif": lambda: encoded(RGB, "JPEG", exif=orientation(6)),
    "damaged exif": lambda: encoded(RGB, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"),
}


TRANSPARENT = ("rgba", "palette with transparency")


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("content", PICTURES)
def test_every_picture_in_every_form_fills_its_tokens_with_the_same_pixels(processor, content, tmp_path):
    data = PICTURES[content]()
    path = tmp_path / "picture"
    path.write_bytes(data)
    shown = Image.open(io.BytesIO(data)).convert("RGBA" if content in TRANSPARENT else "RGB")
    upright = np.asarray(Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA")))[..., :3]
    upright = np.rot90(upright, -1) if content == "turned by exif" else upright
    forms = [path, str(path), data, bytearray(data), memoryview(data), {"bytes": data, "path": None}]
    forms += [{"bytes": None, "path": str(path)}, Image.open(path)]
    expected = process(processor, [turn(item("image", forms[0]), "x")])["pixel_values"]
    for form in forms:
        assert tokens(processor, "image", form) == NUM_TOKENS["image"]
        torch.testing.assert_close(process(processor, [turn(item("image", form), "x")])["pixel_values"], expected)
    if content != "16 bit":  # Pillow makes white of it
        for form in (upright, torch.from_numpy(upright.copy()).permute(2, 0, 1), Image.fromarray(upright)):
            assert tokens(processor, "image", form) == NUM_TOKENS["image"]
            pixels = process(processor, [turn(item("image", form), "x")])["pixel_values"]
            torch.testing.assert_close(pixels, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, np.float16, bool])
def test_arrays_of_every_type_are_pictures(processor, dtype):
    pixels = noise(40, 30) > 127 if dtype is bool else noise(40, 30).astype(dtype)
    for form in (pixels, np.ascontiguousarray(pixels.transpose(2, 0, 1)), pixels[::-1, ::2], torch.from_numpy(pixels)):
        assert tokens(processor, "image", form) == NUM_TOKENS["image"]


def test_a_picture_of_48_megapixels_loads(processor):
    data = encoded(Image.new("RGB", (8000, 6000), (10, 200, 30)), "JPEG")
    assert tokens(processor, "image", data) == NUM_TOKENS["image"]


BAD_PICTURES: dict[str, Any] = {
    "corrupt": lambda: b"\x89PNG\r\n\x1a\n" + bytes(200),
    "truncated png": lambda: encoded(RGB, "PNG")[:900],
    "truncated jpeg": lambda: encoded(RGB, "JPEG")[:700],
    "nothing": lambda: b"",
    "text": lambda: b"a picture of a cat",
    "address": lambda: "https://example.org/cat.png",
    "data address": lambda: "data:image/png;base64,AAAA",
    "no file": lambda: "nowhere/cat.png",
    "folder": lambda: str(Path(__file__).parent),
    "bomb": lambda: encoded(Image.new("1", (20_000, 20_000)), "PNG"),
    "a film": lambda: b"\x00\x00\x00\x1cftypisom" + bytes(100),
    "two channels": lambda: np.zeros((5, 5, 2)),
    "five dimensions": lambda: np.zeros((1, 1, 5, 5, 3)),
    "normalised": lambda: torch.randn(3, 8, 8),
    "nan": lambda: np.full((4, 4, 3), np.nan),
    "16 bit array": lambda: np.full((4, 4), 40_000, dtype=np.uint16),
    "complex": lambda: np.zeros((4, 4, 3), dtype=np.complex64),
    "words": lambda: np.full((4, 4, 3), "a"),
    "a number": lambda: 3,
}


@pytest.mark.parametrize("content", BAD_PICTURES)
def test_bad_pictures_give_one_clear_error(processor, content):
    refusal(processor, "image", BAD_PICTURES[content]())


def wave(seconds: float, rate: int, channels: int) -> np.ndarray:
    time = np.arange(max(round(seconds * rate), 1)) / rate
    return 0.3 * np.stack([np.sin(2 * np.pi * 200 * (1 + channel) * time) for channel in range(channels)], axis=1)


def sound_tokens(samples: int, rate: int, kind: str) -> int:
    """ceil of the length at 16 kHz in windows, each with its tokens: from the file's length alone."""
    return math.ceil(math.ceil(samples * RATE / rate) / WINDOWS[kind]) * NUM_TOKENS[kind]


RATES = (8_000, 16_000, 44_100, 48_000, 192_000)


@pytest.mark.parametrize(("kind", "rate", "channels"), pairs_in_fast_tests(WINDOWS, RATES, (1, 2, 6)))
def test_sounds_of_every_rate_and_layout_fill_their_windows(processor, kind, rate, channels, tmp_path):
    samples = wave(1.7, rate, channels)
    expected = sound_tokens(len(samples), rate, kind)
    for subtype in ("PCM_16", "PCM_32", "FLOAT"):
        path = tmp_path / f"{subtype}.wav"
        soundfile.write(path, samples, rate, subtype=subtype)
        assert tokens(processor, kind, path) == expected
    data = path.read_bytes()
    floats = samples.astype(np.float32)
    forms: list[Any] = [
        str(path),
        data,
        bytearray(data),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
    ]
    for array in (samples, floats, (samples * 32767).astype(np.int16), (samples * 2e9).astype(np.int32), floats.T):
        forms += [{"array": array, "sampling_rate": rate}, {"array": torch.from_numpy(array), "sampling_rate": rate}]
    forms.append(sound_decoder(floats.T, rate))
    for form in forms:
        assert tokens(processor, kind, form) == expected


def sound_decoder(samples: np.ndarray, rate: int) -> Any:
    """What torchcodec's AudioDecoder has."""
    decoded = SimpleNamespace(data=torch.from_numpy(np.ascontiguousarray(samples)), sample_rate=rate)
    return SimpleNamespace(get_all_samples=lambda: decoded)


@pytest.mark.parametrize("kind", ["audio", "speech"])
@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("silence", np.zeros(20_000)),
        ("10 ms", np.ones(160) / 2),
        ("one sample", np.ones(1) / 2),
        ("one window", np.ones(AST_WINDOW) / 2),
        ("one window and a sample", np.ones(AST_WINDOW + 1) / 2),
        ("clipped", np.full(3000, 3.0)),
    ],
)
def test_sounds_of_every_length_fill_their_windows(processor, kind, name, samples):
    expected = sound_tokens(len(samples), RATE, kind)
    for form in (samples, samples.tolist(), torch.from_numpy(samples), torch.from_numpy(samples).bfloat16()):
        assert tokens(processor, kind, form) == expected


def test_ten_minutes_of_sound_are_kept_whole(processor, tmp_path):
    samples = wave(600, RATE, 1)
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="PCM_16")
    assert tokens(processor, "speech", tmp_path / "long.wav") == sound_tokens(len(samples), RATE, "speech")
    assert tokens(processor, "audio", samples[:, 0]) == sound_tokens(len(samples), RATE, "audio")


@pytest.mark.parametrize("kind", ["audio", "speech"])
def test_real_sounds_fill_their_windows(processor, kind):
    path = first("spoken_word" if kind == "speech" else "sound_kind", "*.flac")
    about = soundfile.info(path)
    assert tokens(processor, kind, path) == sound_tokens(about.frames, about.samplerate, kind)


def wav(samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT", kind: str = "WAV") -> bytes:
    soundfile.write(buffer := io.BytesIO(), samples, rate, subtype=subtype, format=kind)
    return buffer.getvalue()


BAD_SOUNDS: dict[str, Any] = {
    "corrupt": lambda: b"RIFF" + bytes(100),
    "truncated flac": lambda: wav(wave(2, RATE, 1), subtype="PCM_16", kind="FLAC")[:8000],
    "nothing": lambda: b"",
    "no samples in the file": lambda: wav(np.zeros(0)),
    "no samples": lambda: np.zeros(0, dtype=np.float32),
    "no samples in the list": lambda: [],
    "nan in the file": lambda: wav(np.full(100, np.nan)),
    "nan": lambda: np.full(100, np.nan),
    "infinite": lambda: {"array": np.full(100, np.inf), "sampling_rate": RATE},
    "rate of zero": lambda: {"array": np.ones(100), "sampling_rate": 0},
    "three dimensions": lambda: np.zeros((2, 2, 9)),
    "unsigned": lambda: np.zeros(100, dtype=np.uint8),
    "words": lambda: np.array(["a", "b"]),
    "address": lambda: "https://example.org/a.wav",
    "no file": lambda: "nowhere/a.wav",
    "a picture": lambda: encoded(RGB, "PNG"),
    "text": lambda: b"the sound of rain",
    "an empty dict": lambda: {},
    "a number": lambda: 3,
}


@pytest.mark.parametrize("kind", ["audio", "speech"])
@pytest.mark.parametrize("content", BAD_SOUNDS)
def test_bad_sounds_give_one_clear_error(processor, kind, content):
    refusal(processor, kind, BAD_SOUNDS[content]())


def test_raw_samples_under_a_sounds_name_are_refused(processor, tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(range(256)) * 40)
    refusal(processor, "audio", tmp_path / "a.raw")


class FilmDecoder:
    """What torchcodec's VideoDecoder has."""

    def __init__(self, frames: np.ndarray, fps: float) -> None:
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        self.metadata = SimpleNamespace(average_fps=fps, duration_seconds=len(frames) / fps, begin_stream_seconds=0.0)

    def __len__(self) -> int:
        return len(self.frames)

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        times = torch.tensor(indices, dtype=torch.float64) / self.metadata.average_fps
        return SimpleNamespace(data=self.frames[indices], pts_seconds=times)


def frames(count: int) -> np.ndarray:
    return np.stack([np.full((12, 16, 3), index, dtype=np.uint8) for index in range(count)])


@pytest.mark.parametrize("count", [1, 3, 4, 50])
def test_clips_of_every_form_fill_their_tokens(processor, count):
    array = frames(count)
    pictures = [Image.fromarray(frame) for frame in array]
    gif = encoded(pictures[0], "GIF", save_all=True, append_images=pictures[1:])
    forms: list[Any] = [
        array,
        list(array),
        torch.from_numpy(array),
        torch.from_numpy(array).permute(0, 3, 1, 2),
        pictures,
    ]
    forms += [tuple(pictures), {"frames": pictures, "fps": 2.0}, {"frames": array, "fps": 30}]
    forms += [FilmDecoder(array, 25.0), array.astype(np.float32) / 255, array[..., :1], gif]
    for form in forms:
        assert tokens(processor, "video", form) == 2 * NUM_TOKENS["video"]


FILMS: dict[str, dict[str, Any]] = {
    "without sound": {"shades": range(0, 200, 10)},
    "with sound": {"shades": range(0, 200, 10), "sound": np.zeros(32_000)},
    "one frame": {"shades": [100]},
    "variable rate": {"shades": [0, 50, 100], "times": [0, 0.04, 3]},
    "turned": {"shades": range(20), "rotation": 90},
}


@pytest.mark.parametrize("name", FILMS)
def test_films_of_every_form_fill_their_tokens(processor, name, tmp_path):
    path = write_film(tmp_path / "film.mp4", **FILMS[name])
    data = path.read_bytes()
    for form in (
        path,
        str(path),
        data,
        bytearray(data),
        {"bytes": data, "path": "x.mp4"},
        {"bytes": None, "path": str(path)},
    ):
        assert tokens(processor, "video", form) == 2 * NUM_TOKENS["video"]


def test_real_decoders_of_torchcodec_are_media(processor, tmp_path):
    decoders = pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, RuntimeError))
    path = write_film(tmp_path / "film.mp4", range(0, 200, 10), sound=np.zeros(32_000))
    assert tokens(processor, "video", decoders.VideoDecoder(str(path))) == 2 * NUM_TOKENS["video"]
    assert tokens(processor, "audio", decoders.AudioDecoder(str(path))) > 0


def film(folder: Path, suffix: str, **options: Any) -> bytes:
    return write_film(folder / f"film.{suffix}", **{"shades": range(0, 200, 10), **options}).read_bytes()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BAD_FILMS: dict[str, Callable[[Path], Any]] = {
    "corrupt": lambda _: b"\x00\x00\x00\x1cftypisom" + bytes(100),
    "truncated mkv": lambda folder: half(film(folder, "mkv")),
    "truncated mp4": lambda folder: half(film(folder, "mp4")),
    "damaged inside": lambda folder: film(folder, "mkv")[:600] + struct.pack("<1000I", *range(1000)),
    "only sound": lambda folder: film(folder, "mp4", shades=[], sound=np.ones(16_000) / 9),
    "a sound": lambda _: wav(wave(1, RATE, 1)),
    "nothing": lambda _: b"",
    "text": lambda _: b"a film about cats",
    "truncated gif": lambda _: half(encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(9), RGB.rotate(30)])),
    "address": lambda _: "https://example.org/a.mp4",
    "no file": lambda _: "nowhere/a.mp4",
    "no frames": lambda _: np.zeros((0, 8, 8, 3), dtype=np.uint8),
    "no frames in the list": lambda _: [],
    "a picture as an array": lambda _: np.zeros((8, 8, 3), dtype=np.uint8),
    "a bad frame": lambda _: [np.zeros((8, 8, 3)), np.full((8, 8, 3), np.nan)],
    "rate of zero": lambda _: {"frames": frames(3), "fps": 0},
    "a number": lambda _: 3,
}


@pytest.mark.parametrize("content", BAD_FILMS)
def test_bad_clips_give_one_clear_error(processor, content, tmp_path):
    refusal(processor, "video", BAD_FILMS[content](tmp_path))
