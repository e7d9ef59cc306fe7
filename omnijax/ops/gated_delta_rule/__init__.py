"""The gated delta rule: one seam over its definition and its fast forms."""

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.ops.gated_delta_rule.chunked import chunked
from omnijax.ops.gated_delta_rule.naive import naive
from omnijax.ops.gated_delta_rule.step import gated_delta_step
from omnijax.typing import Array, Float, Int

__all__ = ["gated_delta_rule", "gated_delta_step"]


def gated_delta_rule(
    q: Float[Array, "B T K H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T N Hv"],
    log_decay: Float[Array, "B T N"],
    beta: Float[Array, "B T N"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    initial_state: Float[Array, "B N H Hv"] | None = None,
    chunk_size: int = 64,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N H Hv"]]:
    """The recurrence of Gated DeltaNet (arXiv 2412.06464, equation 10), bare.

        S_t = e^(g_t) S_(t-1) + k_t (x) beta_t (v_t - e^(g_t) S_(t-1)^T k_t)        o_t = S_t^T q_t

    q and k arrive normalised and scaled; value head n reads key head n // (N // K). Everything
    inside is float32 (float64 if an input is), since a bfloat16 state drifts; the output has v's
    dtype, the state stays float32.

    Args:
      log_decay: g, at most 0.
      segment_ids: documents packed in a row, ids growing along it. 0 is padding, anywhere: its
        output is zero and the state passes it unchanged. Each document starts from a zero state,
        but the row's first one, which starts from `initial_state`.
      initial_state: the state of the row's first document before its first token here; so a
        document goes on where the last call left it.
      chunk_size: tokens a chunk of the chunked form: 16, 32, 64 ... T may be any length.
      implementation: "naive" (the definition), "chunked", or None for the fastest here.

    Returns:
      The outputs, and the state after each row's last valid token.
    """
    state = _check(q, k, v, log_decay, beta, segment_ids, initial_state, chunk_size)
    implementation = implementation or "chunked"
    with jax.named_scope("gated_delta_rule"):
        if implementation == "naive":
            return naive(q, k, v, log_decay, beta, segment_ids, state)
        if implementation == "chunked":
            return chunked(q, k, v, log_decay, beta, segment_ids, state, chunk_size)
    raise UserError(f"implementation is {implementation!r}; it can be None, 'naive' or 'chunked'")


def _check(q, k, v, log_decay, beta, segment_ids, initial_state, chunk_size):
    """Raises `UserError` naming the argument at fault; returns the state to start from."""
    batch, length, heads, value_dim = v.shape
    if k.shape != q.shape or k.shape[:2] != (batch, length):
        raise UserError(
            f"q {q.shape}, k {k.shape}, v {v.shape}: q and k must be alike, on v's B, T"
        )
    if heads % k.shape[2]:
        raise UserError(f"v has {heads} heads, which must be a multiple of k's {k.shape[2]}")
    for name, x in (("log_decay", log_decay), ("beta", beta)):
        if x.shape != (batch, length, heads):
            raise UserError(f"{name} has shape {x.shape}, it must be {(batch, length, heads)}")
    if length < 1:
        raise UserError("T is 0: the gated delta rule needs at least one token")
    if chunk_size < 16 or chunk_size & (chunk_size - 1):
        raise UserError(f"chunk_size is {chunk_size}; it must be a power of two, at least 16")
    dtype = jnp.promote_types(jnp.result_type(q, k, v, log_decay, beta), jnp.float32)
    shape = (batch, heads, k.shape[3], value_dim)
    if initial_state is None:
        initial_state = jnp.zeros(shape, dtype)
    if initial_state.shape != shape:
        raise UserError(f"initial_state has shape {initial_state.shape}, it must be {shape}")
    if jnp.finfo(initial_state.dtype).bits < 32:
        raise UserError(
            f"initial_state is {initial_state.dtype}, which loses the state over long inputs; "
            "it must be float32"
        )
    if segment_ids is not None:
        if segment_ids.shape != (batch, length):
            raise UserError(
                f"segment_ids has shape {segment_ids.shape}, it must be {(batch, length)}"
            )
        if _known(segment_ids):
            ids = np.asarray(segment_ids)
            if (ids < 0).any() or (ids < np.maximum.accumulate(ids, 1) * (ids > 0)).any():
                raise UserError("segment_ids decrease along a row; they must grow, 0 for padding")
    if _known(log_decay) and (np.asarray(log_decay) > 0).any():
        raise UserError(f"log_decay reaches {np.max(np.asarray(log_decay))}; it must be at most 0")
    return initial_state.astype(dtype)


def _known(x) -> bool:
    """Whether the values can be looked at: not while tracing."""
    return not isinstance(x, jax.core.Tracer)
