"""The gated delta rule in chunks: one scan over chunks, matrix products inside (see chunk.py).

The backward pass keeps the inputs and the state before every group of about 8 chunks. It walks
over the groups from the last to the first, makes a group's states and triangular inverses again,
once, and uses them for the gradients of its chunks. So it does no more than a backward pass that
recomputes chunk by chunk from every chunk's state, and keeps an eighth of the states.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.ops.gated_delta_rule.chunk import (
    Documents,
    Tokens,
    advance,
    load,
    outputs,
    pull,
    solve,
    unload,
)
from omnijax.ops.segments import fill_segments


class Cut(NamedTuple):
    """How a row falls into groups of chunks of tokens."""

    groups: int
    chunks: int
    tokens: int

    @classmethod
    def of(cls, length: int, chunk_size: int) -> "Cut":
        """Groups of 4 to 12 chunks, whichever leaves the least padding; up to 8 are one group."""
        tokens = min(chunk_size, max(16, 1 << (length - 1).bit_length()))
        chunks = -(-length // tokens)
        group = chunks
        if chunks > 8:
            group = min(range(4, 13), key=lambda size: (-chunks % size, abs(size - 8)))
        return cls(-(-chunks // group), group, tokens)

    def __call__(self, x, mode="constant"):
        """[B, T, ...] -> [groups, chunks, B, C, ...]; beyond T zeros, which leave a state alone."""
        padding = self.groups * self.chunks * self.tokens - x.shape[1]
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2), mode=mode)
        return jnp.moveaxis(x.reshape(x.shape[0], *self, *x.shape[2:]), 0, 2)

    def join(self, x, length: int):
        """[groups, chunks, B, C, ...] -> [B, T, ...]."""
        x = jnp.moveaxis(x, 2, 0)
        return x.reshape(x.shape[0], -1, *x.shape[4:])[:, :length]


@functools.partial(jax.jit, static_argnames="chunk_size")
def chunked(q, k, v, log_decay, beta, segment_ids, state, chunk_size):
    """(out [B, T, N, Hv] in v's dtype, state after [B, N, H, Hv])."""
    split = (v.shape[0], k.shape[2], v.shape[2] // k.shape[2], *state.shape[2:])
    inputs = (q, k, v, log_decay, beta)
    out, after = _rule(Cut.of(v.shape[1], chunk_size), inputs, segment_ids, state.reshape(split))
    return out, after.reshape(state.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rule(cut, inputs, segment_ids, state):
    return _forward(cut, inputs, segment_ids, state)[0]


def _forward(cut, inputs, segment_ids, state):
    def one_chunk(state, chunk):
        inputs, documents = chunk
        x = load(inputs, documents, state.dtype)
        solved = solve(x, documents, state)
        out = unload(outputs(x, solved, state)).astype(inputs[2].dtype)
        return advance(x, solved, state), out

    def one_group(state, group):
        after, out = jax.lax.scan(one_chunk, state, group)
        return after, (out, state)

    chunks = _cut_all(cut, inputs, segment_ids)
    after, (out, states) = jax.lax.scan(one_group, state, chunks)
    return (cut.join(out, inputs[2].shape[1]), after), (inputs, segment_ids, states)


def _backward(cut, residuals, grads):
    inputs, segment_ids, states = residuals
    by_out, by_after = grads

    def again(state, chunk):
        x = load(*chunk, state.dtype)
        solved = solve(x, chunk[1], state)
        return advance(x, solved, state), (state, solved)

    def one_chunk(by_after, chunk):
        (inputs, documents), by_out, (state, solved) = chunk
        x, unload_inputs = jax.vjp(lambda *inputs: load(inputs, documents, state.dtype), *inputs)
        by_out = load((*inputs[:2], by_out, *inputs[3:]), documents, state.dtype).v
        by_tokens, by_state = pull(x, solved, state, by_out, by_after)
        return by_state, unload_inputs(Tokens(*by_tokens))

    def one_group(by_after, group):
        chunks, by_out, state = group
        _, made = jax.lax.scan(again, state, chunks)
        return jax.lax.scan(one_chunk, by_after, (chunks, by_out, made), reverse=True)

    groups = (_cut_all(cut, inputs, segment_ids), cut(by_out), states)
    by_state, by_inputs = jax.lax.scan(one_group, by_after, groups, reverse=True)
    return tuple(cut.join(x, inputs[2].shape[1]) for x in by_inputs), None, by_state


_rule.defvjp(_forward, _backward)


def _cut_all(cut, inputs, segment_ids):
    """The inputs and, where there are ids, the `Documents` of every chunk."""
    documents = None
    if segment_ids is not None:
        ids = fill_segments(segment_ids)
        cut_ids = cut(ids, "edge")
        last = cut_ids[..., -1].reshape(-1, ids.shape[0])
        before = jnp.concatenate([ids[None, :, 0], last[:-1]]).reshape(cut_ids.shape[:3])
        documents = Documents(cut_ids, cut(segment_ids != 0), before)
    return tuple(cut(x) for x in inputs), documents
