"""Augmentation inside the step: of mel (another vocal tract, another level, noise, masks) and of
the answer read so far.

What changes mel is drawn per attention window: a clip within one sounds like one speaker in one
room, a longer one changes from window to window.
"""

import jax
import jax.numpy as jnp

from omnijax.models.thinker.inputs import AudioInputs
from omnijax.train.stages import AugmentConfig
from omnijax.typing import Array, Float, Int

DECIBELS = 1 / 40  # a mel value is log10(power) / 4 + 1


def _warp(mel: Float[Array, "B G F M"], warp: Array, shift: Array) -> Float[Array, "B G F M"]:
    """Bin m takes the value at m * (1 + warp) + shift, interpolated: one matmul a chunk."""
    bins = jnp.arange(mel.shape[-1], dtype=jnp.float32)
    source = bins * (1 + warp[..., None]) + shift[..., None]  # [B, G, M]
    source = jnp.clip(source, 0, mel.shape[-1] - 1)
    hats = jnp.maximum(0, 1 - jnp.abs(source[:, :, None, :] - bins[:, None]))  # [B, G, M, M]
    return jnp.einsum("bgfm,bgmn->bgfn", mel, hats)


def _masks(key: Array, count: int, width: int, size: int, shape: tuple[int, ...]) -> Array:
    """True in `count` random spans of at most `width` of `size` positions: [*shape, size]."""
    at, long = jax.random.split(key)
    start = jax.random.uniform(at, (*shape, count, 1)) * size
    length = jax.random.uniform(long, (*shape, count, 1)) * width
    place = jnp.arange(size)
    return jnp.any((place >= start) & (place < start + length), axis=-2)


def augment_audio(key: Array, audio: AudioInputs, config: AugmentConfig) -> AudioInputs:
    """The same chunks, heard otherwise; padding frames keep their values."""
    if not config.active:
        return audio
    batch, chunks, frames, bins = audio.mel.shape
    keys = iter(jax.random.split(key, 8))
    windows = jnp.minimum(audio.windows, chunks)

    def per_window(limit: float, low: float | None = None) -> Float[Array, "B G"]:
        low = -limit if low is None else low
        values = jax.random.uniform(
            next(keys), (batch, chunks + 1), minval=low, maxval=limit, dtype=jnp.float32
        )
        return jnp.take_along_axis(values, windows, axis=1)

    mel = audio.mel
    if config.warp or config.shift:
        mel = _warp(mel, per_window(config.warp), per_window(config.shift))
    if config.gain_db:
        gain = per_window(config.gain_db * DECIBELS)[..., None, None]
        mel = jnp.maximum(mel + gain, config.silence)
    if config.noise_db:
        # Powers add; a white spectrum's bins scatter by about 5 dB from frame to frame.
        level = config.silence + per_window(config.noise_db * DECIBELS, 0.0)[..., None, None]
        scatter = jax.random.normal(next(keys), mel.shape) * 5 * DECIBELS
        scale = 4 * jnp.log(10.0)
        mel = jnp.logaddexp(mel * scale, (level + scatter) * scale) / scale
    if config.frequency_masks:
        masks = _masks(
            next(keys), config.frequency_masks, config.frequency_width, bins, (batch, chunks + 1)
        )
        masks = jnp.take_along_axis(masks, windows[..., None], axis=1)  # [B, G, M]
        mel = jnp.where(masks[:, :, None, :], config.silence, mel)
    if config.time_masks:
        masks = _masks(next(keys), config.time_masks, config.time_width, frames, (batch, chunks))
        mel = jnp.where(masks[..., None], config.silence, mel)
    valid = jnp.arange(frames) < audio.lengths[..., None]  # [B, G, F]
    return audio._replace(mel=jnp.where(valid[..., None], mel, audio.mel))


def augment_answers(
    key: Array,
    tokens: Int[Array, "B T *Q"],
    targets: Int[Array, "B T *Q"],
    weights: Float[Array, "B T"],
    share: float,
) -> Int[Array, "B T *Q"]:
    """The input tokens with `share` of those that answer replaced by tokens of other answers; a
    token may be a frame of codes.

    A decoder that cannot trust the words so far must look at the media for the next one; without
    this it learns which words go together, and a new combination is overruled by habit. A token
    belongs to an answer if the position before it is weighted; targets stay as they are.
    """
    if not share:
        return tokens
    where, which = jax.random.split(key)
    answers = weights > 0
    inside = jnp.pad(answers, ((0, 0), (1, 0)))[:, :-1]
    chance = answers.reshape(-1) / jnp.maximum(answers.sum(), 1)
    each = targets.reshape(-1, *targets.shape[2:])
    other = jax.random.choice(which, each, weights.shape, p=chance)
    replaced = inside & (jax.random.uniform(where, weights.shape) < share)
    replaced = replaced.reshape(*weights.shape, *[1] * (tokens.ndim - 2))
    return jnp.where(replaced, other.astype(tokens.dtype), tokens)
