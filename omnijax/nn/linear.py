"""Einsum: the one linear layer, its weight shaped as the equation reads it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.typing import Array, Float


def fan_in_init(fan_in: int, scale: float = 1.0) -> jax.nn.initializers.Initializer:
    """Truncated normal of standard deviation ``scale / sqrt(fan_in)``."""
    return jax.nn.initializers.truncated_normal(scale / math.sqrt(fan_in) / 0.8796)


class Einsum(nn.Module):
    """``einsum(equation, x, w)``, for instance ``"btd,dnh->btnh"``; no bias.

    Axes that ``w`` shares with the input are its fan-in. ``scale`` multiplies the initial
    standard deviation, ``1 / sqrt(fan_in)``.
    """

    equation: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    param_dtype: str = "float32"
    scale: float = 1.0
    out_dtype: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inputs, weight = self.equation.split("->")[0].split(",")
        fan_in = math.prod(n for n, axis in zip(self.shape, weight, strict=True) if axis in inputs)
        w = self.param("w", fan_in_init(fan_in, self.scale), self.shape, self.param_dtype)
        return jnp.einsum(
            self.equation,
            x.astype(self.dtype),
            w.astype(self.dtype),
            preferred_element_type=self.out_dtype or self.dtype,
        )
