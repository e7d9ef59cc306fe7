"""Code2Wav: frames of codes to samples, causal (released relative: `Qwen3OmniMoeCode2Wav`)."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.codec.config import Code2WavConfig
from omnijax.models.codec.convolution import CausalConv, Memory, UpConv
from omnijax.models.codec.source import HarmonicSource, SourceState, Voice
from omnijax.models.codec.transformer import KeysValues, Transformer
from omnijax.nn.embed import Embed
from omnijax.nn.linear import fan_in_init
from omnijax.ops import causal_conv, sine_squared
from omnijax.typing import Array, Float, Int

DILATIONS = (1, 3, 9)
CONVNEXT_TAPS = 7


class Code2WavState(NamedTuple):
    """What Code2Wav remembers of a stream; `frames` of each row have come before."""

    frames: Int[Array, "B"]
    transformer: KeysValues
    convs: tuple[Float[Array, "B ..."], ...]
    source: SourceState | None = None


class SnakeBeta(nn.Module):
    """x + sin(e^alpha x)^2 / e^beta, alpha and beta per channel (BigVGAN's form of Snake)."""

    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        zeros, shape = nn.initializers.zeros, (x.shape[-1],)
        alpha, beta = (
            jnp.exp(self.param(name, zeros, shape, self.param_dtype).astype(jnp.float32))
            for name in ("alpha", "beta")
        )
        return x + (sine_squared(x * alpha) / (beta + 1e-9)).astype(x.dtype)


class ConvNeXt(nn.Module):
    """x + scale * mlp(norm(depthwise convolution of x)), the convolution causal."""

    scale: float
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B W D"]]:
        width, types = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init, zeros = fan_in_init(CONVNEXT_TAPS), nn.initializers.zeros
        kernel = self.param("conv", init, (CONVNEXT_TAPS, width), self.param_dtype)
        bias = self.param("conv_bias", zeros, (width,), self.param_dtype)
        h, past = causal_conv(x, kernel.astype(self.dtype), state=past)
        h = nn.LayerNorm(epsilon=1e-6, **types, name="norm")(h + bias.astype(self.dtype))
        h = nn.gelu(nn.Dense(4 * width, **types, name="up")(h), approximate=False)
        h = nn.Dense(width, **types, name="down")(h)
        scale = nn.initializers.constant(self.scale)
        return x + self.param("scale", scale, (width,), self.param_dtype).astype(x.dtype) * h, past


class ResidualUnit(nn.Module):
    """x + conv1(snake(conv7(snake(x)))), the wide convolution dilated."""

    dilation: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B W D"]]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = SnakeBeta(self.param_dtype, name="snake_1")(x)
        h, past = CausalConv(x.shape[-1], 7, self.dilation, **types, name="conv_1")(h, past)
        h = SnakeBeta(self.param_dtype, name="snake_2")(h)
        # A small start of each branch: three of them at each of four rates would add up.
        init = fan_in_init(x.shape[-1], 0.1)
        return x + nn.Dense(x.shape[-1], kernel_init=init, **types, name="conv_2")(h), past


class Code2Wav(nn.Module):
    """`features` of frames (see `embed` for the table) to samples in -1..1.

    R frames give exactly `samples_per_frame` * R samples; with `trim` "both", fewer.
    """

    config: Code2WavConfig

    def setup(self):
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        width, channels = config.transformer.width, config.channels
        if config.lookup == "table":
            self.code_embed = Embed(config.codebooks * config.codes, width, **types)
        else:
            self.pre_conv = CausalConv(width, config.pre_kernel, **types)
        self.transformer = Transformer(config.transformer)
        self.upsample = [UpConv(width, rate, rate, **types) for rate in config.upsample]
        self.convnext = [ConvNeXt(config.convnext_scale, **types) for _ in config.upsample]
        self.conv_in = CausalConv(channels, 7, **types)
        self.snakes = [SnakeBeta(config.param_dtype) for _ in config.rates]
        self.rates = [
            UpConv(channels // 2 ** (i + 1), rate, 2 * rate, **types)
            for i, rate in enumerate(config.rates)
        ]
        self.residuals = [
            [ResidualUnit(dilation, **types) for dilation in DILATIONS] for _ in config.rates
        ]
        self.snake_out = SnakeBeta(config.param_dtype)
        # Snakes only add: without a small start the first samples would be clipped.
        self.conv_out = CausalConv(1, 7, **types, scale=0.1)
        if config.harmonics is not None:
            self.source = HarmonicSource(config.harmonics, math.prod(config.rates))

    def embed(self, codes: Int[Array, "B R Q"]) -> Float[Array, "B R D"]:
        """The mean of the codes' embeddings, each codebook's rows after those of the one before."""
        rows = codes + jnp.arange(self.config.codebooks) * self.config.codes
        return jnp.mean(self.code_embed(rows), axis=2)

    def __call__(
        self,
        features: Float[Array, "B R D"],
        state: Code2WavState | None = None,
    ) -> tuple[Float[Array, "B A"], Code2WavState]:
        """Samples, and the state after them."""
        samples, _, state = self.synthesise(features, state)
        return jnp.clip(samples, -1, 1), state

    def synthesise(
        self,
        features: Float[Array, "B R D"],
        state: Code2WavState | None = None,
        pitch: Float[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B A"], Voice | None, Code2WavState]:
        """Samples before they are clipped, the source's part of them, the state.

        For training: past -1..1 a clipped sample has no gradient to come back. `pitch`, for S = R *
        the product of `upsample` steps: see `HarmonicSource`.
        """
        config = self.config
        frames = jnp.zeros(features.shape[:1], jnp.int32) if state is None else state.frames
        memory = Memory(None if state is None else state.convs)
        x = features.astype(config.dtype)
        if config.lookup == "rvq":
            with jax.named_scope("pre_conv"):
                x = memory(self.pre_conv, x)
        with jax.named_scope("transformer"):
            x, keys_values = self.transformer(x, frames, None if state is None else state[1])
        with jax.named_scope("upsample"):
            for up, convnext in zip(self.upsample, self.convnext, strict=True):
                x = memory(convnext, memory(up, x))
        voice = source = None
        if config.harmonics is not None:
            with jax.named_scope("source"):
                voice, source = self.source(x, None if state is None else state.source, pitch)
        with jax.named_scope("synthesis"):
            x = memory(self.conv_in, x)
            for snake, up, units in zip(self.snakes, self.rates, self.residuals, strict=True):
                x = memory(up, snake(x))
                if config.trim == "both":
                    x = x[:, up.taps - up.stride :]
                for unit in units:
                    x = memory(unit, x)
            x = memory(self.conv_out, self.snake_out(x))
        samples = x[..., 0].astype(jnp.float32)
        samples = samples if voice is None else samples + voice.samples
        new = Code2WavState(frames + features.shape[1], keys_values, tuple(memory.new), source)
        return samples, voice, new
