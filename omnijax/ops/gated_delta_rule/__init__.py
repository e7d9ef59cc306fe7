"""The gated delta rule: one seam over its definition and its fast forms."""

import logging

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.ops.gated_delta_rule import pallas_gpu
from omnijax.ops.gated_delta_rule.chunked import chunked
from omnijax.ops.gated_delta_rule.naive import naive
from omnijax.ops.gated_delta_rule.pallas_tpu import pallas, unsupported
from omnijax.ops.gated_delta_rule.step import gated_delta_step
from omnijax.ops.gated_delta_rule.transition import Transition
from omnijax.typing import Array, Bool, Float, Int

__all__ = ["Transition", "gated_delta_rule", "gated_delta_step", "gated_delta_transition"]

IMPLEMENTATIONS = ("naive", "chunked", "pallas")
log = logging.getLogger(__name__)


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

    q and k arrive normalised and scaled; value head n reads key head n // (N // K). The inputs may
    be bfloat16, float16 or float32. Everything inside is float32 (float64 if an input is): the
    state, which would drift by 2e-2 over 4,096 tokens in bfloat16, the sums of log-decays, whose
    rounding e^x multiplies, and the triangular system, which amplifies it where keys repeat. The
    output has v's dtype, the state stays float32, each gradient has its argument's dtype.

    The backward pass keeps the inputs and, per value head and token, 4 H Hv / (8 chunk_size) bytes
    of states: 128 bytes at H = Hv = 128 and chunks of 64, a quarter of a float32 key. Forward mode
    (`jax.jvp`) is there for "naive" only.

    Args:
      log_decay: g, at most 0.
      segment_ids: documents packed in a row, ids growing along it. 0 is padding, anywhere: its
        output is zero and the state passes it unchanged. Each document starts from a zero state,
        but the row's first one, which starts from `initial_state`.
      initial_state: the state of the row's first document before its first token here; so a
        document goes on where the last call left it.
      chunk_size: tokens a chunk of the chunked form: 16, 32, 64 ... T may be any length.
      implementation: "naive" (the definition), "chunked" (None too), or "pallas": kernels for a
        TPU, at head dims that are multiples of 128 and chunks of 16 to 128, and for a GPU, at
        head dims that are powers of two, whose chunks come from a table by device kind. Elsewhere
        the chunked form runs instead, and the log says why. Under `jax.set_mesh` each device runs
        them on its own rows and heads, where the mesh divides the rows and the key heads. On no
        TPU and no GPU have they been run: they are tested in interpret mode, and compiled or
        lowered for the chips.

    Returns:
      The outputs, and the state after each row's last valid token.

    Raises:
      UserError, while tracing: shapes, dtypes or sizes that do not fit. Where the values are at
        hand, not traced: ids that decrease, a log-decay above 0.

    One head of one dim is a running sum; here half decays and half of the rest is overwritten:

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 3, 1, 1))
    >>> v = jnp.array([8.0, 4.0, 2.0]).reshape(1, 3, 1, 1)
    >>> halved = jnp.full((1, 3, 1), jnp.log(0.5))
    >>> out, state = gated_delta_rule(one, one, v, halved, jnp.full((1, 3, 1), 0.5))
    >>> [round(float(x), 4) for x in out.ravel()], round(float(state.ravel()[0]), 4)
    ([4.0, 3.0, 1.75], 1.75)
    """
    state = _check(q, k, v, log_decay, beta, segment_ids, initial_state, chunk_size)
    # In shard_map a scan's state has to vary over the axes of the mesh that its inputs vary over.
    varying, known = (jax.typeof(x).manual_axis_type.varying for x in (v, state))
    if varying - known:
        state = jax.lax.pcast(state, tuple(varying - known), to="varying")
    implementation = implementation or "chunked"
    with jax.named_scope("gated_delta_rule"):
        if implementation == "naive":
            return naive(q, k, v, log_decay, beta, segment_ids, state)
        if implementation == "pallas":
            on_gpu = jax.default_backend() == "gpu"
            if on_gpu and (reason := pallas_gpu.unsupported(q, v, state)) is None:
                sizes = pallas_gpu.blocks(jax.devices()[0].device_kind)
                return pallas_gpu.pallas(q, k, v, log_decay, beta, segment_ids, state, sizes)
            if not on_gpu and (reason := unsupported(q, v, state, chunk_size)) is None:
                return pallas(q, k, v, log_decay, beta, segment_ids, state, chunk_size)
            log.warning("gated_delta_rule: the chunked form runs instead: %s", reason)
            implementation = "chunked"
        if implementation == "chunked":
            return chunked(q, k, v, log_decay, beta, segment_ids, state, chunk_size)
    raise UserError(
        f"implementation is {implementation!r}; it can be None or one of {IMPLEMENTATIONS}"
    )


def gated_delta_transition(
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T N Hv"],
    log_decay: Float[Array, "B T N"],
    beta: Float[Array, "B T N"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    continues: Bool[Array, "B"] | None = None,  # noqa: F821
    chunk_size: int = 64,
) -> Transition:
    """The state after these tokens as an affine map of the state before them.

    The rule is linear in the state and the values together: run from the identity with zero
    values it gives the matrix, from zero with the values the bias; one run does both, side by
    side. With each shard's map, `first.then(second)` gives the state that any shard starts from:
    `gated_delta_rule(..., initial_state=)` on it then equals the whole row.

    Args:
      continues: whether the row's first document here has begun before this part. Where not, the
        matrix is zero, as no state enters. Everywhere by default.
    """
    batch, _, heads, _ = v.shape
    dtype = jnp.promote_types(jnp.result_type(k, v, log_decay, beta), jnp.float32)
    dim = k.shape[-1]
    start = jnp.broadcast_to(jnp.eye(dim, dtype=dtype), (batch, heads, dim, dim))
    if continues is not None:
        start = jnp.where(continues[:, None, None, None], start, 0)
    start = jnp.pad(start, ((0, 0),) * 3 + ((0, v.shape[-1]),))
    values = jnp.pad(v, ((0, 0),) * 3 + ((dim, 0),))
    _, after = gated_delta_rule(
        jnp.zeros_like(k), k, values, log_decay, beta,
        segment_ids=segment_ids, initial_state=start, chunk_size=chunk_size,
    )  # fmt: skip
    return Transition(after[..., :dim], after[..., dim:])


def _check(q, k, v, log_decay, beta, segment_ids, initial_state, chunk_size):
    """Raises `UserError` naming the argument at fault; returns the state to start from."""
    for name, x in (("q", q), ("k", k), ("v", v), ("log_decay", log_decay), ("beta", beta)):
        if not jnp.issubdtype(x.dtype, jnp.floating) or jnp.finfo(x.dtype).bits < 16:
            raise UserError(f"{name} is {x.dtype}; it must be bfloat16, float16 or float32")
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
    if initial_state.dtype not in (jnp.float32, jnp.float64):
        raise UserError(
            f"initial_state is {initial_state.dtype}, which loses the state over long inputs; "
            "it must be float32"
        )
    if segment_ids is not None:
        if segment_ids.shape != (batch, length):
            raise UserError(
                f"segment_ids has shape {segment_ids.shape}, it must be {(batch, length)}"
            )
        if not jnp.issubdtype(segment_ids.dtype, jnp.integer):
            raise UserError(f"segment_ids is {segment_ids.dtype}; it must be an integer type")
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
