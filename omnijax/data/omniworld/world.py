"""Pictures (96x96) and clips (64x64, 8 frames a second) of coloured shapes, drawn from a plan."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from omnijax.data.omniworld.splits import PLACES
from omnijax.typing import Float, Shaped

PICTURE_SIDE = 96
CLIP_SIDE = 64
FRAME_RATE = 8
MOTION_SECONDS = 0.5
MOTION_SHIFT = 20  # pixels: over half the width of what a vision token of nano sees
_CELL = PICTURE_SIDE // 3
_OVERSAMPLE = 4

RGB = {
    "red": (225, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 40),
    "purple": (150, 50, 190),
    "orange": (245, 135, 25),
    "white": (240, 240, 240),
    "cyan": (50, 215, 225),
}
_STAR = [(math.sin(i * math.pi / 5), -math.cos(i * math.pi / 5)) for i in range(10)]
_POLYGONS = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0, -1), (0.95, 0.75), (-0.95, 0.75)],
    "star": [(x * r, y * r) for (x, y), r in zip(_STAR, (1.1, 0.45) * 5, strict=True)],
    "cross": [
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip


def picture(objects: list[dict], rng: np.random.Generator) -> Shaped[np.ndarray, "96 96 3"]:
    """Each object in its cell of the 3x3 grid; place, size and shade jittered."""
    canvas = _background(PICTURE_SIDE, rng)
    for thing in objects:
        row, column = divmod(PLACES.index(thing["place"]), 3)
        radius = rng.uniform(9, 13)
        slack = _CELL / 2 - radius - 1
        x = (column + 0.5) * _CELL + rng.uniform(-slack, slack)
        y = (row + 0.5) * _CELL + rng.uniform(-slack, slack)
        _paint(canvas, thing["shape"], _shade(thing["colour"], rng), x, y, radius, 1.0)
    return _finish(canvas)


def clip_frames(
    objects: list[dict], events: list[dict], duration: float, rng: np.random.Generator
) -> tuple[Shaped[np.ndarray, "N 64 64 3"], Float[np.ndarray, " N"]]:
    """Frames and their times in seconds; each event moves its object from its time on."""
    times = np.arange(round(duration * FRAME_RATE)) / FRAME_RATE
    background = _background(CLIP_SIDE, rng)
    colours = [_shade(thing["colour"], rng) for thing in objects]
    paths = [_path([e for e in events if e["object"] == i], times) for i in range(len(objects))]
    homes, radii = _homes(paths, rng)
    frames = np.empty((len(times), CLIP_SIDE, CLIP_SIDE, 3), np.uint8)
    for n in range(len(times)):
        canvas = background.copy()
        for thing, colour, path, home, radius in zip(
            objects, colours, paths, homes, radii, strict=True
        ):
            dx, dy, scale, squeeze = path[n]
            _paint(canvas, thing["shape"], colour, home[0] + dx, home[1] + dy, radius * scale,
                   squeeze)  # fmt: skip
        frames[n] = _finish(canvas)
    return frames, times


def _path(events: list[dict], times: np.ndarray) -> np.ndarray:
    """Of one object at each time: shift x, shift y (pixels), size and width factors [N, 4]."""
    path = np.tile([0.0, 0.0, 1.0, 1.0], (len(times), 1))
    for event in events:
        progress = (times - event["time"]) / MOTION_SECONDS
        done = np.clip(progress / 0.8, 0, 1)  # arrives and stays
        # There and back, held for over a quarter of a second so that 4 frames a second see it.
        away = np.clip(np.minimum(progress, 1 - progress) / 0.2, 0, 1)
        match event["motion"]:
            case "jumps":
                path[:, 1] -= MOTION_SHIFT * away
            case "spins":
                path[:, 3] *= 1 - 0.75 * away
            case "grows":
                path[:, 2] *= 1 + 0.5 * done
            case "shrinks":
                path[:, 2] *= 1 - 0.45 * done
            case "moves left":
                path[:, 0] -= MOTION_SHIFT * done
            case "moves right":
                path[:, 0] += MOTION_SHIFT * done
            case "moves up":
                path[:, 1] -= MOTION_SHIFT * done
            case "moves down":
                path[:, 1] += MOTION_SHIFT * done
    return path


def _homes(paths: list[np.ndarray], rng: np.random.Generator):
    """Where each object stands at first, such that none leaves the frame or touches another."""
    for attempt in range(1000):
        largest = 9.5 - attempt / 250
        radii = rng.uniform(largest - 1, largest, len(paths))
        homes = []
        for path, radius in zip(paths, radii, strict=True):
            edge = 1.1 * radius * path[:, 2:3] + 1
            low = (edge - path[:, :2]).max(0)
            high = (CLIP_SIDE - edge - path[:, :2]).min(0)
            homes.append(rng.uniform(low, np.maximum(low, high)))
        if len(paths) == 1:
            return homes, radii
        spots = [home + path[:, :2] for home, path in zip(homes, paths, strict=True)]
        sizes = [radius * path[:, 2] for radius, path in zip(radii, paths, strict=True)]
        gap = np.linalg.norm(spots[0] - spots[1], axis=1) - 1.1 * (sizes[0] + sizes[1])
        if gap.min() > 1:
            break
    return homes, radii


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    low, high = rng.uniform(15, 75, 2)
    ramp = np.linspace(low, high, side)[:, None, None]
    if rng.random() < 0.5:
        ramp = ramp.swapaxes(0, 1)
    return ramp + rng.uniform(-8, 8, 3) + rng.normal(0, 2, (side, side, 1))


def _shade(colour: str, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(RGB[colour]) * rng.uniform(0.85, 1.05) + rng.uniform(-6, 6, 3)


def _paint(canvas, shape, colour, x, y, radius, squeeze) -> None:
    """Blends one shape into the canvas, antialiased."""
    left, top, cover = _cover(shape, float(x), float(y), float(radius), float(squeeze))
    side, limit = len(cover), len(canvas)
    y0, y1, x0, x1 = max(top, 0), min(top + side, limit), max(left, 0), min(left + side, limit)
    cover = cover[y0 - top : y1 - top, x0 - left : x1 - left, None]
    canvas[y0:y1, x0:x1] += cover * (colour - canvas[y0:y1, x0:x1])


@functools.lru_cache(maxsize=8)  # in most frames of a clip nothing has moved
def _cover(shape, x, y, radius, squeeze) -> tuple[int, int, np.ndarray]:
    """Left, top and the covered share of each pixel [side, side]."""
    left, top = math.floor(x - radius * 1.2) - 1, math.floor(y - radius * 1.2) - 1
    side = math.ceil(2.4 * radius) + 3
    mask = Image.new("L", (side * _OVERSAMPLE, side * _OVERSAMPLE))
    pen = ImageDraw.Draw(mask)

    def at(px, py):
        return (
            (x - left + px * radius * squeeze) * _OVERSAMPLE,
            (y - top + py * radius) * _OVERSAMPLE,
        )

    if shape in _POLYGONS:
        pen.polygon([at(px, py) for px, py in _POLYGONS[shape]], fill=255)
    else:
        pen.ellipse([at(-0.95, -0.95), at(0.95, 0.95)], fill=255)
        if shape == "ring":
            pen.ellipse([at(-0.5, -0.5), at(0.5, 0.5)], fill=0)
    blocks = np.asarray(mask, np.float64).reshape(side, _OVERSAMPLE, side, _OVERSAMPLE)
    return left, top, blocks.mean((1, 3)) / 255


def _finish(canvas: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
