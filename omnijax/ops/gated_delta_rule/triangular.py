"""Inverse of a unit lower triangular matrix by blocked forward substitution."""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
BLOCK = 16


def unit_lower_inverse(lower):
    """(I + lower)^-1 for strictly lower triangular [..., C, C], C = 16, 32, 64, ...

    Substitution in blocks of 16, then merged in pairs. Neumann series and Newton iterations are
    as exact on random keys and lose every digit on repeated ones. On a CPU the loop over the rows
    of a block runs as fast as the 15 rows written out and compiles four times faster.
    """
    diagonal = _diagonal(lower, BLOCK, 0, 1)
    eye = jnp.eye(BLOCK, dtype=lower.dtype)

    def solve_row(i, inverse):
        known = jnp.einsum("...j,...jk->...k", diagonal[..., i, :], inverse, precision=HIGHEST)
        return inverse.at[..., i, :].set(eye[i] - known)

    inverse = jax.lax.fori_loop(0, BLOCK, solve_row, jnp.zeros_like(diagonal))
    while inverse.shape[-3] > 1:
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = _diagonal(lower, inverse.shape[-1], 1, 2)
        below = jnp.matmul(second, jnp.matmul(below, first, precision=HIGHEST), precision=HIGHEST)
        top = jnp.concatenate([first, jnp.zeros_like(first)], -1)
        inverse = jnp.concatenate([top, jnp.concatenate([-below, second], -1)], -2)
    return inverse[..., 0, :, :]


def _diagonal(x, size, below, step):
    """The blocks [..., n, size, size] of x, every `step`-th, that many `below` the diagonal."""
    blocks = x.shape[-1] // size
    tiled = x.reshape(*x.shape[:-2], blocks, size, blocks, size)
    return jnp.stack([tiled[..., i + below, :, i, :] for i in range(0, blocks, step)], -3)
