"""Rotary positions: plain, partial, and in three axes (M-RoPE)."""

import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.typing import Array, Float, Int


def rotary_angles(
    positions: Int[Array, "*lead"], dim: int, theta: float = 10_000.0
) -> Float[Array, "*lead half"]:
    """Angles of `dim` rotated features, float32: position x theta^(-2i / dim)."""
    return positions[..., None].astype(jnp.float32) * _frequencies(dim, theta)


def mrope_angles(
    positions: Int[Array, "3 B T"],
    dim: int,
    theta: float,
    sections: tuple[int, int, int],
    interleaved: bool = True,
) -> Float[Array, "B T half"]:
    """Angles where each frequency turns with one of three ids (time, row, column).

    Interleaved (Qwen3-VL and later), sections (11, 11, 10): time everywhere, but row at 1, 4, ...
    31 and column at 2, 5, ... 29. Otherwise (Qwen2-VL) the sections stand one after the other.
    """
    angles = rotary_angles(positions, dim, theta)
    axis = mrope_axes(dim // 2, tuple(sections), interleaved)
    return jnp.where(axis == 0, angles[0], jnp.where(axis == 1, angles[1], angles[2]))


def rotary_angles_2d(
    coords: Int[Array, "*lead 2"], dim: int, theta: float = 10_000.0
) -> Float[Array, "*lead half"]:
    """Angles of a picture's patches: the row turns half of the frequencies, the column the rest."""
    angles = rotary_angles(coords, dim // 2, theta)
    return angles.reshape(*coords.shape[:-1], dim // 2)


def apply_rotary(
    x: Float[Array, "*lead T N H"], angles: Float[Array, "*lead T half"]
) -> Float[Array, "*lead T N H"]:
    """Turns the first 2 x half features of every head, pairs (i, i + half); the rest passes."""
    half = angles.shape[-1]
    angles = angles[..., None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = (x[..., i * half : (i + 1) * half].astype(jnp.float32) for i in (0, 1))
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate([*(t.astype(x.dtype) for t in turned), x[..., 2 * half :]], -1)


def _frequencies(dim: int, theta: float) -> np.ndarray:
    if dim < 2 or dim % 2:
        raise UserError(f"rotary dim is {dim}; it must be even and at least 2")
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (np.float32(1) / np.float32(theta) ** exponent).astype(np.float32)


def mrope_axes(half: int, sections: tuple[int, int, int], interleaved: bool) -> np.ndarray:
    """Which of the three ids each frequency turns with.

    Raises:
      UserError: the sections do not share out the frequencies.
    """
    if len(sections) != 3 or sum(sections) != half or min(sections) < 0:
        raise UserError(f"mrope sections are {sections}; they must be three that sum to {half}")
    if not interleaved:
        return np.repeat(np.arange(3), sections)
    axis = np.zeros(half, np.int32)
    for i in (1, 2):
        axis[i : 3 * sections[i] : 3] = i
    if (np.bincount(axis, minlength=3) != sections).any():
        raise UserError(
            f"mrope sections are {sections}: interleaved, every third frequency from the second "
            f"and from the third on is height's and width's, of {half}"
        )
    return axis
