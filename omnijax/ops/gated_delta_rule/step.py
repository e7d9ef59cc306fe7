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
    it is donated, without gradients; where it cannot run, "einsum" does and the log says why.
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
    state = state.reshape(*split, *state.shape[2:])
    q_, k_, v_ = q.astype(dtype), k.astype(dtype), v.reshape(*split, -1).astype(dtype)
    decay = jnp.exp(log_decay.astype(dtype)).reshape(split)
    beta = beta.reshape(split).astype(dtype)
    # Mat-vecs as einsum: a multiply and a sum are 20 times slower on a CPU.
    state = state * decay[..., None, None]
    seen = jnp.einsum("bkgij,bki->bkgj", state, k_, precision=HIGHEST)
    write = beta[..., None] * (v_ - seen)
    state = state + k_[:, :, None, :, None] * write[..., None, :]
    out = jnp.einsum("bkgij,bki->bkgj", state, q_, precision=HIGHEST)
    return out.reshape(v.shape).astype(v.dtype), state.reshape(batch, heads, *state.shape[3:])
