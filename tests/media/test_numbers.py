"""What the numbers of a medium mean is one rule for all of it, or a refusal: never near silence, black or white."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from unimoe.errors import MediaError
from unimoe.media import FrameSampling, load_clip, load_picture, load_sound, picture_size, sound_length
from unimoe.media.resampling import _resample_each, resample

WAVE = 0.3 * np.sin(np.arange(4000) / 9)
SHADE = np.random.default_rng(0).random((12, 16, 3)).astype(np.float32)
FRAMES = FrameSampling(maximum=4)


@pytest.mark.parametrize(
    "samples",
    [
        (WAVE * 127).astype(np.int8),
        (WAVE * 32768).astype(np.int16),
        (WAVE * 32768).astype(np.int32),
        (WAVE * 32768).astype(np.int64),
        (WAVE * 32768).astype(np.int64).tolist(),
        ((WAVE * 8388608).astype(np.int64) << 8).astype(np.int32),
        (WAVE * 2**31).astype(np.int32),
        (WAVE * 2**31).astype(np.int64),
        torch.from_numpy((WAVE * 32768).astype(np.int32)),
        WAVE.astype(np.float16),
        WAVE.astype(np.float64).tolist(),
        np.stack([(WAVE * 32768).astype(np.int32)] * 2),
    ],
    ids="int8 int16 int32of16 int64of16 list 24in32 int32 int64of32 tensor half floats stereo".split(),  # noqa: SIM905
)
def test_samples_of_any_width_have_the_same_loudness(samples):
    loaded = load_sound(samples, sampling_rate=16_000)
    assert abs(np.abs(loaded).max() - 0.3) < 0.01
    assert sound_length(samples, sampling_rate=16_000) == len(loaded)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ((WAVE * 8388608).astype(np.int32), "of 24 or of 32 bit"),
        ((WAVE * 2**40).astype(np.int64), "of 24 or of 32 bit"),
        ((WAVE * 127 + 128).astype(np.uint8), "silence"),
        ((WAVE * 32767 + 32768).astype(np.uint16), "silence"),
        (WAVE * 32768, "full scale 1, and these reach 9830"),
        (WAVE * 100, "full scale 1"),
        (WAVE > 0, "got bool"),
        (WAVE.astype(complex), "got complex128"),
        ([WAVE.tolist(), [1.0]], "no array of numbers"),
        ({"array": WAVE, "sampling_rate": "16000"}, "sampling rate is '16000'"),
        ({"array": WAVE, "sampling_rate": 22254.5}, "sampling rate is 22254.5"),
        ({"array": WAVE, "sampling_rate": 0}, "sampling rate is 0"),
        ({"array": WAVE, "sampling_rate": True}, "sampling rate is True"),
        ({"array": WAVE, "sampling_rate": 16_000, "start": 2.0}, "'start' of a medium would not be read"),
    ],
)
def test_samples_of_unknown_meaning_are_refused_with_what_to_pass(samples, message):
    for read in (load_sound, sound_length):
        with pytest.raises(MediaError, match=f"row 3, speech 0: .*{message}"):
            read(samples, sampling_rate=16_000, where="row 3, speech 0")


def test_floats_that_overshoot_are_kept():
    assert np.abs(load_sound(WAVE * 5, sampling_rate=16_000)).max() == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("overshoot", [0.0, 1e-6, 0.2])
def test_pictures_that_overshoot_keep_their_shades(scale, overshoot):
    pixels = SHADE.copy()
    pixels[0, 0], pixels[1, 1] = 1 + overshoot, -overshoot
    loaded = np.asarray(load_picture(pixels * scale), dtype=float)
    np.testing.assert_allclose(loaded, (pixels * 255).clip(0, 255), atol=0.51)


@pytest.mark.parametrize(
    "pixels",
    [SHADE * 4 - 2, SHADE * 2 - 1, SHADE * 5, SHADE * 1000, (SHADE > 0.5).astype(np.int64), SHADE * np.nan],
    ids=["standardised", "-1..1", "highlights", "large", "mask", "nan"],
)
def test_pictures_of_unknown_range_are_refused(pixels):
    with pytest.raises(MediaError, match=r"pixels lie in .* uint8"):
        load_picture(pixels)


@pytest.mark.parametrize("form", [np.stack, list, torch.from_numpy])
def test_frames_of_a_clip_have_one_range(form):
    shades = np.stack([np.full((9, 9, 3), shade, dtype=np.float32) for shade in (0.5, 1.0, 160.0, 240.0)])
    loaded = load_clip({"frames": form(shades), "fps": 1.0}, sampling=FRAMES).frames
    assert [int(np.asarray(frame).mean()) for frame in loaded] == [0, 1, 160, 240]
    loaded = load_clip({"frames": form(shades / 255), "fps": 1.0}, sampling=FRAMES).frames
    assert [round(np.asarray(frame).mean()) for frame in loaded] == [0, 1, 160, 240]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint16, "torch"])
def test_frames_of_integers_have_one_range_too(dtype):
    shades = np.stack([np.full((9, 9, 3), shade) for shade in (1, 80, 160, 240)])
    frames = torch.from_numpy(shades) if dtype == "torch" else shades.astype(dtype)
    loaded = load_clip({"frames": frames, "fps": 1.0}, sampling=FRAMES).frames
    assert [int(np.asarray(frame).mean()) for frame in loaded] == [1, 80, 160, 240]
    with pytest.raises(MediaError, match=r"pixels lie in 1\.\.1"):
        load_clip({"frames": (shades > 0).astype(np.int64), "fps": 1.0}, sampling=FRAMES)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_the_size_of_a_turned_picture_is_that_of_what_is_loaded(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.new("RGB", (90, 20)), kind, exif=exif)
    assert picture_size(data) == load_picture(data).size == ((20, 90) if orientation > 4 else (90, 20))


def test_grey_pictures_of_16_bit_keep_their_shades():
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for kind in ("PNG", "TIFF", "PPM"):
        loaded = np.asarray(load_picture(saved(Image.fromarray(grey), kind)))[..., 0]
        np.testing.assert_allclose(loaded, grey // 257, atol=1)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(3, 4, 4).to_sparse(), torch.zeros(3, 4, 4, device="meta"), torch.ones(2, 2, dtype=torch.complex32)],
    ids=["sparse", "meta", "complex"],
)
def test_tensors_that_are_no_plain_numbers_are_refused(tensor):
    for load in (load_picture, lambda medium: load_sound(medium, sampling_rate=16_000)):
        with pytest.raises(MediaError):
            load(tensor)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def test_what_is_transparent_is_white():
    logo = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    logo.paste((10, 20, 30, 255), (2, 2, 6, 6))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    forms = [logo, np.asarray(logo), np.asarray(logo) / 255, torch.from_numpy(np.asarray(logo)).permute(2, 0, 1)]
    forms += [saved(logo, "PNG"), saved(logo, "WEBP", lossless=True), saved(logo, "TIFF"), logo.convert("RGBa")]
    for form in forms:
        loaded = np.asarray(load_picture(form))
        assert loaded[0, 0].tolist() == [255, 255, 255] and loaded[3, 3].tolist() == [10, 20, 30]
    assert np.asarray(load_picture(half))[0, 0].tolist() == [127, 127, 127]
    moving = saved(logo, "GIF", save_all=True, append_images=[logo.rotate(90)])
    assert np.asarray(load_clip(moving, sampling=FRAMES).frames[0])[0, 0].tolist() == [255, 255, 255]
    grey = Image.fromarray(np.full((4, 4), 7000, dtype=np.uint16))
    assert np.asarray(load_picture(saved(grey, "PNG", transparency=7000))).min() == 255


@pytest.mark.parametrize("rates", [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (11_025, 16_000)])
def test_each_sample_by_its_own_filter_is_torchaudios_resampling(rates):
    sound = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    np.testing.assert_allclose(_resample_each(sound, *rates), resample(sound, *rates), atol=3e-4)


def test_a_tone_keeps_its_height_at_an_odd_rate():
    tone = np.sin(2 * np.pi * 440 * np.arange(44_101) / 44_101).astype(np.float32)
    resampled = resample(tone, 44_101, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(resampled[100:-100], expected[100:-100], atol=5e-3)
