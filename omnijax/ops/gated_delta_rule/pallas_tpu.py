"""The gated delta rule as TPU kernels (Mosaic): forward, backward and the decode step.

A program walks over the chunks of one head of one row, in order, with the state in VMEM; the
backward kernel walks them from the last to the first with the state's gradient there. Forward
keeps nothing but its inputs; backward makes the state before each chunk again, once, and drops
them when it is done. Whatever is not supported runs as the chunked form.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from omnijax.ops.gated_delta_rule.pallas_chunk import advance, column, outputs, pull, solve
from omnijax.ops.gated_delta_rule.pallas_mesh import STEP, on_each_device
from omnijax.ops.gated_delta_rule.pallas_rule import Kernels, rule

ORDER = ("parallel", "parallel", "arbitrary")  # rows and heads in any order, chunks in theirs


def unsupported(q, v, state, chunk_size: int = 64) -> str | None:
    """Why the kernels do not take these arguments; None if they do."""
    if jax.default_backend() != "tpu":
        return f"the backend is {jax.default_backend()}"
    return unfit(q, v, state, chunk_size)


def unfit(q, v, state, chunk_size: int) -> str | None:
    """As `unsupported`, for a TPU."""
    dims = (q.shape[-1], v.shape[-1])
    if any(dim % 128 for dim in dims):
        return f"the head dims are {dims}, not multiples of 128"
    if not 16 <= chunk_size <= 128:
        return f"chunk_size is {chunk_size}, not 16 to 128"
    if state.dtype != jnp.float32:
        return f"the state is {state.dtype}, not float32"
    if v.dtype not in (jnp.float32, jnp.bfloat16):
        return f"v is {v.dtype}, not float32 or bfloat16"
    return None


def vmem_bytes(chunk_size: int, key_dim: int, value_dim: int, backward: bool) -> int:
    """VMEM that a kernel's blocks take in float32: two of each, for the copies to overlap."""
    tokens = chunk_size * (4 * key_dim + 3 * value_dim if backward else 2 * (key_dim + value_dim))
    vectors = 8 * 128 * (5 if backward else 3)  # a row vector takes a whole tile
    states = key_dim * value_dim * (3 if backward else 2)
    return 4 * (2 * (tokens + vectors + states) + key_dim * value_dim)


@functools.partial(jax.jit, static_argnames=("chunk_size", "interpret"))
def pallas(q, k, v, log_decay, beta, segment_ids, state, chunk_size, interpret=False):
    """(out [B, T, N, Hv] in v's dtype, state after [B, N, H, Hv]). interpret: run it anywhere."""
    kernels = Kernels(_forward, _backward, (chunk_size, interpret))
    return rule(kernels, q, k, v, log_decay, beta, segment_ids, state)


class _Blocks:
    """How the grid (row, value head, chunk) meets the arrays; `reverse` walks back."""

    def __init__(self, inputs, chunk, reverse=False):
        q, _, v, *_ = inputs
        self.manual = jax.typeof(v).manual_axis_type  # in a shard_map: what the outputs vary over
        self.batch, self.heads, self.length, self.value_dim = v.shape
        self.key_dim, groups = q.shape[-1], v.shape[1] // q.shape[1]
        self.chunks = self.length // chunk
        at = (lambda c: self.chunks - 1 - c) if reverse else lambda c: c
        of_keys = lambda b, n, c: (b, jax.lax.div(n, groups), at(c), 0)  # noqa: E731
        of_tokens = lambda b, n, c: (b, n, at(c), 0)  # noqa: E731
        of_vector = lambda b, n, c: (b, n, at(c), 0, 0)  # noqa: E731
        once = (None, None, self.key_dim, self.value_dim)
        self.key = pl.BlockSpec((None, None, chunk, self.key_dim), of_keys)
        self.by_key = pl.BlockSpec((None, None, chunk, self.key_dim), of_tokens)
        self.value = pl.BlockSpec((None, None, chunk, self.value_dim), of_tokens)
        self.vector = pl.BlockSpec((None, None, None, 1, chunk), of_vector)
        self.document = pl.BlockSpec((None, None, 1, chunk), lambda b, n, c: (b, at(c), 0, 0))
        self.state = pl.BlockSpec(once, lambda b, n, c: (b, n, 0, 0))
        self.states = pl.BlockSpec((None, *once), of_vector)
        self.inputs = [self.key, self.key, self.value, self.vector, self.vector, self.document]

    def call(self, kernel, in_specs, outs, interpret, name):
        """outs: (block spec, shape, dtype) of each output."""
        like = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=self.manual)
        shapes = [like(shape, dtype) for _, shape, dtype in outs]
        return pl.pallas_call(
            kernel,
            grid=(self.batch, self.heads, self.chunks),
            in_specs=in_specs,
            out_specs=[spec for spec, _, _ in outs],
            out_shape=shapes,
            scratch_shapes=[pltpu.VMEM((self.key_dim, self.value_dim), jnp.float32)],
            compiler_params=pltpu.CompilerParams(dimension_semantics=ORDER),
            interpret=interpret,
            name=name,
        )

    def shape(self, *last):
        return (self.batch, self.heads, *last)


def _forward(options, inputs, state, *, keep_states):
    """(out, state after), and the states before the chunks [B, N, chunks, H, Hv] if asked for."""
    chunk, interpret = options
    b = _Blocks(inputs, chunk)
    square = (b.key_dim, b.value_dim)
    outs = [
        (b.value, b.shape(b.length, b.value_dim), inputs[2].dtype),
        (b.state, b.shape(*square), jnp.float32),
        (b.states, b.shape(b.chunks, *square), jnp.float32),
    ][: 3 if keep_states else 2]
    specs = [*b.inputs, b.state]
    return b.call(_forward_kernel, specs, outs, interpret, "gdn_forward")(*inputs, state)


def _forward_kernel(q, k, v, log_decay, beta, document, start, out, after, *rest):
    *states, state = rest

    @pl.when(pl.program_id(2) == 0)
    def _():
        state[...] = start[...]

    before = state[...]
    q_, k_, v_ = (x[...].astype(jnp.float32) for x in (q, k, v))
    solved = solve(k_, v_, log_decay[...], beta[...], document[...], before)
    out[...] = outputs(q_, k_, solved, before).astype(out.dtype)
    state[...] = advance(k_, solved, before)
    if states:
        states[0][...] = before

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        after[...] = state[...]


def _backward(options, inputs, states, by_out, by_after):
    """Gradients by q and k of each value head, v, log_decay, beta and the state before."""
    chunk, interpret = options
    b = _Blocks(inputs, chunk, reverse=True)
    keys = (b.by_key, b.shape(b.length, b.key_dim), jnp.float32)
    vectors = (b.vector, b.shape(b.chunks, 1, chunk), jnp.float32)
    outs = [
        keys,
        keys,
        (b.value, b.shape(b.length, b.value_dim), inputs[2].dtype),
        vectors,
        vectors,
        (b.state, b.shape(b.key_dim, b.value_dim), jnp.float32),
    ]
    specs = [*b.inputs, b.states, b.value, b.state]
    call = b.call(_backward_kernel, specs, outs, interpret, "gdn_backward")
    return call(*inputs, states, by_out, by_after)


def _backward_kernel(q, k, v, log_decay, beta, document, before, by_out, by_last, *rest):
    *by_tokens, by_start, by_state = rest

    @pl.when(pl.program_id(2) == 0)
    def _():
        by_state[...] = by_last[...]

    q_, k_, v_, by_out_ = (x[...].astype(jnp.float32) for x in (q, k, v, by_out))
    state = before[...]
    solved = solve(k_, v_, log_decay[...], beta[...], document[...], state)
    *grads, by_before = pull(q_, k_, v_, solved, state, by_out_, by_state[...])
    for ref, grad in zip(by_tokens, grads, strict=True):
        ref[...] = grad.astype(ref.dtype)
    by_state[...] = by_before

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _():
        by_start[...] = by_state[...]


@functools.partial(jax.jit, static_argnames="interpret")
def pallas_step(q, k, v, log_decay, beta, state, interpret=False):
    """`gated_delta_step` as one kernel that reads and writes the state once, in place."""
    run = functools.partial(_step, interpret=interpret)
    args = (q, k, v, log_decay, beta, state)
    return on_each_device(run, args, (STEP,) * 6, (STEP, STEP), interpret)


def _step(q, k, v, log_decay, beta, state, interpret):
    batch, heads, value_dim = v.shape
    groups, key_dim = heads // k.shape[1], k.shape[2]
    q, k = (jnp.repeat(x, groups, 1).astype(jnp.float32) for x in (q, k))
    log_decay, beta = (x.astype(jnp.float32)[..., None] for x in (log_decay, beta))
    like = functools.partial(jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(v).manual_axis_type)
    block = 8 if heads % 8 == 0 else heads
    spec = lambda *last: pl.BlockSpec(  # noqa: E731
        (None, block, *last), lambda b, n: (b, n, *(0,) * len(last))
    )
    out, state = pl.pallas_call(
        _step_kernel,
        grid=(batch, heads // block),
        in_specs=[
            spec(key_dim), spec(key_dim), spec(value_dim), spec(1), spec(1),
            spec(key_dim, value_dim),
        ],
        out_specs=[spec(value_dim), spec(key_dim, value_dim)],
        out_shape=[
            like(v.shape, jnp.float32),
            like(state.shape, jnp.float32),
        ],
        input_output_aliases={5: 1},
        compiler_params=pltpu.CompilerParams(dimension_semantics=ORDER[:2]),
        interpret=interpret,
        name="gdn_step",
    )(q, k, v.astype(jnp.float32), log_decay, beta, state)  # fmt: skip
    return out.astype(v.dtype), state


def _step_kernel(q, k, v, log_decay, beta, state, out, after):
    for i in range(q.shape[0]):
        head = slice(i, i + 1)
        key = column(k[head, :])
        decayed = jnp.exp(log_decay[head, :]) * state[i]
        seen = jnp.sum(key * decayed, 0, keepdims=True)
        new = decayed + key * (beta[head, :] * (v[head, :] - seen))
        after[i] = new
        out[head, :] = jnp.sum(column(q[head, :]) * new, 0, keepdims=True)
