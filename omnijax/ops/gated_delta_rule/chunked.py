"""The gated delta rule in chunks: one scan over chunks, matrix products inside.

Within a chunk of C tokens with G_i the sum of the log-decays up to and including token i, and S
the state before the chunk, the writes w_i = beta_i (v_i - S_i^T k_i) solve a triangular system:

    (I + L) W = beta (V - e^G K S)     L_ij = beta_i e^(G_i - G_j) k_i.k_j       for j < i
    O = e^G Q S + A W                  A_ij = e^(G_i - G_j) q_i.k_j              for j <= i
    S' = e^(G_C) S + sum_j e^(G_C - G_j) k_j w_j^T

A document's edge makes e^(G_i - G_j) zero for i and j on different sides of it, nothing else.
"""

import functools

import jax
import jax.numpy as jnp

from omnijax.ops.gated_delta_rule.triangular import unit_lower_inverse
from omnijax.ops.segments import fill_segments

HIGHEST = jax.lax.Precision.HIGHEST


@functools.partial(jax.jit, static_argnames="chunk_size")
def chunked(q, k, v, log_decay, beta, segment_ids, state, chunk_size):
    """One `lax.scan`, checkpointed: the backward pass keeps only the state before each chunk."""
    batch, length, heads, value_dim = v.shape
    chunk = min(chunk_size, max(16, 1 << (length - 1).bit_length()))
    padding = -length % chunk
    if padding and segment_ids is None:
        segment_ids = jnp.ones((batch, length), jnp.int32)
    ids = valid = None
    if segment_ids is not None:
        ids = fill_segments(segment_ids)
        ids = jnp.pad(ids, ((0, 0), (0, padding)), mode="edge")
        valid = jnp.pad(segment_ids != 0, ((0, 0), (0, padding)))

    def cut(x):  # [B, T, ...] -> [chunks, B, C, ...]
        if x is None:
            return None
        if x.shape[1] == length:
            x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(batch, -1, chunk, *x.shape[2:]).swapaxes(0, 1)

    def body(carry, inputs):
        state, last = carry
        out, state = _one_chunk(state, last, *inputs)
        ids = inputs[5]
        return (state, last if ids is None else ids[:, -1]), out.astype(v.dtype)

    last = None if ids is None else ids[:, 0]
    inputs = jax.tree.map(cut, (q, k, v, log_decay, beta, ids, valid), is_leaf=lambda x: x is None)
    (state, _), out = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), (state, last), inputs)
    return out.swapaxes(0, 1).reshape(batch, -1, heads, value_dim)[:, :length], state


def _one_chunk(state, last, q, k, v, log_decay, beta, ids, valid):
    """(out [B, C, N, Hv], state after) of one chunk; `last` is the id of the state's document."""
    batch, chunk, heads, value_dim = v.shape
    key_heads, groups, dtype = k.shape[2], heads // k.shape[2], state.dtype
    split = (batch, key_heads, groups)
    q, k = (x.astype(dtype).swapaxes(1, 2) for x in (q, k))  # [B, K, C, H]
    v = v.astype(dtype).swapaxes(1, 2).reshape(*split, chunk, value_dim)
    log_decay, beta = (  # [B, K, G, C]
        x.astype(dtype).swapaxes(1, 2).reshape(*split, chunk) for x in (log_decay, beta)
    )
    state = state.reshape(*split, *state.shape[2:])
    before = jnp.tril(jnp.ones((chunk, chunk), bool), -1)
    if ids is not None:
        row, col = valid[:, None, :, None], valid[:, None, None, :, None]
        q, k, v = jnp.where(row, q, 0), jnp.where(row, k, 0), jnp.where(col, v, 0)
        log_decay, beta = (jnp.where(valid[:, None, None], x, 0) for x in (log_decay, beta))
        same = (ids[:, :, None] == ids[:, None, :])[:, None, None]
        before = before & same

    # Masked before the exponential: masked after it, the gradient is NaN. The diagonal is added
    # as a constant, so that the gradient by a strong decay is not what rounding leaves of it.
    strict = jnp.exp(jnp.where(before, _sums_between(log_decay), -jnp.inf))
    decay = strict + jnp.eye(chunk, dtype=dtype)
    total = jnp.cumsum(log_decay, -1)
    to_end = decay[..., -1, :]
    from_start = jnp.exp(total)
    if ids is not None:
        from_start = jnp.where((ids == last[:, None])[:, None, None], from_start, 0)

    keys = jnp.einsum("bkih,bkjh->bkij", k, k, precision=HIGHEST)[:, :, None]
    inverse = unit_lower_inverse(keys * strict * beta[..., None])
    seen = jnp.einsum("bkih,bkghv->bkgiv", k, state, precision=HIGHEST)
    residual = beta[..., None] * (v - from_start[..., None] * seen)
    write = jnp.einsum("bkgij,bkgjv->bkgiv", inverse, residual, precision=HIGHEST)

    scores = jnp.einsum("bkih,bkjh->bkij", q, k, precision=HIGHEST)[:, :, None] * decay
    out = from_start[..., None] * jnp.einsum("bkih,bkghv->bkgiv", q, state, precision=HIGHEST)
    out = out + jnp.einsum("bkgij,bkgjv->bkgiv", scores, write, precision=HIGHEST)
    state = state * from_start[..., -1, None, None] + jnp.einsum(
        "bkih,bkgiv->bkghv", k, to_end[..., None] * write, precision=HIGHEST
    )
    out = out.reshape(batch, heads, chunk, value_dim).swapaxes(1, 2)
    return out, state.reshape(batch, heads, *state.shape[3:])


def _sums_between(x):
    """out[..., i, j] = x_(j+1) + ... + x_i: every sum for itself, as one matrix product.

    As differences of cumulative sums, which reach -1280 at a decay of e^-20 a token, they would
    be wrong by 1e-4; and the gradient by a strong decay would drown in the rounding of others.
    """
    row = jnp.arange(x.shape[-1])
    upto = jnp.where(row[None, :] <= row[:, None], x[..., None, :], 0)
    after = (row[:, None] > row[None, :]).astype(x.dtype)
    return jnp.matmul(upto, after, precision=HIGHEST)
