"""The codec fed as it comes: any number of samples in, codes of whole frames out, and back.

The state is explicit, `(state, piece) -> (state, out)`, of one size however long the stream, and
equal to the whole clip at once. Inside jit use `Codec.encode_step` and `Codec.decode_step`: here,
on the host, a piece of any length is cut into steps of `STEPS` frames, so that only those shapes
are ever compiled.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.models.codec.code2wav import Code2WavState
from omnijax.models.codec.codec import Codec
from omnijax.models.codec.encoder import EncoderState
from omnijax.typing import Array, Bool, Float, Int

STEPS = (4, 1)  # frames a compiled call takes: one packet of speech, one frame


State = EncoderState | Code2WavState


class EncodeStream(NamedTuple):
    """An encoder's state, and the samples of a frame that is not yet whole."""

    state: EncoderState
    pending: np.ndarray  # [B, a], a < samples_per_frame


def init_encode_state(model: Codec, rows: int = 1) -> EncoderState:
    """Before the first sample: silence."""
    samples = jax.ShapeDtypeStruct((rows, model.config.samples_per_frame), jnp.float32)
    return _zero_state(model, "encode_step", samples)


def init_decode_state(model: Codec, rows: int = 1) -> Code2WavState:
    """Before the first frame."""
    codes = jax.ShapeDtypeStruct((rows, 1, model.config.codebooks), jnp.int32)
    return _zero_state(model, "decode_step", codes)


def init_encode_stream(model: Codec, rows: int = 1) -> EncodeStream:
    return EncodeStream(init_encode_state(model, rows), np.zeros((rows, 0), np.float32))


def restart_rows(state: State, rows: Bool[Array, "B"]) -> State:
    """Silence before the next piece of the rows that are True; the others go on."""

    def clear(x: Array) -> Array:
        return jnp.where(rows.reshape(-1, *(1,) * (x.ndim - 1)), 0, x)

    # Keys from before a row's start count for nothing, so they may stay.
    fields = ("frames", "convs", "source")
    parts = {name: getattr(state, name) for name in fields if hasattr(state, name)}
    return state._replace(**jax.tree.map(clear, parts))


def stream_encode(
    model: Codec, params: dict, stream: EncodeStream, samples: Float[np.ndarray, "B A"]
) -> tuple[EncodeStream, Int[np.ndarray, "B R Q"]]:
    """Takes samples and gives the codes of the frames that they complete (maybe none)."""
    finite = np.isfinite(samples)
    if not finite.all():
        value = samples[~finite][0]
        raise UserError(f"a sample is {value}, it must be a finite number")
    size = model.config.samples_per_frame
    samples = np.concatenate([stream.pending, np.asarray(samples, np.float32)], axis=1)
    state, out = stream.state, []
    whole = samples.shape[1] // size
    for first, frames in _steps(whole):
        part = samples[:, first * size : (first + frames) * size]
        state, codes = _encode(model, params, state, part)
        out.append(np.asarray(codes))
    empty = np.zeros((len(samples), 0, model.config.codebooks), np.int32)
    return EncodeStream(state, samples[:, whole * size :].copy()), np.concatenate([empty, *out], 1)


def flush_encode(
    model: Codec, params: dict, stream: EncodeStream
) -> tuple[EncodeStream, Int[np.ndarray, "B R Q"]]:
    """The clip ends here: the frame that is begun, filled with silence, and a fresh stream."""
    rows, begun = stream.pending.shape
    fill = np.zeros((rows, -begun % model.config.samples_per_frame), np.float32)
    _, codes = stream_encode(model, params, stream, fill)
    return init_encode_stream(model, rows), codes


def stream_decode(
    model: Codec, params: dict, state: Code2WavState, codes: Int[np.ndarray, "B R Q"]
) -> tuple[Code2WavState, Float[np.ndarray, "B A"]]:
    """Takes frames and gives their `samples_per_frame` * R samples at once."""
    codes = check_codes(model, codes)
    out = [np.zeros((len(codes), 0), np.float32)]
    for first, frames in _steps(codes.shape[1]):
        state, samples = _decode(model, params, state, codes[:, first : first + frames])
        out.append(np.asarray(samples))
    return state, np.concatenate(out, 1)


def encode_clip(
    model: Codec, params: dict, samples: Float[np.ndarray, " A"]
) -> Int[np.ndarray, "R Q"]:
    """Codes of one clip; its last frame is filled with silence."""
    stream, codes = stream_encode(model, params, init_encode_stream(model), samples[None])
    if stream.pending.shape[1]:
        codes = np.concatenate([codes, flush_encode(model, params, stream)[1]], axis=1)
    return codes[0]


def decode_clip(
    model: Codec, params: dict, codes: Int[np.ndarray, "R Q"]
) -> Float[np.ndarray, " A"]:
    """The `samples_per_frame` * R samples of one clip's codes."""
    return stream_decode(model, params, init_decode_state(model), codes[None])[1][0]


def check_codes(model: Codec, codes: Any) -> Int[np.ndarray, "B R Q"]:
    """The codes as int32, or a UserError that names the first one that the codec does not have."""
    codes, config = np.asarray(codes, np.int32), model.config
    if codes.ndim != 3 or codes.shape[-1] != config.codebooks:
        raise UserError(
            f"codes have shape {codes.shape}, the codec takes [rows, frames, {config.codebooks}]"
        )
    wrong = np.argwhere((codes < 0) | (codes >= config.codes))
    if len(wrong):
        row, frame, book = wrong[0]
        raise UserError(
            f"code {codes[row, frame, book]} of frame {frame}, codebook {book}, is out of range: "
            f"it must be 0 to {config.codes - 1}"
        )
    return codes


def _steps(frames: int) -> Iterator[tuple[int, int]]:
    """(first frame, frames) of each compiled call."""
    first = 0
    for size in STEPS:
        while frames - first >= size:
            yield first, size
            first += size


def _zero_state(model: Codec, method: str, piece: jax.ShapeDtypeStruct) -> Any:
    """A state of zeros is the start: silence before every convolution, no keys, no frames."""

    def step(piece: Array) -> Any:
        init = model.init_with_output(jax.random.key(0), None, piece, method=method)
        return init[0][0]

    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, piece))


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: Codec, params: dict, state: EncoderState, samples: Array):
    return model.apply(params, state, samples, method="encode_step")


@functools.partial(jax.jit, static_argnums=0)
def _decode(model: Codec, params: dict, state: Code2WavState, codes: Array):
    return model.apply(params, state, codes, method="decode_step")
