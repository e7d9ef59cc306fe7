"""Rows sorted by group, each multiplied by its group's matrix; no row is dropped."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.typing import Array, Float, Int

IMPLEMENTATIONS = ("dense", "blocks", "ragged", "tokamax")


@functools.partial(jax.jit, static_argnames="implementation")
def grouped_matmul(
    x: Float[Array, "rows D"],
    w: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    implementation: str | None = None,
) -> Float[Array, "rows F"]:
    """out[r] = x[r] @ w[e] where e is r's group; rows past the last group give zero.

    Args:
      group_sizes: rows of each group, in order; their sum may be less than `rows`.
      implementation: "dense" multiplies every row by every matrix and selects: the definition.
        "blocks" walks over the groups in blocks of 16 to 64 rows: the default on CPU.
        "ragged" is `jax.lax.ragged_dot`, which is only fast on TPU: the default there. "tokamax"
        is that library's kernel. On GPU the default is tokamax where installed, else ragged.
    """
    implementation = implementation or default_implementation()
    with jax.named_scope("grouped_matmul"):
        if implementation == "blocks":
            block = block_rows(x.shape[0], w.shape[0])
            return map_groups(_matmul, x, (w,), group_sizes, block)
        rows = jnp.arange(x.shape[0])
        valid = (rows < jnp.sum(group_sizes))[:, None]
        x = jnp.where(valid, x, 0)
        if implementation == "dense":
            group = jnp.searchsorted(jnp.cumsum(group_sizes), rows, side="right")
            chosen = (group[:, None] == jnp.arange(w.shape[0])).astype(jnp.float32)
            out = jnp.einsum("rd,edf->erf", x, w, preferred_element_type=jnp.float32)
            out = jnp.einsum("erf,re->rf", out, chosen)
        elif implementation == "ragged":
            out = jax.lax.ragged_dot(x, w, group_sizes, preferred_element_type=jnp.float32)
        elif implementation == "tokamax":
            import tokamax  # optional: kernels for GPU and TPU

            out = tokamax.ragged_dot(x, w, group_sizes)
        else:
            raise UserError(
                f"implementation is {implementation!r}; it can be None or one of {IMPLEMENTATIONS}"
            )
        return jnp.where(valid, out, 0).astype(x.dtype)


def default_implementation() -> str:
    """The form for the backend at hand."""
    backend = jax.default_backend()
    if backend == "cpu":
        return "blocks"
    if backend == "gpu":
        try:
            import tokamax  # noqa: F401
        except ImportError:
            return "ragged"
        return "tokamax"
    return "ragged"


def block_rows(rows: int, groups: int) -> int:
    """Rows a block: as many as a group has on average, between 16 and 64."""
    share = rows / max(groups, 1)
    return 16 if share <= 16 else 32 if share <= 64 else 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def map_groups(
    function: Callable,
    x: Float[Array, "rows D"],
    weights: tuple,
    group_sizes: Int[Array, "E"],
    block: int,
) -> Float[Array, "rows F"]:
    """function(x[r], *(w[e] for w in weights)) for every row r, e its group, block by block.

    `function` maps [block, D] row by row. Each weight is sliced where it is used, never gathered
    for all blocks; the last block of a group runs into the next one, whose own blocks then
    overwrite what it left there. The backward pass recomputes inside each block.
    """
    return _forward(function, x, weights, group_sizes, block)[0]


def _forward(function, x, weights, group_sizes, block):
    rows = x.shape[0]
    group, first, count = _layout(group_sizes, rows, block)
    padded = jnp.pad(x, ((0, block), (0, 0)))
    at = lambda w, i: jax.lax.dynamic_index_in_dim(w, group[i], keepdims=False)  # noqa: E731
    shape = jax.eval_shape(function, padded[:block], *(w[0] for w in weights))

    def body(i, out):
        y = function(_rows(padded, first[i], block), *(at(w, i) for w in weights))
        return jax.lax.dynamic_update_slice_in_dim(out, y, first[i], 0)

    out = jnp.zeros((rows + block, shape.shape[1]), shape.dtype)
    out = jax.lax.fori_loop(0, count, body, out)[:rows]
    valid = (jnp.arange(rows) < jnp.sum(group_sizes))[:, None]
    return jnp.where(valid, out, 0), (x, weights, group_sizes)


def _backward(function, block, residuals, grad):
    x, weights, group_sizes = residuals
    rows = x.shape[0]
    group, first, count = _layout(group_sizes, rows, block)
    end = jnp.cumsum(group_sizes)[group]
    valid = (jnp.arange(rows) < jnp.sum(group_sizes))[:, None]
    x = jnp.where(valid, x, 0)
    x, grad = (jnp.pad(a, ((0, block), (0, 0))) for a in (x, grad))
    at = lambda w, i: jax.lax.dynamic_index_in_dim(w, group[i], keepdims=False)  # noqa: E731

    def body(i, carry):
        dx, dw = carry
        own = (first[i] + jnp.arange(block) < end[i])[:, None]
        dy = jnp.where(own, _rows(grad, first[i], block), 0)
        weight = tuple(at(w, i) for w in weights)
        _, pull = jax.vjp(function, _rows(x, first[i], block), *weight)
        dx_block, *dw_block = pull(dy)
        dx = jax.lax.dynamic_update_slice_in_dim(dx, dx_block, first[i], 0)
        return dx, tuple(d.at[group[i]].add(b) for d, b in zip(dw, dw_block, strict=True))

    # Sums over blocks in float32, whatever the weights are.
    sums = tuple(jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32)) for w in weights)
    dx, dw = jax.lax.fori_loop(0, count, body, (jnp.zeros_like(x), sums))
    dw = tuple(d.astype(w.dtype) for d, w in zip(dw, weights, strict=True))
    return jnp.where(valid, dx[:rows], 0), dw, None


map_groups.defvjp(_forward, _backward)


def _layout(group_sizes, rows, block):
    """(group of each block, its first row, number of blocks): as many as could ever be needed."""
    groups = group_sizes.shape[0]
    blocks = -(-group_sizes // block)
    ends = jnp.cumsum(blocks)
    index = jnp.arange(-(-rows // block) + groups)
    group = jnp.minimum(jnp.searchsorted(ends, index, side="right"), groups - 1)
    starts = jnp.cumsum(group_sizes) - group_sizes
    return group, starts[group] + (index - (ends - blocks)[group]) * block, ends[-1]


def _rows(x, start, block):
    return jax.lax.dynamic_slice_in_dim(x, start, block)


def _matmul(x, w):
    return jnp.matmul(x, w, preferred_element_type=jnp.float32).astype(x.dtype)
