"""Softmax attention with grouped heads, documents, windows and a cache."""

import functools

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.typing import Array, Float, Int

IMPLEMENTATIONS = (None, "dense", "blocks")
BLOCK, MAX_BLOCKS = 128, 8  # tokens a block, until there are too many blocks to compile


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K Hv"],
    *,
    causal: bool,
    window: int | None = None,
    q_segments: Int[Array, "B T"] | None = None,
    kv_segments: Int[Array, "B S"] | None = None,
    q_positions: Int[Array, "B T"] | None = None,
    kv_positions: Int[Array, "B S"] | None = None,
    kv_length: Int[Array, "B"] | None = None,  # noqa: F821
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "B T N Hv"]:
    """softmax(scale q k^T) v in float32; query head n reads key head n // (N // K).

    Args:
      causal: a query sees keys at its own position and before. Positions are indices along the
        row, not rotary ids; by default 0, 1, 2 ... for queries and keys alike.
      window: a query sees keys less than `window` positions away.
      q_segments, kv_segments: a query sees keys of its own document; 0 is padding.
      kv_length: keys in each row's cache that count.
      scale: H^-0.5 by default.
      implementation: "dense" makes all scores at once; "blocks" cuts causal self-attention into up
        to eight blocks of queries; None takes it from 256 tokens on. On two CPU cores (B 8, T 512,
        4 heads of 48, forward with backward): blocks 96 ms of CPU time, dense 210.

    Returns:
      v's dtype; zero for a query that sees nothing.
    """
    batch, length, heads, dim = q.shape
    keys, kv_heads = k.shape[1:3]
    if heads % kv_heads:
        raise UserError(f"q has {heads} heads, which must be a multiple of k's {kv_heads}")
    if (q_segments is None) != (kv_segments is None):
        raise UserError("q_segments and kv_segments go together: one of them is missing")
    scale = dim**-0.5 if scale is None else scale
    plain = q_positions is None and kv_positions is None and length == keys
    if q_positions is None:
        q_positions = jnp.arange(length)[None]
    if kv_positions is None:
        kv_positions = jnp.arange(keys)[None]
    rules = {"causal": causal, "window": window}
    if implementation not in IMPLEMENTATIONS:
        raise UserError(f"implementation is {implementation!r}; it can be one of {IMPLEMENTATIONS}")
    if implementation is None:
        implementation = "blocks" if causal and plain and length >= 2 * BLOCK else "dense"

    def seen(begin: int, end: int, key_end: int):
        """Which keys of the first `key_end` the queries begin ... end see: [B or 1, 1, 1, t, s]."""
        near = _near(q_positions[:, begin:end], kv_positions[:, :key_end], **rules)
        if q_segments is not None:
            own = q_segments[:, begin:end, None]
            near = near & (own == kv_segments[:, None, :key_end]) & (own > 0)
        if kv_length is not None:
            near = near & (jnp.arange(key_end) < kv_length[:, None])[:, None, :]
        return near[:, None, None]

    if implementation == "blocks" and not (causal and plain):
        raise UserError("attention in blocks is for causal self-attention without positions")

    with jax.named_scope("attention"):
        grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, dim)
        if implementation == "dense":
            out = _attend(grouped, k, v, seen(0, length, keys), scale)
        else:
            # A block's queries see no key past its end: half the work, and it stays in the cache.
            count = min(MAX_BLOCKS, -(-length // BLOCK))
            block = -(-length // count)
            ends = [(begin, min(begin + block, length)) for begin in range(0, length, block)]
            out = jnp.concatenate(
                [
                    _attend(grouped[:, a:b], k[:, :b], v[:, :b], seen(a, b, b), scale)
                    for a, b in ends
                ],
                1,
            )
        return out.reshape(batch, length, heads, -1).astype(v.dtype)


def _near(q_positions, kv_positions, causal, window):
    distance = q_positions[:, :, None] - kv_positions[:, None, :]
    near = jnp.ones(distance.shape, bool)
    if causal:
        near &= distance >= 0
    if window is not None:
        near &= jnp.abs(distance) < window
    return near


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q, k, v, seen, scale):
    """q [B, t, K, G, H], k [B, s, K, H], v [B, s, K, Hv] -> [B, t, K, G, Hv]."""
    return _attend_forward(q, k, v, seen, scale)[0]


def _scores(q, k, scale):
    return scale * jnp.einsum("btkgh,bskh->bkgts", q, k, preferred_element_type=jnp.float32)


def _attend_forward(q, k, v, seen, scale):
    scores = jnp.where(seen, _scores(q, k, scale), -1e30)
    top = jnp.max(scores, -1, keepdims=True)
    weights = jnp.where(seen, jnp.exp(scores - top), 0)
    total = jnp.sum(weights, -1, keepdims=True)
    total = jnp.where(total == 0, 1, total)  # a query that sees nothing gets zero
    out = jnp.einsum(
        "bkgts,bskh->bkgth", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = (out / total).transpose(0, 3, 1, 2, 4)
    return out.astype(v.dtype), (q, k, v, seen, out, top + jnp.log(total))


def _attend_backward(scale, saved, grad):
    """Makes the weights again from the saved log-sums, as FlashAttention does."""
    q, k, v, seen, out, logsum = saved
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    weights = jnp.where(seen, jnp.exp(_scores(q, k, scale) - logsum), 0)
    mean = jnp.sum(grad.astype(jnp.float32) * out, -1).transpose(0, 2, 3, 1)[..., None]
    d_scores = scale * weights * (dot("btkgh,bskh->bkgts", grad, v) - mean)
    d_scores, weights = d_scores.astype(q.dtype), weights.astype(v.dtype)
    dq = dot("bkgts,bskh->btkgh", d_scores, k)
    dk = dot("bkgts,btkgh->bskh", d_scores, q)
    dv = dot("bkgts,btkgh->bskh", weights, grad)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def windowed_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K Hv"],
    *,
    window: int,
    segments: Int[Array, "B T"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B T N Hv"]:
    """Attention within blocks of `window` tokens, in both directions, 0..window-1 the first.

    The row is reshaped to windows, so no score across windows is ever computed.
    """
    batch, length = q.shape[:2]
    padding = -length % window
    if segments is None and padding:
        segments = jnp.ones((batch, length), jnp.int32)

    def cut(x):
        x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(-1, window, *x.shape[2:])

    segments = None if segments is None else cut(segments)
    out = attention(
        cut(q), cut(k), cut(v), causal=False, q_segments=segments, kv_segments=segments, scale=scale
    )
    return out.reshape(batch, -1, *out.shape[2:])[:, :length]
