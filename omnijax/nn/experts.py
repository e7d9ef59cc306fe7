"""Running each token through its chosen experts, in the form that is fast where it runs."""

import jax
import jax.numpy as jnp

from omnijax import ops
from omnijax.errors import UserError
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int

IMPLEMENTATIONS = (None, "all", "dense", "blocks", "ragged", "tokamax")


def run_experts(
    x: Float[Array, "B T D"],
    weights: Float[Array, "B T k"],
    chosen: Int[Array, "B T k"],
    experts: tuple[Float[Array, "E D F"], Float[Array, "E D F"], Float[Array, "E F D"]],
    implementation: str | None = None,
) -> Float[Array, "B T D"]:
    """sum_j weights_j W_down (silu(W_gate x) * W_up x) with the matrices of expert chosen_j.

    ``implementation``: "all" runs every expert on every token as three large products (best while
    there are few experts); any other name sorts tokens by expert and is handed to
    ``ops.grouped_matmul``. None: "all" up to 16 experts.
    """
    if implementation not in IMPLEMENTATIONS:
        raise UserError(
            f"moe_implementation is {implementation!r}, it must be one of {IMPLEMENTATIONS}"
        )
    if implementation == "all" or (implementation is None and experts[0].shape[0] <= 16):
        return _all(x, weights, chosen, experts)
    return _sorted(x, weights, chosen, experts, implementation)


def _all(x, weights, chosen, experts):
    gate, up, down = experts
    share = jnp.sum(jax.nn.one_hot(chosen, gate.shape[0]) * weights[..., None], axis=-2)
    h = jax.nn.silu(jnp.einsum("btd,edf->btef", x, gate)) * jnp.einsum("btd,edf->btef", x, up)
    h = h * share[..., None].astype(h.dtype)
    h = shard(h, "batch", "time", "experts", "ffn")
    return jnp.einsum("btef,efd->btd", h, down)


def _sorted(x, weights, chosen, experts, implementation):
    gate, up, down = experts
    k, width = chosen.shape[-1], x.shape[-1]
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    inverse = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    sizes = jnp.bincount(flat, length=gate.shape[0]).astype(jnp.int32)
    rows = _permute(jnp.repeat(x.reshape(-1, width), k, axis=0), order, inverse)
    multiply = lambda x, w: ops.grouped_matmul(x, w, sizes, implementation)  # noqa: E731
    h = multiply(jax.nn.silu(multiply(rows, gate)) * multiply(rows, up), down)
    h = _permute(h, inverse, order).reshape(*chosen.shape, width)
    return jnp.einsum("btkd,btk->btd", h, weights.astype(h.dtype))


@jax.custom_vjp
def _permute(x, order, inverse):
    """x[order] for a permutation: its transpose is a gather too, where XLA would scatter."""
    return x[order]


def _permute_forward(x, order, inverse):
    return x[order], (order, inverse)


def _permute_backward(residuals, gradient):
    _, inverse = residuals
    return gradient[inverse], None, None


_permute.defvjp(_permute_forward, _permute_backward)
