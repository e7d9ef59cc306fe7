"""The whole codec at the least size: every layer, 48 samples a frame."""

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.models.codec import (
    Code2WavConfig,
    Codec,
    CodecConfig,
    EnvelopeConfig,
    HarmonicsConfig,
    PeriodicityConfig,
    QuantiserConfig,
    SeanetConfig,
    SpectrumConfig,
    TransformerConfig,
)


def config(encoder=None, **code2wav):
    # Scales near one, so that a mistake anywhere shows in the output.
    sizes = {"width": 8, "layers": 2, "heads": 2, "head_dim": 4, "ffn": 12, "layer_scale": 0.8}
    return CodecConfig(
        encoder=SeanetConfig(
            **{
                "transformer": TransformerConfig(window=7, norm="layer", **sizes),
                "filters": 2,
                "strides": (2, 3, 4),
                "downsample": 2,
                "kernel": 3,
            }
            | (encoder or {})
        ),
        quantiser=QuantiserConfig(features=8, codebooks=4, size=11, width=6),
        code2wav=Code2WavConfig(
            transformer=TransformerConfig(window=4, **sizes),
            upsample=(2, 2),
            rates=(4, 3),
            channels=12,
            codebooks=4,
            codes=11,
            features=8,
            convnext_scale=0.8,
            **code2wav,
        ),
    )


def params(model, seed=0):
    """Random, the convolutions' and snakes' biases too; samples stay well within -1..1."""
    frame = model.config.samples_per_frame
    shapes = np.zeros((1, frame), np.float32)
    tree = jax.jit(model.init)(jax.random.key(seed), shapes)
    rng = np.random.default_rng(seed)

    def shake(path, leaf):
        if path[-2].key == "conv_out" and path[1].key == "code2wav":
            return 0.1 * leaf  # far from the clipping
        if path[-2].key == "envelope" and path[-1].key == "bias":
            return jnp.full_like(leaf, -3.0)  # loud enough to be seen, and not clipped
        if path[-2].key == "pitch" and path[-1].key == "kernel":
            return 0.3 * leaf  # within the range, so that it moves
        if path[-1].key in ("bias", "conv_bias", "alpha", "beta"):
            return leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)
        return leaf

    return jax.tree_util.tree_map_with_path(shake, tree)


def noise(rows, samples, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, samples)).astype(np.float32)


def codes(rows, frames, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 11, (rows, frames, 4)).astype(np.int32)


# A coarse grid: hardly a pitch lies so near a half that whole and streamed round it apart.
HARMONICS = HarmonicsConfig(count=3, bands=4, lowest=500, highest=2000, top=5000, grid=3)
MODEL = Codec(config())
VOICED = Codec(config(harmonics=HARMONICS))  # the same with a voice's source
# The same with an encoder that reads spectra.
HEARD = SpectrumConfig(
    hop=8,
    envelope=EnvelopeConfig(steps=1, bins=3),
    periods=PeriodicityConfig(steps=1, lags=4, window=64, pool=2, lowest=800, highest=3000),
)
HEARING = Codec(config({"spectrum": HEARD, "strides": (3,), "filters": 4}))
