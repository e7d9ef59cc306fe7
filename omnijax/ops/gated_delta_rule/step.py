"""One token of the gated delta rule."""

import logging

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.ops.gated_delta_rule.pallas_tpu import pallas_step, unsupported
from omnijax.typing import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST
log = logging.getLogger(__name__)


def gated_delta_step(
    q: Float[Array, "B K H"],
    k: Float[Array, "B K H"],
    v: Float[Array, "B N Hv"],
    log_decay: Float[Array, "B N"],
    beta: Float[Array, "B N"],
    state: Float[Array, "B N H Hv"],
    *,
    implementation: str | None = None,
) -> tuple[Float[Array, "B N Hv"], Float[Array, "B N H Hv"]]:
    """S <- e^g S;  S <- S + k (x) beta (v - S^T k);  o = S^T q, in the state's dtype.

    Value head n reads key head n // (N // K). Returns the output (v's dtype) and the new state.
    implementation: "einsum" (None too) or "pallas", a TPU kernel that writes the state in place if
    it is donated, without gradients, and under `jax.set_mesh` on each device's own rows and heads;
    where it cannot run, "einsum" does and the log says why.
    """
    batch, heads = v.shape[:2]
    if heads % k.shape[1]:
        raise UserError(f"v has {heads} heads, which must be a multiple of k's {k.shape[1]}")
    if state.dtype not in (jnp.float32, jnp.float64):
        raise UserError(f"state is {state.dtype}, which loses it over many steps; give float32")
    if implementation not in (None, "einsum", "pallas"):
        raise UserError(f"implementation is {implementation!r}; it can be None, 'einsum', 'pallas'")
    if implementation == "pallas":
        reason = unsupported(q, v, state)
        if reason is None:
            return pallas_step(q, k, v, log_decay, beta, state)
        log.warning("gated_delta_step: einsum runs instead of the kernel: %s", reason)
    groups = heads // k.shape[1]
    dtype = state.dtype
    split = (batch, k.shape[1], groups)
    old = state.reshape(*split, *state.shape[2:])
    q_, k_, v_ = q.astype(dtype), k.astype(dtype), v.reshape(*split, -1).astype(dtype)
    decay = jnp.exp(log_decay.astype(dtype)).reshape(*split, 1)
    beta = beta.reshape(*split, 1).astype(dtype)
    # The state is read once for k and q, before it is written: S'^T q = e^g S^T q + (k.q) write.
    # As a matrix product: a multiply and a sum are 20 times slower on a CPU.
    # Every head gets its own k and q, so that the state need not be turned.
    reads = jnp.broadcast_to(jnp.stack([k_, q_], 2)[:, :, None], (*split, 2, k.shape[2]))
    seen = jnp.einsum("bkgri,bkgij->bkgrj", reads, old, precision=HIGHEST)
    seen, out = jnp.moveaxis(decay[..., None] * seen, 3, 0)
    write = beta * (v_ - seen)
    out = out + jnp.sum(k_ * q_, axis=-1)[:, :, None, None] * write
    state = decay[..., None] * old + k_[:, :, None, :, None] * write[..., None, :]
    return out.reshape(v.shape).astype(v.dtype), state.reshape(batch, heads, *state.shape[3:])
