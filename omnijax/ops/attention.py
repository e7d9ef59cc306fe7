"""Softmax attention with grouped heads, documents, windows and a cache."""

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.typing import Array, Float, Int


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
    if q_positions is None:
        q_positions = jnp.arange(length)[None]
    if kv_positions is None:
        kv_positions = jnp.arange(keys)[None]
    distance = q_positions[:, :, None] - kv_positions[:, None, :]
    seen = jnp.ones((1, length, keys), bool)
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= jnp.abs(distance) < window
    if q_segments is not None:
        seen &= (q_segments[:, :, None] == kv_segments[:, None, :]) & (q_segments > 0)[:, :, None]
    if kv_length is not None:
        seen &= (jnp.arange(keys) < kv_length[:, None])[:, None, :]
    seen = seen[:, None, None]
    with jax.named_scope("attention"):
        grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, dim)
        logits = scale * jnp.einsum(
            "btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32
        )
        top = jnp.max(logits, -1, keepdims=True, where=seen, initial=-1e30)
        weights = jnp.where(seen, jnp.exp(jnp.where(seen, logits - top, 0)), 0)
        total = jnp.sum(weights, -1, keepdims=True)
        weights = weights / jnp.where(total == 0, 1, total)
        out = jnp.einsum(
            "bkgts,bskh->btkgh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return out.reshape(batch, length, heads, -1).astype(v.dtype)


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
