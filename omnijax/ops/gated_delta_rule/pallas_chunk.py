"""One chunk of one head inside a kernel: chunk.py's formulas on matrices of two dims.

All values are float32 in registers and VMEM. A vector over tokens comes as a row [1, C] and is
turned to a column where it weighs rows: Mosaic (TPU) has no transpose of such narrow arrays. The
last row is a masked sum: Triton (GPU) takes no slice of a value.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Solved(NamedTuple):
    """See chunk.Solved; vectors are columns."""

    keys: jax.Array  # [C, C]
    strict: jax.Array  # [C, C]
    decay: jax.Array  # [C, C], strict and the diagonal
    from_start: jax.Array  # [C, 1]
    beta: jax.Array  # [C, 1]
    inverse: jax.Array  # [C, C]
    seen: jax.Array  # [C, Hv]
    write: jax.Array  # [C, Hv]


def solve(k, v, log_decay, beta, document, state) -> Solved:
    """k [C, H], v [C, Hv], log_decay, beta and document [1, C], state [H, Hv].

    document: how many documents have begun since the token before the chunk; 0 is the state's.
    """
    row, col = _indices(k.shape[0])
    upto = jnp.where(row >= col, log_decay, 0.0)
    between = dot(upto, (row > col).astype(jnp.float32))
    # A cumulative sum, token by token, whose rounding no difference of two sums lays bare.
    total = jnp.sum(upto, 1, keepdims=True)
    document_column = column(document)
    from_start = jnp.where(document_column == 0, jnp.exp(total), 0.0)
    before = (row > col) & (document_column == document)
    strict = jnp.exp(jnp.where(before, between, -jnp.inf))
    keys = dot(k, k, rhs=1)
    beta = column(beta)
    inverse = unit_lower_inverse(keys * strict * beta)
    seen = dot(k, state)
    write = dot(inverse, beta * (v - from_start * seen))
    decay = jnp.where(row == col, 1.0, strict)
    return Solved(keys, strict, decay, from_start, beta, inverse, seen, write)


def outputs(q, k, s: Solved, state):
    """[C, Hv]."""
    return s.from_start * dot(q, state) + dot(dot(q, k, rhs=1) * s.decay, s.write)


def advance(k, s: Solved, state):
    """The state after the chunk, [H, Hv]."""
    to_end = column(last_row(s.decay))
    return last_row(s.from_start) * state + dot(k, to_end * s.write, lhs=0)


def pull(q, k, v, s: Solved, state, by_out, by_after):
    """Gradients by q, k, v, log_decay, beta and the state before; vectors as rows [1, C]."""
    row, col = _indices(k.shape[0])
    to_end = column(last_row(s.decay))
    scores = dot(q, k, rhs=1)
    by_write = dot(scores * s.decay, by_out, lhs=0) + to_end * dot(k, by_after)
    by_residual = dot(s.inverse, by_write, lhs=0)
    by_v = s.beta * by_residual
    by_scores = dot(by_out, s.write, rhs=1)
    by_lower = -dot(by_residual, s.write, rhs=1)
    q_met = dot(by_out, state, rhs=1)
    k_met = -dot(by_v, state, rhs=1)
    k_left = dot(s.write, by_after, rhs=1)

    by_beta = jnp.sum(by_residual * (v - s.from_start * s.seen), 1, keepdims=True)
    by_beta += jnp.sum(by_lower * s.keys * s.strict, 1, keepdims=True)
    by_from_start = jnp.sum(q * q_met + k * k_met, 1, keepdims=True)
    whole = jnp.sum(jnp.sum(state * by_after, 1, keepdims=True), 0, keepdims=True)
    is_last = jax.lax.broadcasted_iota(jnp.int32, by_beta.shape, 0) == k.shape[0] - 1
    by_from_start += jnp.where(is_last, whole, 0.0)
    by_strict = by_lower * s.beta * s.keys + by_scores * scores
    by_strict += jnp.where(is_last, row_of(jnp.sum(k * k_left, 1, keepdims=True)), 0.0)
    # A log-decay is part of every sum that ends at or after its token.
    by_total = by_from_start * s.from_start
    by_upto = dot(by_strict * s.strict, (row > col).astype(jnp.float32), rhs=1) + by_total
    by_log_decay = jnp.sum(jnp.where(row >= col, by_upto, 0.0), 0, keepdims=True)

    by_scores = by_scores * s.decay
    by_keys = by_lower * s.beta * s.strict
    by_q = dot(by_scores, k) + s.from_start * q_met
    by_k = dot(by_scores, q, lhs=0) + dot(by_keys, k) + dot(by_keys, k, lhs=0)
    by_k += s.from_start * k_met + to_end * k_left
    by_state = last_row(s.from_start) * by_after + dot(q, s.from_start * by_out, lhs=0)
    by_state -= dot(k, s.from_start * by_v, lhs=0)
    return by_q, by_k, by_v, by_log_decay, row_of(by_beta), by_state


def unit_lower_inverse(lower):
    """(I + lower)^-1 by merging blocks of 1, 2, 4 ...: X <- X - X S X.

    S is what stands below the diagonal in each pair of blocks that X holds the inverses of, so
    every round is block substitution, exact where keys repeat; no power of `lower` is formed.
    """
    row, col = _indices(lower.shape[0])
    apart = row ^ col  # its highest bit is the size of the blocks that part row and col
    inverse = jnp.where(row == col, 1.0, 0.0) - jnp.where(apart == 1, lower, 0.0)
    size = 2
    while size < lower.shape[0]:
        below = jnp.where((apart >= size) & (apart < 2 * size), lower, 0.0)
        inverse = inverse - dot(inverse, dot(below, inverse))
        size *= 2
    return inverse


def dot(a, b, *, lhs=1, rhs=0):
    """The product in full float32, summed over dim `lhs` of a and dim `rhs` of b."""
    return jax.lax.dot_general(
        a, b, (((lhs,), (rhs,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip


def column(row_vector):
    """[1, n] -> [n, 1]."""
    row, col = _indices(row_vector.shape[1])
    return jnp.sum(jnp.where(row == col, row_vector, 0.0), 1, keepdims=True)


def last_row(x):
    """[C, n] -> [1, n]."""
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.sum(jnp.where(row == x.shape[0] - 1, x, 0.0), 0, keepdims=True)


def row_of(column_vector):
    """[n, 1] -> [1, n]."""
    row, col = _indices(column_vector.shape[0])
    return jnp.sum(jnp.where(row == col, column_vector, 0.0), 0, keepdims=True)


def _indices(size):
    shape = (size, size)
    return jax.lax.broadcasted_iota(jnp.int32, shape, 0), jax.lax.broadcasted_iota(
        jnp.int32, shape, 1
    )
