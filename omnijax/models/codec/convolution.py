"""Causal convolutions over time that carry their past: plain, strided, transposed.

Every layer is `(x, past) -> (y, past)`. `past` holds the inputs just before `x` that the layer
still sees; None stands for silence before the start, so that a clip fed whole and a clip fed in
pieces run through the same lines. Strided and transposed convolutions are matmuls between frames
of `stride` samples (polyphase): on a CPU XLA's own transposed convolution, which is also what the
gradient of a strided one becomes, is more than ten times slower.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.nn.linear import fan_in_init
from omnijax.typing import Array, Float


def extend(
    x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None, reach: int
) -> tuple[Float[Array, "B WT D"], Float[Array, "B W D"]]:
    """(the past followed by x, the last `reach` positions of that)."""
    if past is None:
        past = jnp.zeros((x.shape[0], reach, x.shape[2]), x.dtype)
    whole = jnp.concatenate([past.astype(x.dtype), x], axis=1)
    return whole, whole[:, x.shape[1] :]


class Memory:
    """Hands the layers of one call their pasts in order and keeps the new ones."""

    def __init__(self, pasts: Sequence[Array] | None):
        self._pasts = None if pasts is None else iter(pasts)
        self.new: list[Array] = []

    def __call__(self, layer: nn.Module, x: Float[Array, "B T D"]) -> Float[Array, "B S F"]:
        x, past = layer(x, None if self._pasts is None else next(self._pasts))
        self.new.append(past)
        return x


class CausalConv(nn.Module):
    """y_t from x_t and the (taps - 1) * dilation positions before it; zeros before the first."""

    features: int
    taps: int
    dilation: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"
    scale: float = 1.0  # of the initial kernel

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B W D"]]:
        shape = (self.taps, x.shape[-1], self.features)
        init = fan_in_init(self.taps * x.shape[-1], self.scale)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, past = extend(x.astype(self.dtype), past, (self.taps - 1) * self.dilation)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1,),
            padding="VALID",
            rhs_dilation=(self.dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return y + bias.astype(self.dtype), past


class DownConv(nn.Module):
    """Strided convolution of `2 * stride` taps: one output for `stride` inputs.

    It sees them and the `stride` before them. T must be a multiple of the stride.
    """

    features: int
    stride: int
    use_bias: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B W D"]]:
        (batch, length, width), stride = x.shape, self.stride
        if length % stride:
            raise ValueError(f"{length} positions are not a multiple of the stride {stride}")
        init = fan_in_init(2 * stride * width)
        shape = (2 * stride, width, self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        x, past = extend(x.astype(self.dtype), past, stride)
        frames = x.reshape(batch, -1, stride * width)
        before, now = kernel.reshape(2, stride * width, self.features)
        y = frames[:, :-1] @ before + frames[:, 1:] @ now
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y, past


class UpConv(nn.Module):
    """Transposed convolution of `taps` (a multiple of the stride): `stride` outputs an input.

    The causal form: outputs t * stride ... see inputs up to t only, what reaches past the end is
    left out. The first `taps - stride` outputs left out as well give the released form.
    """

    features: int
    stride: int
    taps: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B S F"], Float[Array, "B W D"]]:
        (batch, length, width), stride = x.shape, self.stride
        blocks, rest = divmod(self.taps, stride)
        if rest:
            raise ValueError(f"{self.taps} taps are not a multiple of the stride {stride}")
        init = fan_in_init(blocks * width)
        shape = (self.taps, width, self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        x, past = extend(x.astype(self.dtype), past, blocks - 1)
        # Block i of the kernel is what an input gives to the i-th frame of outputs after it.
        kernel = kernel.reshape(blocks, stride, width, self.features).transpose(0, 2, 1, 3)
        kernel = kernel.reshape(blocks, width, stride * self.features)
        first = blocks - 1
        y = sum(x[:, first - i : first - i + length] @ kernel[i] for i in range(blocks))
        return y.reshape(batch, length * stride, -1) + bias.astype(self.dtype), past
