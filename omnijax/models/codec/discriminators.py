"""The judges of decoded speech: by periods (HiFi-GAN) and by spectrograms (EnCodec).

Both are used in training only. Strides are matmuls between whole blocks of inputs, as in
`convolution.py`, because their gradient is slow on a CPU otherwise; hence kernels of twice the
stride where the papers have five and nine taps.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from omnijax.models.codec.config import check_each_positive, check_positive
from omnijax.models.codec.convolution import CausalConv, DownConv
from omnijax.nn.encoder import check, check_dtypes
from omnijax.typing import Array, Float

SLOPE = 0.1  # of leaky ReLU below zero


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Sizes of all judges. The defaults are for nano; the papers' are 8 to 32 times wider."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (8, 16, 32, 32)  # each after a stride of 3
    windows: tuple[int, ...] = (256, 512, 1024)  # of the spectrograms; hops of a quarter
    spectrum_channels: tuple[int, ...] = (8, 16, 16)  # each after halving the frequencies
    time_stride: int = 3
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        check_each_positive(self, "periods", "period_channels", "windows", "spectrum_channels")
        check_positive(self, "time_stride")
        blocks = 2 ** len(self.spectrum_channels)
        check(
            all(window % (2 * blocks) == 0 for window in self.windows),
            f"DiscriminatorConfig.windows is {self.windows}, each must be a multiple of "
            f"{2 * blocks}: {len(self.spectrum_channels)} layers halve its frequencies",
        )
        check_dtypes(self)


class Judgement(NamedTuple):
    """One judge's scores, high for real speech, and what its layers saw on the way."""

    scores: Float[Array, "B ..."]
    features: tuple[Float[Array, "..."], ...]


class PeriodJudge(nn.Module):
    """Sees each phase of a period as a signal of its own: samples p apart, strided by 3."""

    config: DiscriminatorConfig
    period: int

    @nn.compact
    def __call__(self, samples: Float[Array, "B A"]) -> Judgement:
        config, period = self.config, self.period
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        stride = config.time_stride
        # Whole strides at every layer: the front is filled with zeros.
        block = period * stride ** len(config.period_channels)
        x = jnp.pad(samples, ((0, 0), (-samples.shape[1] % block, 0)))
        rows = x.shape[0]
        x = x.reshape(rows, -1, period).swapaxes(1, 2).reshape(rows * period, -1, 1)
        features = []
        for i, channels in enumerate(config.period_channels):
            x, _ = DownConv(channels, stride, **types, name=f"conv_{i}")(x)
            x = nn.leaky_relu(x, SLOPE)
            features.append(x)
        x, _ = CausalConv(1, 3, **types, name="score")(x)
        return Judgement(x.reshape(rows, period, -1), tuple(features))


class SpectrumJudge(nn.Module):
    """Sees a complex spectrogram as an image of two channels, halved in frequency at each layer."""

    config: DiscriminatorConfig
    window: int

    @nn.compact
    def __call__(self, samples: Float[Array, "B A"]) -> Judgement:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        x, features = spectrogram(samples, self.window).astype(config.dtype), []
        for i, channels in enumerate(config.spectrum_channels):
            rows, time, bins, width = x.shape
            x = x.reshape(rows, time, bins // 2, 2 * width)
            x = nn.Conv(channels, (3, 3), **types, name=f"conv_{i}")(x)
            x = nn.leaky_relu(x, SLOPE)
            features.append(x)
        x = nn.Conv(1, (3, 3), **types, name="score")(x)
        return Judgement(x[..., 0], tuple(features))


class Discriminators(nn.Module):
    """Every judge's opinion of [B, A] samples, those by period first."""

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, samples: Float[Array, "B A"]) -> tuple[Judgement, ...]:
        config = self.config
        judges = [
            *(PeriodJudge(config, n, name=f"period_{n}") for n in config.periods),
            *(SpectrumJudge(config, n, name=f"spectrum_{n}") for n in config.windows),
        ]
        with jax.named_scope("discriminators"):
            return tuple(judge(samples.astype(config.dtype)) for judge in judges)


def spectrogram(samples: Float[Array, "B A"], window: int) -> Float[Array, "B T K 2"]:
    """Real and imaginary part of Hann-windowed frames, hop window / 4; the highest bin left out.

    Scaled by the window's root of energy, so that white noise has the same size in each window.
    """
    rows, hop = samples.shape[0], window // 4
    blocks = jnp.pad(samples.astype(jnp.float32), ((0, 0), (3 * hop, -samples.shape[1] % hop)))
    blocks = blocks.reshape(rows, -1, hop)
    count = blocks.shape[1] - 3
    frames = jnp.concatenate([blocks[:, i : i + count] for i in range(4)], axis=2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    hann = (hann / np.sqrt(np.sum(hann**2))).astype(np.float32)
    spectrum = jnp.fft.rfft(frames * hann)[..., :-1]
    return jnp.stack([spectrum.real, spectrum.imag], axis=-1)
