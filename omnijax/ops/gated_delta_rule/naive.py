"""The gated delta rule as the paper writes it, one token at a time: the definition."""

import jax
import jax.numpy as jnp

from omnijax.ops.gated_delta_rule.step import gated_delta_step
from omnijax.ops.segments import fill_segments


@jax.jit
def naive(q, k, v, log_decay, beta, segment_ids, state):
    """Scans `gated_delta_step` over the row; a new document starts from a zero state."""
    ids = jnp.ones(q.shape[:2], jnp.int32) if segment_ids is None else segment_ids
    valid, filled = ids != 0, fill_segments(ids)
    new_document = jnp.diff(filled, axis=1, prepend=filled[:, :1]) != 0

    def body(state, token):
        *token, new_document, valid = token
        fresh = jnp.where(new_document[:, None, None, None], 0, state)
        out, after = gated_delta_step(*token, fresh)
        out = jnp.where(valid[:, None, None], out, 0)
        return jnp.where(valid[:, None, None, None], after, state), out

    inputs = (q, k, v, log_decay, beta, new_document, valid)
    state, out = jax.lax.scan(body, state, jax.tree.map(lambda x: x.swapaxes(0, 1), inputs))
    return out.swapaxes(0, 1), state
