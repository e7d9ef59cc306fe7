"""What is heard of samples as they come: their spectrum, and how alike they are to themselves.

The codec's losses compare by it, and an encoder may read it in place of samples.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from omnijax.media.mel import MelConfig, log10_mel
from omnijax.models.codec.config import (
    SAMPLE_RATE,
    EnvelopeConfig,
    PeriodicityConfig,
    SpectrumConfig,
)
from omnijax.models.codec.convolution import extend
from omnijax.nn.encoder import check
from omnijax.typing import Array, Float

A_VOICE = PeriodicityConfig()


def envelope(
    samples: Float[Array, "B A"],
    frame: int,
    config: EnvelopeConfig,
    past: Float[Array, "B W"] | None = None,
) -> Float[Array, "B R M"]:
    """log10 mel power of each frame of `frame` samples, `config.steps` times in it; causal.

    Each window is two steps long and ends where its step does, so a frame's values depend on
    nothing after it. past: what comes before the samples, at least one step; None: silence.

    Raises:
      UserError: a frame is no whole number of steps.
    """
    check(
        frame % config.steps == 0,
        f"EnvelopeConfig.steps is {config.steps}: a frame of {frame} samples must be a multiple",
    )
    hop = frame // config.steps
    scale = MelConfig(sample_rate=SAMPLE_RATE, bins=config.bins, window=2 * hop, hop=hop)
    with jax.named_scope("envelope"):
        mel = jax.vmap(lambda x: log10_mel(x, scale))(_after(past, samples, hop))
        mel = jnp.maximum(mel, config.floor_log10 + math.log10(scale.window / 1024))
        return mel.reshape(samples.shape[0], -1, config.steps * config.bins)


def periodicity(
    samples: Float[Array, "B A"],
    frame: int,
    config: PeriodicityConfig = A_VOICE,
    past: Float[Array, "B W"] | None = None,
) -> Float[Array, "B R M"]:
    """Normalised autocorrelation of each frame of `frame` samples, `config.steps` times in it.

    Near 1 at a loud voice's period, less where that lies between two lags; near 0 without a pitch.
    By the windowed signal's autocorrelation and the window's own (Boersma 1993). Causal, as
    `envelope` is. M = steps * lags. past: what comes before, at least a window less a step; None:
    silence.

    Raises:
      UserError: the frame is no whole number of averaged samples in each step, or a step is longer
        than the window.
    """
    check(
        frame % (config.steps * config.pool) == 0,
        f"a frame of {frame} samples is no multiple of PeriodicityConfig.steps * pool = "
        f"{config.steps} * {config.pool}",
    )
    check(
        config.window >= frame // config.steps,
        f"PeriodicityConfig.window is {config.window}, a step has {frame // config.steps} samples",
    )
    hop, window = frame // config.steps // config.pool, config.window // config.pool
    batch = samples.shape[0]
    with jax.named_scope("periodicity"):
        count = samples.shape[1] // (hop * config.pool)
        whole = _after(past, samples, (window - hop) * config.pool)
        pooled = whole.reshape(batch, -1, config.pool).mean(-1)
        seen = pooled[:, np.arange(count)[:, None] * hop + np.arange(window)]
        weight = np.hanning(window + 2)[1:-1]
        seen = (seen - jnp.mean(seen, -1, keepdims=True)) * weight.astype(np.float32)
        spectrum = jnp.fft.rfft(seen, 2 * window)
        power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        alike = jnp.fft.irfft(power)[..., :window]
        alone = np.correlate(weight, weight, "full")[window - 1 :]
        loudness = alike[..., :1] / alone[0] + config.noise
        # Between whole lags, linearly.
        lags = np.geomspace(1 / config.highest, 1 / config.lowest, config.lags)
        lags = lags * SAMPLE_RATE / config.pool
        below = np.floor(lags).astype(np.int32)
        share = (lags - below).astype(np.float32)
        scaled = alike[..., below] * ((1 - share) / alone[below])
        scaled += alike[..., below + 1] * (share / alone[below + 1])
        return (scaled / loudness).reshape(batch, -1, config.steps * config.lags)


class Spectrum(nn.Module):
    """What an encoder hears every `hop` samples, as a layer of a stream: no parameters.

    The envelope goes from -2, silence, to 2, full power, what is periodic to 2.
    """

    config: SpectrumConfig

    def __call__(
        self, x: Float[Array, "B A 1"], past: Float[Array, "B W 1"] | None = None
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B W 1"]]:
        config = self.config
        if past is None:
            past = jnp.zeros((x.shape[0], config.reach, 1), x.dtype)
        samples, before = x[..., 0], past[..., 0]
        power = envelope(samples, config.hop, config.envelope, before)
        alike = periodicity(samples, config.hop, config.periods, before)
        heard = jnp.concatenate([2 - 2 * power / config.envelope.middle, 2 * alike], axis=-1)
        return heard.astype(x.dtype), extend(x, past, config.reach)[1]


def _after(
    past: Float[Array, "B W"] | None, samples: Float[Array, "B A"], reach: int
) -> Float[Array, "B WA"]:
    """The samples behind the last `reach` of what came before."""
    samples = samples.astype(jnp.float32)
    if past is None:
        return jnp.pad(samples, ((0, 0), (reach, 0)))
    return jnp.concatenate([past[:, past.shape[1] - reach :].astype(jnp.float32), samples], axis=1)
