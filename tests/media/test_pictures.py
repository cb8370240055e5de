"""Pictures: every way in gives the same pixels, every failure says where and why."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unimoe.media import load_picture

MEDIA = Path(__file__).parents[2] / "training/quickstart/media"
PIXELS = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


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
        np.concatenate([PIXELS, np.full_like(PIXELS[..., :1], 255)], axis=-1),
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
        ("https://example.org/cat.png", "is a remote address"),
        (b"not a picture", "cannot be read as a picture"),
        (np.zeros((2, 5, 5)), r"got \(2, 5, 5\)"),
        (np.full((4, 4, 3), -1.0), "must lie in 0..1"),
        (np.zeros((0, 4, 3)), "as an array has the shape"),
        (object(), "cannot load a object"),
        ({"url": "x"}, "'url' of a medium would not be read"),
    ],
)
def test_bad_pictures_are_refused_with_their_place_and_a_cure(medium, message):
    with pytest.raises(ValueError, match=rf"row 3, image 1: .*{message}"):
        load_picture(medium, where="row 3, image 1")


def test_grey_of_16_bit_keeps_its_shades():
    deep = (np.arange(16, dtype=np.uint16) * 4369).reshape(4, 4)  # 0, 4369, ... 65535
    for medium in (Image.fromarray(deep), file_bytes(Image.fromarray(deep))):
        np.testing.assert_array_equal(np.asarray(load_picture(medium))[..., 0], deep // 257)


def test_images_of_32_bit_beyond_white_are_refused():
    bright = Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32))
    with pytest.raises(ValueError, match=r"pixels lie in 70000\.\.70000"):
        load_picture(bright)


def test_bfloat16_tensors_are_pictures():
    pixels = load_picture(torch.full((3, 4, 4), 0.5, dtype=torch.bfloat16))
    assert np.asarray(pixels).max() == 128


def test_a_truncated_image_that_was_opened_elsewhere_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    cut = file_bytes(Image.fromarray(noise))[:3000]
    for medium in (cut, Image.open(io.BytesIO(cut))):
        with pytest.raises(ValueError, match=r"row 0, image 0: .*cannot be read as a picture .*(truncated|cut off)"):
            load_picture(medium, where="row 0, image 0")
