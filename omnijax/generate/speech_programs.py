"""What a Talker that speaks runs on the device: its state and the compiled programs."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.generate.sampling import SamplingConfig, sample
from omnijax.models.talker import Talker, predict_residuals
from omnijax.models.talker.inputs import TalkerInputs
from omnijax.nn.cache import DecoderCache
from omnijax.typing import Array, Bool, Float, Int, Key, PyTree


class SpeechState(NamedTuple):
    """Rows in the middle of their speech; on the device, donated from call to call.

    N is B, or under guidance 2 B: then the same rows stand behind them without their voices.
    """

    cache: DecoderCache
    hidden: Float[Array, "N D"]  # at the last position that was read
    position: Int[Array, "N"]  # the next position id
    seen: Bool[Array, "B V"]  # semantic codes in the row so far, for the repetition penalty
    key: Key[Array, ""]


@functools.partial(jax.jit, static_argnums=0)
def embed(model: Talker, params: PyTree, inputs: TalkerInputs) -> Float[Array, "N T D"]:
    """What the decoder reads of prompts."""
    return model.apply({"params": params}, inputs, method=Talker.embed_inputs)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read(
    model: Talker,
    params: PyTree,
    state: SpeechState,
    embedded: Float[Array, "N T D"],
    positions: Int[Array, "3 N T"],
    segment_ids: Int[Array, "N T"],
) -> SpeechState:
    """The state after embedded positions at the end of each row; 0 is padding on the right."""
    count = (segment_ids > 0).sum(axis=-1)
    hidden, cache, _ = model.apply(
        {"params": params},
        embedded,
        positions,
        segment_ids,
        state.cache,
        method=Talker.decode_embedded,
    )
    last = jnp.take_along_axis(hidden, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
    ends = jnp.max(jnp.where(segment_ids > 0, positions, -1), axis=(0, 2)) + 1
    return state._replace(
        cache=cache,
        hidden=jnp.where((count > 0)[:, None], last, state.hidden),
        position=jnp.maximum(state.position, ends).astype(jnp.int32),
    )


def _for_all(state: SpeechState, by_row: Array) -> Array:
    """What the B rows have, for the N of the state."""
    return jnp.concatenate([by_row] * (state.hidden.shape[0] // by_row.shape[0]))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read_tokens(
    model: Talker,
    params: PyTree,
    state: SpeechState,
    tokens: Int[Array, "B T"],
    valid: Bool[Array, "B T"],
) -> SpeechState:
    """The state after the next text tokens of each row, those that are valid."""
    tokens, valid = _for_all(state, tokens), _for_all(state, valid)
    embedded = model.apply({"params": params}, tokens, method=Talker.embed_text)
    places = state.position[:, None] + jnp.arange(tokens.shape[1])
    positions = jnp.broadcast_to(places, (3, *tokens.shape))
    return read(model, params, state, embedded, positions, valid.astype(jnp.int32))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def speak_block(
    model: Talker,
    sampling: SamplingConfig,
    residual_sampling: SamplingConfig,
    params: PyTree,
    state: SpeechState,
    budget: Int[Array, "B"],
    may_end: Bool[Array, "B"],
    may_ask: Bool[Array, "B"],
    beside: Int[Array, "B packet"],
    guidance: Float[Array, ""],
) -> tuple[SpeechState, Int[Array, "B packet Q"], Bool[Array, "B"], Bool[Array, "B"]]:
    """Up to ``budget`` frames a row: the Talker's step and the MTP's, one program.

    Args:
      sampling, residual_sampling: of the semantic code, and of the others.
      may_end, may_ask: whether a row may end, or ask for text.
      beside: of the dual-track form, the text tokens beside the frames; -1: none.
      guidance: `SpeechConfig.guidance`, where each row stands without its voice too.

    Returns the state, the frames [B, packet, Q] (-1: none), and which rows ended or asked.
    """
    config, rows = model.config, jnp.arange(budget.shape[0])
    ids = jnp.arange(config.codec_vocab_size)
    allowed = (
        (ids < config.codebook_size)
        | ((ids == config.codec_eos_id) & may_end[:, None])
        | ((ids == config.ask_id) & may_ask[:, None])
    )

    def apply(method, *args):
        return model.apply({"params": params}, *args, method=method)

    def guided(logits):
        if logits.shape[0] == rows.shape[0]:
            return logits
        shown, unshown = jnp.split(logits, 2)
        return unshown + guidance * (shown - unshown)

    def choose(logits, key):
        logits = guided(logits)
        code = sample(logits, jnp.zeros(logits.shape, bool), key, residual_sampling)
        return _for_all(state, code)

    def step(carry):
        index, state, active, out, ended, asked = carry
        key, draw, draw_residuals = jax.random.split(state.key, 3)
        logits = jnp.where(allowed, guided(apply(Talker.logits, state.hidden)), -jnp.inf)
        first = sample(logits, state.seen, draw, sampling)
        ended |= active & (first == config.codec_eos_id)
        asked |= active & (first == config.ask_id)
        speaks = active & ~ended & ~asked
        begun = jnp.full((rows.shape[0], config.codebooks), -1).at[:, 0].set(first)
        residuals, _ = predict_residuals(
            config,
            params["mtp"],
            state.hidden,
            _for_all(state, apply(Talker.embed_codes, begun)),
            draw_residuals,
            choose,
        )
        codes = jnp.concatenate([first[:, None], residuals[: rows.shape[0]]], axis=1)
        x = apply(Talker.embed_codes, codes)
        x = _for_all(state, x + apply(Talker.embed_text, beside[:, index]))
        all_speak = _for_all(state, speaks)
        hidden, cache, _ = apply(
            Talker.decode_embedded,
            x[:, None],
            jnp.broadcast_to(state.position[None, :, None], (3, *all_speak.shape, 1)),
            all_speak.astype(jnp.int32)[:, None],
            state.cache,
        )
        state = SpeechState(
            cache=cache,
            hidden=jnp.where(all_speak[:, None], hidden[:, 0], state.hidden),
            position=state.position + all_speak,
            seen=state.seen.at[rows, first].max(speaks),
            key=key,
        )
        out = out.at[:, index].set(jnp.where(speaks[:, None], codes, -1))
        return index + 1, state, speaks & (index + 1 < budget), out, ended, asked

    out = jnp.full((*beside.shape, config.codebooks), -1, jnp.int32)
    none = jnp.zeros(rows.shape, bool)
    carry = (jnp.int32(0), state, budget > 0, out, none, none)
    _, state, _, out, ended, asked = jax.lax.while_loop(lambda c: c[2].any(), step, carry)
    return state, out, ended, asked
