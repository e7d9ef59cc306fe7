"""Rows sorted by group, each multiplied by its group's matrix."""

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.typing import Array, Float, Int


def grouped_matmul(
    x: Float[Array, "rows D"],
    w: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],  # noqa: F821
    implementation: str | None = None,
) -> Float[Array, "rows F"]:
    """out[r] = x[r] @ w[e] where e is r's group; rows past the last group give zero.

    Args:
      group_sizes: rows of each group, in order; their sum may be less than `rows`.
      implementation: "dense" (the definition), "blocks", "ragged", "tokamax", or None.
    """
    ends = jnp.cumsum(group_sizes)
    rows = jnp.arange(x.shape[0])
    group = jnp.searchsorted(ends, rows, side="right")
    if implementation == "ragged":
        x = jnp.where((rows < ends[-1])[:, None], x, 0)
        out = jax.lax.ragged_dot(x, w, group_sizes, preferred_element_type=jnp.float32)
        return jnp.where((rows < ends[-1])[:, None], out, 0).astype(x.dtype)
    if implementation in (None, "dense", "blocks"):
        chosen = group[:, None] == jnp.arange(w.shape[0])
        out = jnp.einsum("rd,edf->erf", x, w, preferred_element_type=jnp.float32)
        return jnp.einsum("erf,re->rf", out, chosen.astype(out.dtype)).astype(x.dtype)
    raise UserError(f"implementation is {implementation!r}")
