"""One chunk of the gated delta rule: forward, and backward written out.

Within a chunk of C tokens with G_i the sum of the log-decays up to and including token i, and S
the state before the chunk, the writes w_i = beta_i (v_i - S_i^T k_i) solve a triangular system:

    (I + L) W = beta (V - e^G K S)     L_ij = beta_i e^(G_i - G_j) k_i.k_j       for j < i
    O = e^G Q S + A W                  A_ij = e^(G_i - G_j) q_i.k_j              for j <= i
    S' = e^(G_C) S + sum_j e^(G_C - G_j) k_j w_j^T

A document's edge makes e^(G_i - G_j) zero for i and j on different sides of it, nothing else.
Letters in the products: b batch, k key heads, g value heads of a key head, i and j tokens, h and v
the two dims of the state.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.ops.gated_delta_rule.triangular import unit_lower_inverse
from omnijax.typing import Array, Bool, Float, Int

_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Tokens(NamedTuple):
    """The five inputs, heads first, in the state's dtype; zero where padding is."""

    q: Float[Array, "B K C H"]
    k: Float[Array, "B K C H"]
    v: Float[Array, "B K G C Hv"]
    log_decay: Float[Array, "B K G C"]
    beta: Float[Array, "B K G C"]


class Documents(NamedTuple):
    """Whose tokens they are: padding has the id of the document before it."""

    ids: Int[Array, "B C"]
    valid: Bool[Array, "B C"]
    before: Int[Array, "B"]  # the document that the state before the chunk is of


class Solved(NamedTuple):
    """What forward and backward share; made once for both where the backward pass runs."""

    keys: Float[Array, "B K 1 C C"]  # k_i.k_j
    strict: Float[Array, "B K G C C"]  # e^(G_i - G_j) below the diagonal
    from_start: Float[Array, "B K G C"]  # e^(G_i), zero past an edge
    inverse: Float[Array, "B K G C C"]  # of I + L
    seen: Float[Array, "B K G C Hv"]  # K S
    write: Float[Array, "B K G C Hv"]  # W


def load(inputs: tuple[Array, ...], documents: Documents | None, dtype) -> Tokens:
    """q, k [B, C, K, H], v [B, C, N, Hv], log_decay, beta [B, C, N] as `Tokens`; linear."""
    q, k, v, log_decay, beta = (x.astype(dtype).swapaxes(1, 2) for x in inputs)
    split = (*k.shape[:2], v.shape[1] // k.shape[1])
    tokens = Tokens(q, k, *(x.reshape(*split, *x.shape[2:]) for x in (v, log_decay, beta)))
    if documents is None:
        return tokens
    valid = documents.valid[:, None]
    masks = Tokens(*(valid[..., None],) * 2, valid[:, None, :, :, None], *(valid[:, None],) * 2)
    return jax.tree.map(lambda mask, x: jnp.where(mask, x, 0), masks, tokens)


def unload(out: Float[Array, "B K G C Hv"]) -> Float[Array, "B C N Hv"]:
    """Heads behind the tokens again."""
    return out.reshape(out.shape[0], -1, *out.shape[3:]).swapaxes(1, 2)


def solve(x: Tokens, documents: Documents | None, state: Float[Array, "B K G H Hv"]) -> Solved:
    """The chunk's writes, and what they were made of."""
    chunk = x.k.shape[2]
    before = jnp.tril(jnp.ones((chunk, chunk), bool), -1)
    from_start = jnp.exp(jnp.cumsum(x.log_decay, -1))
    if documents is not None:
        ids = documents.ids
        before = before & (ids[:, :, None] == ids[:, None, :])[:, None, None]
        carried = (ids == documents.before[:, None])[:, None, None]
        from_start = jnp.where(carried, from_start, 0)
    # Masked before the exponential: masked after it, the gradient is NaN.
    strict = jnp.exp(jnp.where(before, _sums_between(x.log_decay), -jnp.inf))
    keys = _dot("bkih,bkjh->bkij", x.k, x.k)[:, :, None]
    inverse = unit_lower_inverse(keys * strict * x.beta[..., None])
    seen = _dot("bkgih,bkghv->bkgiv", _by_head(x.k, state), state)
    residual = x.beta[..., None] * (x.v - from_start[..., None] * seen)
    write = _dot("bkgij,bkgjv->bkgiv", inverse, residual)
    return Solved(keys, strict, from_start, inverse, seen, write)


def outputs(x: Tokens, s: Solved, state: Float[Array, "B K G H Hv"]) -> Float[Array, "..."]:
    """O, [B, K, G, C, Hv]."""
    scores = _dot("bkih,bkjh->bkij", x.q, x.k)[:, :, None] * _with_diagonal(s.strict)
    out = s.from_start[..., None] * _dot("bkgih,bkghv->bkgiv", _by_head(x.q, state), state)
    return out + _dot("bkgij,bkgjv->bkgiv", scores, s.write)


def advance(x: Tokens, s: Solved, state: Float[Array, "B K G H Hv"]) -> Float[Array, "..."]:
    """The state after the chunk."""
    to_end = _with_diagonal(s.strict)[..., -1, :, None]
    write = to_end * s.write
    written = _dot("bkgih,bkgiv->bkghv", _by_head(x.k, write), write)
    return s.from_start[..., -1, None, None] * state + written


def pull(
    x: Tokens,
    s: Solved,
    state: Float[Array, "B K G H Hv"],
    by_out: Float[Array, "B K G C Hv"],
    by_after: Float[Array, "B K G H Hv"],
) -> tuple[Tokens, Float[Array, "B K G H Hv"]]:
    """The gradients by the tokens and by the state before, from those by O and by S'.

    With W = (I + L)^-1 R the gradient by R is (I + L)^-T dW and that by L is -dR W^T: no product
    of three matrices, and nothing is solved again.
    """
    decay = _with_diagonal(s.strict)
    to_end, from_start, beta = decay[..., -1, :, None], s.from_start[..., None], x.beta[..., None]
    scores = _dot("bkih,bkjh->bkij", x.q, x.k)[:, :, None]
    q, k = _by_head(x.q, state), _by_head(x.k, state)

    by_write = _dot("bkgij,bkgiv->bkgjv", scores * decay, by_out)
    by_write += to_end * _dot("bkgih,bkghv->bkgiv", k, by_after)
    by_residual = _dot("bkgij,bkgiv->bkgjv", s.inverse, by_write)
    by_v = beta * by_residual
    by_scores = _dot("bkgiv,bkgjv->bkgij", by_out, s.write)
    by_lower = -_dot("bkgiv,bkgjv->bkgij", by_residual, s.write)

    # What each token's q and k met in the state, before it is weighed by a decay.
    q_met = _dot("bkgiv,bkghv->bkgih", by_out, state)
    k_met = -_dot("bkgiv,bkghv->bkgih", by_v, state)
    k_left = _dot("bkgiv,bkghv->bkgih", s.write, by_after)

    by_beta = jnp.sum(by_residual * (x.v - from_start * s.seen), -1)
    by_beta += jnp.sum(by_lower * s.keys * s.strict, -1)
    by_from_start = jnp.sum(x.q[:, :, None] * q_met + x.k[:, :, None] * k_met, -1)
    by_from_start = by_from_start.at[..., -1].add(jnp.sum(state * by_after, (-2, -1)))
    by_strict = by_lower * beta * s.keys + by_scores * scores
    by_strict = by_strict.at[..., -1, :].add(jnp.sum(x.k[:, :, None] * k_left, -1))
    by_sums = by_strict * s.strict
    by_total = by_from_start * s.from_start
    by_log_decay = jnp.cumsum(by_total[..., ::-1], -1)[..., ::-1] + _pull_sums_between(by_sums)

    by_scores = jnp.sum(by_scores * decay, 2)
    by_keys = jnp.sum(by_lower * beta * s.strict, 2)
    by_q = _dot("bkij,bkjh->bkih", by_scores, x.k) + jnp.sum(from_start * q_met, 2)
    by_k = _dot("bkij,bkih->bkjh", by_scores, x.q)
    by_k += _dot("bkij,bkjh->bkih", by_keys + by_keys.swapaxes(-1, -2), x.k)
    by_k += jnp.sum(from_start * k_met + to_end * k_left, 2)
    by_state = from_start[..., -1:, :] * by_after
    by_state += _dot("bkgih,bkgiv->bkghv", q, from_start * by_out)
    by_state -= _dot("bkgih,bkgiv->bkghv", k, from_start * by_v)
    return Tokens(by_q, by_k, by_v, by_log_decay, by_beta), by_state


def _by_head(x, like):
    """q or k for every value head, so that heads are batch axes of a product with a state.

    Otherwise the state's own axes stand on both sides of the one that is summed over, and XLA
    turns it first: at 8 heads of 128 on a CPU a fifth of the time, forward and back.
    """
    return jnp.broadcast_to(x[:, :, None], (*like.shape[:3], *x.shape[2:]))


def _with_diagonal(strict):
    """A token keeps all of its own write, whatever rounding leaves of G_i - G_i."""
    return strict + jnp.eye(strict.shape[-1], dtype=strict.dtype)


def _sums_between(x):
    """out[..., i, j] = x_(j+1) + ... + x_i: every sum for itself, as one matrix product.

    As differences of cumulative sums, which reach -1280 at a decay of e^-20 a token, they would
    be wrong by 1e-4; and the gradient by a strong decay would drown in the rounding of others.
    """
    upto = jnp.tril(jnp.broadcast_to(x[..., None, :], (*x.shape, x.shape[-1])))
    return jnp.matmul(upto, _after(x), precision=jax.lax.Precision.HIGHEST)


def _pull_sums_between(by_sums):
    """The gradient by x_m: all sums that hold it, those from j < m to i >= m."""
    after = _after(by_sums)
    by_upto = jnp.matmul(by_sums, after.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(jnp.tril(by_upto), -2)


def _after(x):
    """[C, C], 1 where the row's token comes after the column's."""
    return jnp.tril(jnp.ones((x.shape[-1],) * 2, x.dtype), -1)
