"""AuT fed with mel as it arrives: the tokens of a window come out once the window is complete.

The state is explicit, `(state, mel) -> (state, tokens)`, and bounded: at most one window, however
long the audio. A chunk goes through the convolutions as soon as it is whole, so that a window's
end waits for the transformer only. Fed in any chunks it equals `AuT` fed with the whole clip.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.models.aut.encoder import AuT
from omnijax.typing import Array, Float, Int


class AuTState(NamedTuple):
    """What has come in and has not yet gone out."""

    frames: np.ndarray  # [f, M], the started chunk, f < chunk_frames
    embedded: tuple[Array, ...]  # whole chunks of the open window after the convolutions, [n, D]
    window_chunks: int


def init_stream(model: AuT, window_chunks: int) -> AuTState:
    """The state before any mel; the window holds for the whole stream."""
    if window_chunks < 1:
        raise UserError(f"AuT's window is {window_chunks} chunks, it must be at least 1")
    return AuTState(np.zeros((0, model.config.mel_bins), np.float32), (), window_chunks)


def stream_aut(
    model: AuT, params: dict, state: AuTState, mel: Float[np.ndarray, "F M"]
) -> tuple[AuTState, Float[np.ndarray, "n O"]]:
    """Takes mel frames and gives the tokens of the windows that they complete."""
    size, bins = model.config.chunk_frames, model.config.mel_bins
    if mel.shape[1] != bins:
        raise UserError(f"the mel has {mel.shape[1]} bins, the encoder takes {bins}")
    frames = np.concatenate([state.frames, np.asarray(mel, np.float32)])
    embedded, out = list(state.embedded), []
    while len(frames) >= size:
        embedded.append(_embed(model, params, frames[:size], np.int32(size)))
        frames = frames[size:]
        if len(embedded) == state.window_chunks:
            out.append(_window(model, params, embedded, state.window_chunks, size))
            embedded = []
    return AuTState(frames.copy(), tuple(embedded), state.window_chunks), _joined(model, out)


def flush_stream(
    model: AuT, params: dict, state: AuTState
) -> tuple[AuTState, Float[np.ndarray, "n O"]]:
    """The audio ends here: the tokens that are left, and a state for the next clip."""
    size, last = model.config.chunk_frames, len(state.frames)
    embedded, out = list(state.embedded), []
    if last:
        padded = np.pad(state.frames, ((0, size - last), (0, 0)))
        embedded.append(_embed(model, params, padded, np.int32(last)))
    if embedded:
        out.append(_window(model, params, embedded, state.window_chunks, last or size))
    return init_stream(model, state.window_chunks), _joined(model, out)


def _joined(model: AuT, parts: list[np.ndarray]) -> np.ndarray:
    empty = np.zeros((0, model.config.out_width), model.config.dtype)
    return np.concatenate([empty, *parts]) if parts else empty


def _window(model: AuT, params: dict, embedded: list, window_chunks: int, last: int) -> np.ndarray:
    """Tokens of one window whose last chunk has `last` frames; always the same compiled shape."""
    lengths = np.zeros(window_chunks, np.int32)
    lengths[: len(embedded)] = model.config.chunk_frames
    lengths[len(embedded) - 1] = last
    missing = [jnp.zeros_like(embedded[0])] * (window_chunks - len(embedded))
    features, valid = _encode(model, params, [*embedded, *missing], lengths)
    return np.asarray(features)[np.asarray(valid)]


@functools.partial(jax.jit, static_argnums=0)
def _embed(
    model: AuT, params: dict, mel: Float[Array, "F M"], length: Int[Array, ""]
) -> Float[Array, "n D"]:
    return model.apply(params, mel[None, None], length[None, None], method="embed_chunks")[0, 0]


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: AuT, params: dict, embedded: list, lengths: Int[Array, " W"]):
    windows = (lengths > 0).astype(jnp.int32)
    features, valid = model.apply(
        params, jnp.stack(embedded)[None], lengths[None], windows[None], method="encode"
    )
    return features[0], valid[0]
