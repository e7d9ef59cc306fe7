"""Text from a Thinker: prefill in chunks, decode in blocks inside jit, a batch of rows at once.

A ``DecodeState`` has seen every token it was given or has produced, and holds the logits of the
next one; so a conversation goes on from it by another ``prefill``.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.data.codes import fingerprint_of
from omnijax.errors import UserError
from omnijax.generate.sampling import SamplingConfig, sample
from omnijax.models.thinker import Thinker
from omnijax.models.thinker.inputs import ThinkerInputs
from omnijax.nn.cache import DecoderCache, init_cache
from omnijax.typing import Array, Bool, Float, Int, Key, PyTree


class DecodeState(NamedTuple):
    """Rows in the middle of a text; on the device, donated from call to call."""

    cache: DecoderCache
    logits: Float[Array, "B V"]  # of each row's next token
    position: Int[Array, "B"]  # the next token's position id, the same on all three axes
    seen: Bool[Array, "B V"]  # tokens in the row so far, for the repetition penalty
    done: Bool[Array, "B"]  # nothing was read since the row last met a stop id
    key: Key[Array, ""]


class TextGenerator:
    """The compiled prefill and decode of one Thinker.

    Args:
      model, params: a Thinker and its parameters.
      stop_ids: a row ends with the first of these (which it keeps).
      sampling: how tokens are chosen.
      max_len: tokens a row can hold, context and answer together.
      prefill_chunk: context is read in pieces of this many tokens; memory grows with it.
      block: tokens decoded between two looks of the host.
    """

    def __init__(
        self,
        model: Thinker,
        params: PyTree,
        *,
        stop_ids: Sequence[int],
        sampling: SamplingConfig | None = None,
        max_len: int = 1024,
        prefill_chunk: int = 256,
        block: int = 8,
    ):
        for name, value in (
            ("max_len", max_len),
            ("prefill_chunk", prefill_chunk),
            ("block", block),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}, it must be at least 1")
        self.model, self.params = model, params
        self.stop_ids = tuple(stop_ids)
        self.sampling = sampling or SamplingConfig()
        self.max_len, self.prefill_chunk, self.block = max_len, prefill_chunk, block

    @functools.cached_property
    def mark(self) -> str:
        """By which a Talker knows whose stream it reads."""
        return fingerprint_of(self.params)

    def start(self, batch: int, seed: int = 0) -> DecodeState:
        """Empty rows."""
        vocab = self.model.config.vocab_size
        cache = init_cache(
            self.model.config.decoder, batch, self.max_len, self.model.config.decoder.dtype
        )
        return DecodeState(
            cache=cache,
            logits=jnp.zeros((batch, vocab), jnp.float32),
            position=jnp.zeros((batch,), jnp.int32),
            seen=jnp.zeros((batch, vocab), bool),
            done=jnp.ones((batch,), bool),
            key=jax.random.key(seed),
        )

    def prefill(self, state: DecodeState, inputs: ThinkerInputs) -> DecodeState:
        """Read ``inputs`` at the end of each row: segment 1 is text, 0 is padding on the right.

        Raises:
          UserError: a row would hold more than ``max_len`` tokens.
        """
        return self._read(self.model, state, inputs)[0]

    def read(
        self, state: DecodeState, inputs: ThinkerInputs, layer: int
    ) -> tuple[DecodeState, Float[Array, "B T D"]]:
        """As `prefill`, and the stream after ``layer`` layers at each place of ``inputs``: what a
        Talker reads of media (its ``accept_hidden_layer``).

        Raises:
          UserError: the model has no such layer, or as `prefill`.
        """
        config = self.model.config
        decoder = dataclasses.replace(config.decoder, accept_hidden_layer=layer)
        model = Thinker(dataclasses.replace(config, decoder=decoder))
        state, stream = self._read(model, state, inputs)
        return state, jnp.concatenate(stream, axis=1)[:, : inputs.tokens.shape[1]]

    def _read(self, model: Thinker, state: DecodeState, inputs: ThinkerInputs):
        valid = np.asarray(inputs.segment_ids) > 0
        self._check_room(state, valid.sum(-1))
        size = self.prefill_chunk
        inputs = pad_tokens(inputs, size)
        embedded = _embed(self.model, self.params, inputs)
        streams = []
        for begin in range(0, inputs.tokens.shape[1], size):
            piece = slice(begin, begin + size)
            state, stream = _prefill_chunk(
                model,
                self.params,
                state,
                inputs.tokens[:, piece],
                embedded[:, piece],
                inputs.positions[:, :, piece],
                inputs.segment_ids[:, piece],
            )
            streams.append(stream)
        return state, streams

    def decode(
        self,
        state: DecodeState,
        max_new_tokens: int = 128,
        on_tokens: Callable[[list[list[int]]], None] | None = None,
    ) -> tuple[DecodeState, list[list[int]]]:
        """Produce tokens until every row has stopped or has ``max_new_tokens``.

        A row that has read nothing, as in a batch that is not full, stays empty.

        ``on_tokens`` is called after each block with every row's new tokens.
        """
        self._check_room(state, max_new_tokens)
        rows: list[list[int]] = [[] for _ in range(state.done.shape[0])]
        for begin in range(0, max_new_tokens, self.block):
            steps = min(self.block, max_new_tokens - begin)
            state, block = _decode_block(
                self.model, self.sampling, self.stop_ids, self.block, self.params, state, steps
            )
            new = [[int(token) for token in row if token >= 0] for row in np.asarray(block)]
            for row, tokens in zip(rows, new, strict=True):
                row += tokens
            if on_tokens is not None:
                on_tokens(new)
            if bool(state.done.all()):
                break
        return state, rows

    def __call__(
        self, inputs: ThinkerInputs, max_new_tokens: int = 128, *, seed: int = 0, on_tokens=None
    ) -> list[list[int]]:
        """The continuation of each row."""
        state = self.prefill(self.start(inputs.tokens.shape[0], seed), inputs)
        return self.decode(state, max_new_tokens, on_tokens)[1]

    def _check_room(self, state: DecodeState, more) -> None:
        longest = int((np.asarray(state.cache.length) + more).max())
        if longest > self.max_len:
            raise UserError(
                f"the context does not fit: {longest} tokens with the answer, "
                f"the limit (max_len) is {self.max_len}"
            )


def pad_tokens(inputs: ThinkerInputs, multiple: int) -> ThinkerInputs:
    """Pad the token axis on the right with segment 0, so that few shapes are ever compiled."""
    extra = -inputs.tokens.shape[1] % multiple
    pad = lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, extra)])  # noqa: E731
    return inputs._replace(
        tokens=pad(inputs.tokens),
        positions=pad(inputs.positions),
        segment_ids=pad(inputs.segment_ids),
    )


@functools.partial(jax.jit, static_argnums=0)
def _embed(model, params, inputs):
    return model.apply({"params": params}, inputs, method=Thinker.embed_inputs)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _prefill_chunk(model, params, state, tokens, embedded, positions, segment_ids):
    valid = segment_ids > 0
    count = valid.sum(axis=-1)
    hidden, cache, aux = model.apply(
        {"params": params},
        embedded,
        positions,
        segment_ids,
        state.cache,
        method=Thinker.decode_embedded,
    )
    last = jnp.take_along_axis(hidden, jnp.maximum(count - 1, 0)[:, None, None], axis=1)[:, 0]
    logits = model.apply({"params": params}, last, method=Thinker.logits)
    ends = jnp.max(jnp.where(valid, positions, -1), axis=(0, 2)) + 1
    rows = jnp.arange(tokens.shape[0])[:, None]
    state = DecodeState(
        cache=cache,
        logits=jnp.where((count > 0)[:, None], logits, state.logits),
        position=jnp.maximum(state.position, ends).astype(jnp.int32),
        seen=state.seen.at[rows, tokens].max(valid),
        done=state.done & (count == 0),
        key=state.key,
    )
    return state, aux.hidden


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=5)
def _decode_block(model, sampling, stop_ids, size, params, state, steps):
    """Up to ``steps`` tokens a row, [B, size], -1 where a row had already stopped."""
    rows = jnp.arange(state.done.shape[0])
    stops = jnp.array(stop_ids, jnp.int32)

    def step(carry):
        index, state, out = carry
        key, draw = jax.random.split(state.key)
        active = ~state.done
        token = sample(state.logits, state.seen, draw, sampling)
        embedded = model.apply({"params": params}, token[:, None], method=Thinker.embed_tokens)
        hidden, cache, _ = model.apply(
            {"params": params},
            embedded,
            jnp.broadcast_to(state.position[None, :, None], (3, rows.shape[0], 1)),
            active.astype(jnp.int32)[:, None],
            state.cache,
            method=Thinker.decode_embedded,
        )
        logits = model.apply({"params": params}, hidden[:, 0], method=Thinker.logits)
        state = DecodeState(
            cache=cache,
            logits=jnp.where(active[:, None], logits, state.logits),
            position=state.position + active,
            seen=state.seen.at[rows, token].max(active),
            done=state.done | jnp.isin(token, stops),
            key=key,
        )
        return index + 1, state, out.at[:, index].set(jnp.where(active, token, -1))

    out = jnp.full((rows.shape[0], size), -1, jnp.int32)
    going = lambda carry: (carry[0] < steps) & ~carry[1].done.all()  # noqa: E731
    _, state, out = jax.lax.while_loop(going, step, (jnp.int32(0), state, out))
    return state, out
