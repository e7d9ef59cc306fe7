"""Inverse of a unit lower triangular matrix by blocked forward substitution."""

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
BLOCK = 16


@jax.custom_jvp
def unit_lower_inverse(lower):
    """(I + lower)^-1 for strictly lower triangular [..., C, C], C a multiple of 16.

    Substitution in blocks of 16, then merged in pairs. Neumann series and Newton iterations are
    as exact on random keys and lose every digit on repeated ones.
    """
    size = lower.shape[-1]
    blocks = size // BLOCK
    tiled = lower.reshape(*lower.shape[:-2], blocks, BLOCK, blocks, BLOCK)
    diagonal = jnp.stack([tiled[..., i, :, i, :] for i in range(blocks)], -3)
    rows = [jnp.broadcast_to(jnp.eye(BLOCK, dtype=lower.dtype)[0], diagonal[..., 0, :].shape)]
    for i in range(1, BLOCK):
        known = jnp.stack(rows, -2)
        row = -jnp.einsum("...j,...jk->...k", diagonal[..., i, :i], known, precision=HIGHEST)
        rows.append(row.at[..., i].set(1))
    inverse = jnp.stack(rows, -2)
    out = [[jnp.zeros_like(inverse[..., 0, :, :])] * blocks for _ in range(blocks)]
    for i in range(blocks):
        out[i][i] = inverse[..., i, :, :]
        for j in range(i):
            acc = sum(
                jnp.matmul(tiled[..., i, :, m, :], out[m][j], precision=HIGHEST)
                for m in range(j, i)
            )
            out[i][j] = -jnp.matmul(out[i][i], acc, precision=HIGHEST)
    return jnp.concatenate([jnp.concatenate(row, -1) for row in out], -2)


@unit_lower_inverse.defjvp
def _jvp(primals, tangents):
    inverse = unit_lower_inverse(*primals)
    (tangent,) = tangents
    middle = jnp.matmul(tangent, inverse, precision=HIGHEST)
    return inverse, -jnp.matmul(inverse, middle, precision=HIGHEST)
