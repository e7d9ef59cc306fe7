"""The experts of a mixture: each token through its chosen ones, and the weighted sum."""

import functools

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.ops.grouped_matmul import (
    IMPLEMENTATIONS,
    block_rows,
    default_implementation,
    grouped_matmul,
    map_groups,
)
from omnijax.typing import Array, Float, Int


@functools.partial(jax.jit, static_argnames="implementation")
def expert_ffn(
    x: Float[Array, "T D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    down: Float[Array, "E F D"],
    chosen: Int[Array, "T k"],
    weights: Float[Array, "T k"],
    implementation: str | None = None,
) -> Float[Array, "T D"]:
    """sum_i weights[t, i] * (silu(x_t gate_e) * (x_t up_e)) down_e, with e = chosen[t, i].

    An id outside 0 ... E-1 chooses nothing (padding, or an expert that another device holds).

    Args:
      implementation: "dense" runs every expert on every token: the definition. "slices" reads the
        chosen experts' matrices token by token: the default for a few tokens (T k <= E), as in
        decoding. The names of `grouped_matmul` sort the tokens by expert first.

    On two CPU cores (E 8, top-2, D 192, F 64; forward / with backward, ms): 4,096 tokens: blocks
    12 / 54, dense 32 / 121, ragged 85 / 351; one token: slices 0.07, blocks 0.22, dense 0.19.
    """
    (tokens, per_token), experts = chosen.shape, gate.shape[0]
    if implementation is None:
        few = tokens * per_token <= experts
        implementation = "slices" if few else default_implementation()
    if implementation not in ("slices", *IMPLEMENTATIONS):
        raise UserError(
            f"implementation is {implementation!r}; it can be None, 'slices' or one of "
            f"{IMPLEMENTATIONS}"
        )
    with jax.named_scope("experts"):
        present = (chosen >= 0) & (chosen < experts)
        weights = jnp.where(present, weights, 0).astype(jnp.float32)
        if implementation == "dense":
            return _dense(x, gate, up, down, chosen, weights)
        if implementation == "slices":
            return _slices(x, gate, up, down, jnp.where(present, chosen, 0), weights)
        order, rank, sizes = sort_by_expert(jnp.where(present, chosen, experts), experts)
        rows = x[order // per_token]
        if implementation == "blocks":
            block = block_rows(rows.shape[0], experts)
            rows = map_groups(_swiglu, rows, (gate, up, down), sizes, block)
        else:
            hidden = jax.nn.silu(grouped_matmul(rows, gate, sizes, implementation))
            hidden = hidden * grouped_matmul(rows, up, sizes, implementation)
            rows = grouped_matmul(hidden, down, sizes, implementation)
        rows = rows[rank].reshape(tokens, per_token, -1)
        out = jnp.einsum("tkd,tk->td", rows, weights, preferred_element_type=jnp.float32)
        return out.astype(x.dtype)


def sort_by_expert(chosen: Int[Array, "T k"], experts: int):
    """(order, rank, sizes): the assignments sorted by expert, stably; ids of `experts` come last.

    Sorted place p holds assignment order[p], assignment a is at place rank[a]; sizes [E] counts.
    """
    flat = chosen.reshape(-1)
    index = jnp.arange(flat.size, dtype=jnp.int32)
    if experts <= 32:  # counting is three times faster than sorting
        one_hot = (flat[:, None] == jnp.arange(experts + 1)).astype(jnp.int32)
        sizes = jnp.sum(one_hot, 0)
        earlier = jnp.take_along_axis(jnp.cumsum(one_hot, 0), flat[:, None], 1)[:, 0] - 1
        rank = (jnp.cumsum(sizes) - sizes)[flat] + earlier
        order = jnp.zeros_like(index).at[rank].set(index, unique_indices=True)
    else:
        order = jnp.argsort(flat, stable=True).astype(jnp.int32)
        rank = jnp.zeros_like(index).at[order].set(index, unique_indices=True)
        sizes = jnp.zeros(experts + 1, jnp.int32).at[flat].add(1)
    return order, rank, sizes[:experts]


def _swiglu(x, gate, up, down):
    dot = lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)  # noqa: E731
    hidden = jax.nn.silu(dot(x, gate)) * dot(x, up)
    return dot(hidden.astype(x.dtype), down).astype(x.dtype)


def _dense(x, gate, up, down, chosen, weights):
    picked = chosen[:, :, None] == jnp.arange(gate.shape[0])
    share = jnp.sum(jnp.where(picked, weights[:, :, None], 0), 1)
    dot = lambda w: jnp.einsum("td,edf->tef", x, w, preferred_element_type=jnp.float32)  # noqa: E731
    hidden = (jax.nn.silu(dot(gate)) * dot(up) * share[:, :, None]).astype(x.dtype)
    out = jnp.einsum("tef,efd->td", hidden, down, preferred_element_type=jnp.float32)
    return out.astype(x.dtype)


def _slices(x, gate, up, down, chosen, weights):
    def one(_, token):
        x, chosen, weights = token
        out = sum(
            weights[i] * _swiglu(x[None], *(w[chosen[i]] for w in (gate, up, down)))[0]
            for i in range(chosen.shape[0])
        )
        return None, out.astype(x.dtype)

    if x.shape[0] == 1:
        return one(None, (x[0], chosen[0], weights[0]))[1][None]
    return jax.lax.scan(one, None, (x, chosen, weights))[1]
