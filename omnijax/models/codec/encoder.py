"""The codec's encoder: samples to frames, causal (released relative: `MimiEncoderModel`)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.codec.config import SeanetConfig
from omnijax.models.codec.convolution import CausalConv, DownConv, Memory
from omnijax.models.codec.spectrum import Spectrum
from omnijax.models.codec.transformer import KeysValues, Transformer
from omnijax.typing import Array, Float, Int


class EncoderState(NamedTuple):
    """What the encoder remembers of a stream; `frames` of each row have come before."""

    frames: Int[Array, "B"]
    transformer: KeysValues
    convs: tuple[Float[Array, "B ..."], ...]


class SeanetBlock(nn.Module):
    """x + conv1(elu(conv(elu(x)))), narrower inside."""

    inner: int
    taps: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], past: Float[Array, "B W D"] | None = None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B W D"]]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h, past = CausalConv(self.inner, self.taps, **types, name="conv_1")(nn.elu(x), past)
        return x + nn.Dense(x.shape[-1], **types, name="conv_2")(nn.elu(h)), past


class CodecEncoder(nn.Module):
    """`samples_per_frame` * R samples at 24 kHz to R frames of the transformer's width."""

    config: SeanetConfig

    def setup(self):
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        width = config.transformer.width
        channels = [config.filters * 2**i for i in range(len(config.strides) + 1)]
        scale = config.input_scale
        if config.spectrum is not None:
            self.spectrum = Spectrum(config.spectrum)
        self.conv_in = CausalConv(channels[0], config.kernel, scale=scale, **types)
        self.blocks = [
            SeanetBlock(n // config.compress, config.residual_kernel, **types)
            for n in channels[:-1]
        ]
        self.strides = [
            DownConv(n, stride, **types)
            for n, stride in zip(channels[1:], config.strides, strict=True)
        ]
        self.conv_out = CausalConv(width, config.last_kernel, **types)
        self.transformer = Transformer(config.transformer)
        self.downsample = DownConv(width, config.downsample, use_bias=False, **types)

    def __call__(
        self, samples: Float[Array, "B A"], state: EncoderState | None = None
    ) -> tuple[Float[Array, "B R D"], EncoderState]:
        config = self.config
        rows, length = samples.shape
        if length % config.samples_per_frame:
            raise ValueError(
                f"{length} samples are not a multiple of a frame's {config.samples_per_frame}"
            )
        frames = jnp.zeros((rows,), jnp.int32) if state is None else state.frames
        memory = Memory(None if state is None else state.convs[:-1])
        with jax.named_scope("seanet"):
            x = samples[..., None]
            if config.spectrum is not None:
                x = memory(self.spectrum, x)
            x = memory(self.conv_in, x.astype(config.dtype))
            for block, stride in zip(self.blocks, self.strides, strict=True):
                x = memory(stride, nn.elu(memory(block, x)))
            x = memory(self.conv_out, nn.elu(x))
        with jax.named_scope("transformer"):
            first = frames * config.downsample
            x, keys_values = self.transformer(x, first, None if state is None else state[1])
        with jax.named_scope("downsample"):
            # Before the start stands the first position, not silence, as in Mimi.
            past = jnp.repeat(x[:, :1], config.downsample, axis=1)
            if state is not None:
                past = jnp.where((frames == 0)[:, None, None], past, state.convs[-1])
            x, past = self.downsample(x, past)
        new = frames + length // config.samples_per_frame
        return x, EncoderState(new, keys_values, (*memory.new, past))
