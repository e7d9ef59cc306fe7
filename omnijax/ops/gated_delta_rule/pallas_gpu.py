"""The gated delta rule as GPU kernels (Pallas, lowered to Triton): forward and backward.

A program walks over the chunks of one head of one row with a block of the state's columns in
registers: columns never meet in the recurrence, so they run side by side, and each block makes
the chunk's triangular system again. The backward kernel walks back; what its blocks give to q, k
and the gates is added up behind it. Numbers are tested in interpret mode and the lowering to
Triton for compute capability 9.0; on no GPU have they been run or timed [C]. Hence nothing
chooses them but `implementation="pallas"`.
"""

import functools
import logging

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from omnijax.ops.gated_delta_rule.pallas_chunk import advance, outputs, pull, solve
from omnijax.ops.gated_delta_rule.pallas_rule import Kernels, rule

log = logging.getLogger(__name__)

# (chunk, columns of the state a program, warps) by the device kind's first words. Reasoned, not
# measured: the state and its gradient, 128 x 32 float32, are 32 registers a thread each on four
# warps, and a chunk's squares fit beside them. [C]
BLOCKS = {
    "NVIDIA H100": (32, 32, 4),
    "NVIDIA H200": (32, 32, 4),
    "NVIDIA A100": (32, 32, 4),
}
UNKNOWN = (16, 32, 4)


def blocks(kind: str) -> tuple[int, int, int]:
    """Chunk, columns and warps for a device kind; the least for one that is not in the table."""
    for name, sizes in BLOCKS.items():
        if kind.startswith(name):
            return sizes
    log.warning("gated_delta_rule: no block sizes for %r, %s is used", kind, UNKNOWN)
    return UNKNOWN


def unsupported(q, v, state) -> str | None:
    """Why the kernels do not take these arguments; None if they do."""
    if jax.default_backend() != "gpu":
        return f"the backend is {jax.default_backend()}"
    return unfit(q, v, state)


def unfit(q, v, state) -> str | None:
    """As `unsupported`, for a GPU."""
    dims = (q.shape[-1], v.shape[-1])
    if any(dim < 16 or dim > 256 or dim & (dim - 1) for dim in dims):
        return f"the head dims are {dims}, not powers of two from 16 to 256"
    if state.dtype != jnp.float32:
        return f"the state is {state.dtype}, not float32"
    if v.dtype not in (jnp.float32, jnp.bfloat16):
        return f"v is {v.dtype}, not float32 or bfloat16"
    return None


@functools.partial(jax.jit, static_argnames=("sizes", "interpret"))
def pallas(q, k, v, log_decay, beta, segment_ids, state, sizes, interpret=False):
    """(out [B, T, N, Hv] in v's dtype, state after [B, N, H, Hv]). sizes: see `BLOCKS`."""
    chunk, columns, warps = sizes
    options = (chunk, min(columns, v.shape[-1]), warps, interpret)
    kernels = Kernels(_forward, _backward, options)
    return rule(kernels, q, k, v, log_decay, beta, segment_ids, state)


class _Blocks:
    """How the grid (row, value head, block of columns) meets the arrays: whole rows of one head."""

    def __init__(self, inputs, options):
        q, _, v, *_ = inputs
        self.manual = jax.typeof(v).manual_axis_type  # in a shard_map: what the outputs vary over
        self.chunk, self.columns, self.warps, self.interpret = options
        self.batch, self.heads, self.length, self.value_dim = v.shape
        self.key_dim, groups = q.shape[-1], v.shape[1] // q.shape[1]
        self.chunks = self.length // self.chunk
        self.parts = self.value_dim // self.columns
        key = (None, None, self.length, self.key_dim)
        vector = (None, None, self.chunks, 1, self.chunk)
        self.key = pl.BlockSpec(key, lambda b, n, p: (b, n // groups, 0, 0))
        self.value = pl.BlockSpec(
            (None, None, self.length, self.columns), lambda b, n, p: (b, n, 0, p)
        )
        self.vector = pl.BlockSpec(vector, lambda b, n, p: (b, n, 0, 0, 0))
        self.document = pl.BlockSpec(
            (None, self.chunks, 1, self.chunk), lambda b, n, p: (b, 0, 0, 0)
        )
        self.state = pl.BlockSpec(
            (None, None, self.key_dim, self.columns), lambda b, n, p: (b, n, 0, p)
        )
        self.states = pl.BlockSpec(
            (None, None, self.chunks, self.key_dim, self.columns), lambda b, n, p: (b, n, 0, 0, p)
        )
        self.by_key = pl.BlockSpec((None, *key), lambda b, n, p: (p, b, n, 0, 0))
        self.by_vector = pl.BlockSpec((None, *vector), lambda b, n, p: (p, b, n, 0, 0, 0))
        self.inputs = [self.key, self.key, self.value, self.vector, self.vector, self.document]

    def call(self, kernel, in_specs, outs, name):
        """outs: (block spec, shape, dtype) of each output."""
        like = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=self.manual)
        return pl.pallas_call(
            functools.partial(kernel, self.chunk, self.chunks),
            grid=(self.batch, self.heads, self.parts),
            in_specs=in_specs,
            out_specs=[spec for spec, _, _ in outs],
            out_shape=[like(shape, dtype) for _, shape, dtype in outs],
            compiler_params=pltriton.CompilerParams(num_warps=self.warps, num_stages=1),
            interpret=self.interpret,
            name=name,
        )

    def shape(self, *last):
        return (self.batch, self.heads, *last)


def _forward(options, inputs, state, *, keep_states):
    """(out, state after), and the states before the chunks [B, N, chunks, H, Hv] if asked for."""
    b = _Blocks(inputs, options)
    square = (b.key_dim, b.value_dim)
    outs = [
        (b.value, b.shape(b.length, b.value_dim), inputs[2].dtype),
        (b.state, b.shape(*square), jnp.float32),
        (b.states, b.shape(b.chunks, *square), jnp.float32),
    ][: 3 if keep_states else 2]
    return b.call(_forward_kernel, [*b.inputs, b.state], outs, "gdn_forward")(*inputs, state)


def _read(c, chunk, q, k, v, log_decay, beta, document):
    """Chunk ``c`` as float32: q, k, v and the three rows [1, C]."""
    rows = pl.ds(c * chunk, chunk)
    tokens = (x[rows, :].astype(jnp.float32) for x in (q, k, v))
    return *tokens, *(x[c, :, :] for x in (log_decay, beta, document))


def _forward_kernel(chunk, chunks, q, k, v, log_decay, beta, document, start, out, after, *states):
    def one_chunk(c, state):
        q_, k_, v_, *rows = _read(c, chunk, q, k, v, log_decay, beta, document)
        if states:
            states[0][c, :, :] = state
        solved = solve(k_, v_, *rows, state)
        out[pl.ds(c * chunk, chunk), :] = outputs(q_, k_, solved, state).astype(out.dtype)
        return advance(k_, solved, state)

    after[...] = jax.lax.fori_loop(0, chunks, one_chunk, start[...])


def _backward(options, inputs, states, by_out, by_after):
    """Gradients by q and k of each value head, v, log_decay, beta and the state before."""
    b = _Blocks(inputs, options)
    keys = (b.by_key, (b.parts, *b.shape(b.length, b.key_dim)), jnp.float32)
    vectors = (b.by_vector, (b.parts, *b.shape(b.chunks, 1, b.chunk)), jnp.float32)
    outs = [
        keys,
        keys,
        (b.value, b.shape(b.length, b.value_dim), inputs[2].dtype),
        vectors,
        vectors,
        (b.state, b.shape(b.key_dim, b.value_dim), jnp.float32),
    ]
    specs = [*b.inputs, b.states, b.value, b.state]
    by_q, by_k, by_v, by_log_decay, by_beta, by_state = b.call(
        _backward_kernel, specs, outs, "gdn_backward"
    )(*inputs, states, by_out, by_after)
    # Every gradient but v's and the state's is a sum over columns: the blocks' parts add up.
    by_q, by_k, by_log_decay, by_beta = (x.sum(0) for x in (by_q, by_k, by_log_decay, by_beta))
    return by_q, by_k, by_v, by_log_decay, by_beta, by_state


def _backward_kernel(
    chunk, chunks, q, k, v, log_decay, beta, document, before, by_out, by_last, *outs
):
    *by_tokens, by_start = outs
    by_q, by_k, by_v, by_log_decay, by_beta = by_tokens

    def one_chunk(i, by_state):
        c = chunks - 1 - i
        rows = pl.ds(c * chunk, chunk)
        q_, k_, v_, *vectors = _read(c, chunk, q, k, v, log_decay, beta, document)
        state = before[c, :, :]
        solved = solve(k_, v_, *vectors, state)
        by_out_ = by_out[rows, :].astype(jnp.float32)
        *grads, by_state = pull(q_, k_, v_, solved, state, by_out_, by_state)
        for ref, grad in zip((by_q, by_k, by_v), grads, strict=False):
            ref[rows, :] = grad.astype(ref.dtype)
        by_log_decay[c, :, :], by_beta[c, :, :] = grads[3:]
        return by_state

    by_start[...] = jax.lax.fori_loop(0, chunks, one_chunk, by_last[...])
