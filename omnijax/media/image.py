"""Pictures: reading as RGB uint8 [H, W, 3], and resizing to whole merge blocks of patches."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from omnijax.errors import UserError
from omnijax.media.audio import check_file
from omnijax.typing import Shaped

MAX_ASPECT_RATIO = 200


# What Pillow raises of damaged files, by format.
_UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, LookupError)


def load_image(path: str | Path, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Reads a picture, upright (EXIF orientation applied), as RGB uint8 [H, W, 3].

    Transparency is composited over `background`. 16-bit grey is scaled to 8 bits. An animation
    is an error: it is a video, and reading its first frame would drop the rest.
    """
    path = check_file(path)
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            # MPO is a photograph with a preview or depth image behind it, not a sequence.
            if frames > 1 and image.format != "MPO":
                raise UserError(f"{path}: has {frames} frames, load it as a video")
            return _to_rgb(ImageOps.exif_transpose(image), background, str(path))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: {error}") from error
    except _UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a picture: {error}") from error


def check_image(image: Shaped[np.ndarray, "..."], min_side: int = 1, name: str = "image"):
    """The picture as given, or a UserError that says what is wrong with it."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"{name}: has shape {image.shape}, must be [height, width, 3]")
    if image.dtype != np.uint8:
        raise UserError(f"{name}: is {image.dtype}, must be uint8 in 0..255")
    height, width = image.shape[:2]
    if min(height, width) < min_side:
        raise UserError(
            f"{name}: is {width}x{height} pixels, each side must be at least {min_side}"
        )
    return image


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int, name: str = "image"
) -> tuple[int, int]:
    """(height, width) in multiples of `factor`, area within the limits, aspect nearly kept.

    Equal to smart_resize of transformers' Qwen2-VL processors. `factor` is patch * merge.
    """
    if min(height, width) < 1:
        raise UserError(f"{name}: is {width}x{height} pixels, each side must be at least 1")
    ratio = max(height, width) / min(height, width)
    if ratio > MAX_ASPECT_RATIO:
        raise UserError(
            f"{name}: is {width}x{height} pixels, an aspect ratio of {ratio:.0f}, over the limit "
            f"of {MAX_ASPECT_RATIO}"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / scale / factor) * factor)
        columns = max(factor, math.floor(width / scale / factor) * factor)
    elif rows * columns < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * scale / factor) * factor
        columns = math.ceil(width * scale / factor) * factor
    return rows, columns


def resize_image(
    image: Shaped[np.ndarray, "H W 3"], height: int, width: int
) -> Shaped[np.ndarray, "h w 3"]:
    """Bicubic with antialiasing (pillow), on uint8; the same object if nothing changes."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _to_rgb(image, background, name: str) -> np.ndarray:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257
        return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: pixels are {image.mode}, of no known range: use 8 or 16 bit")
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(canvas, image)
    return np.array(image.convert("RGB"))
