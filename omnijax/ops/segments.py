"""Documents packed in a row: ids grow along the row, 0 is padding."""

import jax
import jax.numpy as jnp

from omnijax.typing import Array, Int


def fill_segments(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Gives padding the id of the document before it, and leading padding that of the first.

    So two neighbours differ exactly where a document starts whose row held another one before,
    and whatever state enters the row belongs to its first document.
    """
    filled = jax.lax.cummax(segment_ids, axis=1)
    first = jnp.min(jnp.where(segment_ids > 0, segment_ids, jnp.iinfo(segment_ids.dtype).max), 1)
    return jnp.where(filled > 0, filled, first[:, None])
