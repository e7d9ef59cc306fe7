"""Attention in tiles: scores are never stored, tiles that nobody sees are never computed."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.typing import Array, Int


class Sight(NamedTuple):
    """Who sees whom: equal non-zero segments, and positions where causal or windowed."""

    q_segments: Int[Array, "#B T"]
    kv_segments: Int[Array, "#B S"]
    q_positions: Int[Array, "#B T"]
    kv_positions: Int[Array, "#B S"]

    def mask(self, causal: bool, window: int | None):
        """[B or 1, T, S], True where the query sees the key."""
        seen = self.q_segments[:, :, None] == self.kv_segments[:, None, :]
        seen &= self.q_segments[:, :, None] > 0
        distance = self.q_positions[:, :, None] - self.kv_positions[:, None, :]
        if causal:
            seen &= distance >= 0
        if window is not None:
            seen &= jnp.abs(distance) < window
        return seen


@functools.partial(jax.jit, static_argnames=("causal", "window", "tile"))
def flash(q, k, v, sight: Sight, *, causal: bool, window: int | None, tile: int):
    """softmax(q k^T) v in float32: q [B, K, G, T, H], scaled; k [B, K, S, H]; v [B, K, S, Hv]."""
    length, keys = q.shape[3], k.shape[2]
    rows, columns = min(tile, length), min(tile, keys)

    def pad(x, axis, size):
        width = [(0, 0)] * x.ndim
        width[axis] = (0, -x.shape[axis] % size)
        return jnp.pad(x, width)

    sight = Sight(*(pad(x, 1, s) for x, s in zip(sight, (rows, columns) * 2, strict=True)))
    out = _flash(
        pad(q, 3, rows), pad(k, 2, columns), pad(v, 2, columns), sight,
        (causal, window, rows, columns),
    )  # fmt: skip
    return out[:, :, :, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _flash(q, k, v, sight, config):
    return _forward(q, k, v, sight, config)[0]


def _forward(q, k, v, sight, config):
    causal, window, rows, columns = config
    ranges = _visible(sight, config)

    def one_row(_, i):
        q_i = _cut(q, i, rows, 3)

        def one_tile(j, carry):
            top, total, out = carry
            scores = _scores(q_i, _cut(k, j, columns, 2))
            seen = _tile(sight, i, j, config)
            scores = jnp.where(seen, scores, -jnp.inf)
            new = jnp.maximum(top, jnp.max(scores, -1))
            safe = jnp.where(new == -jnp.inf, 0, new)  # a row that has seen nothing so far
            weights = jnp.exp(scores - safe[..., None])
            keep = jnp.exp(top - safe)
            total = total * keep + jnp.sum(weights, -1)
            out = out * keep[..., None] + jnp.einsum(
                "bkgts,bksh->bkgth",
                weights.astype(v.dtype),
                _cut(v, j, columns, 2),
                preferred_element_type=jnp.float32,
            )
            return new, total, out

        shape = q_i.shape[:-1]
        start = (
            jnp.full(shape, -jnp.inf, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((*shape, v.shape[-1]), jnp.float32),
        )
        top, total, out = jax.lax.fori_loop(ranges[0][i], ranges[1][i], one_tile, start)
        blind = total == 0
        out = out / jnp.where(blind, 1, total)[..., None]
        return None, (out, jnp.where(blind, jnp.inf, top + jnp.log(jnp.where(blind, 1, total))))

    _, (out, log_total) = jax.lax.scan(one_row, None, jnp.arange(q.shape[3] // rows))
    out, log_total = (_join(x) for x in (out, log_total))
    return out, (q, k, v, sight, out, log_total)


def _backward(config, residuals, grad):
    q, k, v, sight, out, log_total = residuals
    _, _, rows, columns = config
    ranges = _visible(sight, config)
    mean = jnp.sum(grad * out, -1)
    grad = grad.astype(v.dtype)
    dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def one_row(carry, i):
        q_i, grad_i = _cut(q, i, rows, 3), _cut(grad, i, rows, 3)
        log_total_i, mean_i = _cut(log_total, i, rows, 3), _cut(mean, i, rows, 3)

        def one_tile(j, carry):
            dq, dk, dv = carry
            k_j, v_j = _cut(k, j, columns, 2), _cut(v, j, columns, 2)
            scores = jnp.where(_tile(sight, i, j, config), _scores(q_i, k_j), -jnp.inf)
            weights = jnp.exp(scores - log_total_i[..., None])
            dv = _add(dv, dot("bkgts,bkgth->bksh", weights.astype(v.dtype), grad_i), j, columns)
            dweights = dot("bkgth,bksh->bkgts", grad_i, v_j)
            dscores = (weights * (dweights - mean_i[..., None])).astype(q.dtype)
            dk = _add(dk, dot("bkgts,bkgth->bksh", dscores, q_i), j, columns)
            return dq + dot("bkgts,bksh->bkgth", dscores, k_j), dk, dv

        start = (jnp.zeros(q_i.shape, jnp.float32), *carry)
        dq, dk, dv = jax.lax.fori_loop(ranges[0][i], ranges[1][i], one_tile, start)
        return (dk, dv), dq

    start = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    (dk, dv), dq = jax.lax.scan(one_row, start, jnp.arange(q.shape[3] // rows))
    return _join(dq).astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_flash.defvjp(_forward, _backward)


def _scores(q, k):
    return jnp.einsum("bkgth,bksh->bkgts", q, k, preferred_element_type=jnp.float32)


def _tile(sight, i, j, config):
    """The mask of one tile, [B or 1, 1, 1, rows, columns]."""
    causal, window, rows, columns = config
    cut = Sight(
        _cut(sight.q_segments, i, rows, 1),
        _cut(sight.kv_segments, j, columns, 1),
        _cut(sight.q_positions, i, rows, 1),
        _cut(sight.kv_positions, j, columns, 1),
    )
    return cut.mask(causal, window)[:, None, None]


def _visible(sight, config):
    """(first, past last) tile of keys that some query of each tile of queries can see."""
    causal, window, rows, columns = config

    def ends(x, size, segments):
        x, segments = (a.reshape(a.shape[0], -1, size) for a in (x, segments))
        big = jnp.iinfo(x.dtype).max
        low = jnp.min(jnp.where(segments > 0, x, big), -1)
        return low, jnp.max(jnp.where(segments > 0, x, -big), -1)

    q_low, q_high = (x[:, :, None] for x in ends(sight.q_segments, rows, sight.q_segments))
    k_low, k_high = (x[:, None, :] for x in ends(sight.kv_segments, columns, sight.kv_segments))
    seen = (k_low <= q_high) & (q_low <= k_high)
    q_low, q_high = (x[:, :, None] for x in ends(sight.q_positions, rows, sight.q_segments))
    k_low, k_high = (x[:, None, :] for x in ends(sight.kv_positions, columns, sight.kv_segments))
    if causal:
        seen &= k_low <= q_high
    if window is not None:
        seen &= k_high > q_low - window
        seen &= k_low < q_high + window
    seen = jnp.any(seen, 0)
    count = seen.shape[1]
    last = count - jnp.argmax(seen[:, ::-1], 1)
    return jnp.argmax(seen, 1), jnp.where(jnp.any(seen, 1), last, 0)


def _cut(x, i, size, axis):
    return jax.lax.dynamic_slice_in_dim(x, i * size, size, axis)


def _add(x, part, j, size):
    old = _cut(x, j, size, 2)
    return jax.lax.dynamic_update_slice_in_dim(x, old + part, j * size, 2)


def _join(x):
    """[n, B, K, G, rows, ...] -> [B, K, G, n rows, ...]."""
    x = jnp.moveaxis(x, 0, 3)
    return x.reshape(*x.shape[:3], -1, *x.shape[5:])
