from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnijax.errors import UserError
from omnijax.media.image import check_image, load_image, resize_image, smart_resize

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "media.npz")
RNG = np.random.default_rng(0)


def picture(height: int = 20, width: int = 30) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_png_is_read_as_it_is(tmp_path):
    pixels = picture()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), pixels)


def test_a_photograph_held_sideways_is_read_upright(tmp_path):
    pixels = picture()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), np.rot90(pixels, -1))


def test_transparency_is_composited_over_the_background_that_is_named(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[1, 1] = (0, 0, 255, 51)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    over_white = load_image(tmp_path / "a.png")
    assert over_white[0, 0].tolist() == [255, 0, 0] and over_white[0, 1].tolist() == [255] * 3
    assert over_white[1, 1].tolist() == [204, 204, 255]
    assert load_image(tmp_path / "a.png", background=(0, 0, 0))[0, 1].tolist() == [0, 0, 0]


def test_a_palette_with_a_transparent_colour_is_composited_too(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    assert load_image(tmp_path / "a.png").tolist() == [[[255] * 3, [40, 50, 60]]]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    Image.fromarray(picture()).convert(mode).save(tmp_path / "a.tiff")
    assert load_image(tmp_path / "a.tiff").shape == (20, 30, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257, 257 * 100, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 1, 100, 255]


def test_an_animation_is_refused_since_its_other_frames_would_be_lost(tmp_path):
    frames = [Image.fromarray(picture()) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="a.gif: has 3 frames, load it as a video"):
        load_image(tmp_path / "a.gif")


def test_floating_point_pixels_of_no_known_range_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="a.tiff: pixels are F"):
        load_image(tmp_path / "a.tiff")


def test_an_unreadable_picture_is_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(picture(200, 200)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bare.tiff").write_bytes(b"II*\0\x08\0\0\0" + bytes(6))  # a file without tags
    for name, message in {
        "text.png": "cannot be read as a picture",
        "empty.png": r"empty \(0 bytes\)",
        "cut.png": "cannot be read as a picture",
        "bare.tiff": "cannot be read as a picture",
        "missing.png": "no such file",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            load_image(tmp_path / name)


def test_smart_resize_equals_the_released_one():
    ours = [
        smart_resize(h, w, factor=32, min_pixels=65_536, max_pixels=1_048_576)
        for h, w in GOLDEN["sizes"].tolist()
    ]
    np.testing.assert_array_equal(ours, GOLDEN["resized"])


def test_an_extreme_aspect_ratio_is_refused_with_the_sizes():
    with pytest.raises(UserError, match="is 4020x20 pixels, an aspect ratio of 201, over .* 200"):
        smart_resize(20, 4020, factor=32, min_pixels=1, max_pixels=10**6)
    assert smart_resize(20, 4000, factor=32, min_pixels=1, max_pixels=10**6)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((1, 1, 3), np.uint8), "is 1x1 pixels, each side must be at least 8"),
        (np.zeros((9, 0, 3), np.uint8), "is 0x9 pixels"),
        (np.zeros((9, 9), np.uint8), r"shape \(9, 9\)"),
        (np.zeros((9, 9, 4), np.uint8), r"shape \(9, 9, 4\)"),
        (np.zeros((9, 9, 3), np.float32), "float32, must be uint8"),
    ],
)
def test_what_is_no_picture_is_refused(image, message):
    with pytest.raises(UserError, match=message):
        check_image(image, min_side=8)


def test_resizing_to_its_own_size_changes_nothing():
    pixels = picture()
    assert resize_image(pixels, 20, 30) is pixels
