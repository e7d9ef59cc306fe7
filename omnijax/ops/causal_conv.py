"""Depthwise causal convolution as a sum of shifts."""

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.ops.segments import fill_segments
from omnijax.typing import Array, Bool, Float, Int


def causal_conv(
    x: Float[Array, "B T D"],
    weight: Float[Array, "taps D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    state: Float[Array, "B taps-1 D"] | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B taps-1 D"]]:
    """y_t = sum_i weight[taps-1-i] x_(t-i) within t's own document (torch's Conv1d order).

    `state` holds the inputs of the row's first document just before this call (zeros: none); the
    state returned, those of its last document up to its last valid token: what was before that
    document is zero in it. Padding (id 0) gives zero; inside a document it must come last.
    """
    (batch, length, width), taps = x.shape, weight.shape[0]
    if weight.shape != (taps, width):
        raise UserError(f"weight has shape {weight.shape}, it must be (taps, {width}) as x's D is")
    before = (batch, taps - 1, width)
    if state is not None and state.shape != before:
        raise UserError(f"state has shape {state.shape}, it must be {before}")
    if segment_ids is not None and segment_ids.shape != (batch, length):
        raise UserError(f"segment_ids has shape {segment_ids.shape}, it must be {(batch, length)}")
    if state is None:
        state = jnp.zeros(before, x.dtype)
    if segment_ids is None:
        padded = jnp.concatenate([state.astype(x.dtype), x], 1)
        return _sum_of_shifts(padded, weight, None), padded[:, length:]
    valid = segment_ids > 0
    padded = jnp.concatenate([state.astype(x.dtype), jnp.where(valid[..., None], x, 0)], 1)
    if length == 1:  # decode: the token goes on with the row's document, or is padding
        out = _sum_of_shifts(padded, weight, jnp.broadcast_to(valid, (taps, *valid.shape)))
        return out, jnp.where(valid[..., None], padded[:, 1:], padded[:, :-1])
    filled = fill_segments(segment_ids)
    ids = jnp.concatenate([jnp.repeat(filled[:, :1], taps - 1, 1), filled], 1)
    same = jnp.stack([ids[:, i : i + length] == filled for i in range(taps)])
    out = _sum_of_shifts(padded, weight, same & valid)

    end = jnp.max(jnp.where(valid, jnp.arange(1, length + 1), 0), 1)  # past the last valid token
    index = end[:, None] + jnp.arange(taps - 1)
    inside = jnp.take_along_axis(ids, index, 1) == filled[:, -1:]
    state = jnp.take_along_axis(padded, index[..., None], 1)
    return out, jnp.where(inside[..., None], state, 0)


@jax.custom_vjp
def _sum_of_shifts(
    padded: Float[Array, "B before_and_T D"],
    weight: Float[Array, "taps D"],
    masks: Bool[Array, "taps B T"] | None,
) -> Float[Array, "B T D"]:
    """sum_i masks[i] weight[i] padded[:, i : i + T], summed in float32.

    With its own backward pass, seven times faster at D 3,072, T 4,096 than what autodiff makes of
    it (212 ms of CPU time against 1,544) and no slower at the width of nano.
    """
    length = padded.shape[1] - weight.shape[0] + 1
    dtype = jnp.promote_types(padded.dtype, jnp.float32)
    shifts = (
        padded[:, i : i + length].astype(dtype) * _share(masks, i, dtype) * weight[i]
        for i in range(weight.shape[0])
    )
    return sum(shifts).astype(padded.dtype)


def _forward(padded, weight, masks):
    return _sum_of_shifts(padded, weight, masks), (padded, weight, masks)


def _backward(residuals, grad):
    padded, weight, masks = residuals
    taps, length = weight.shape[0], grad.shape[1]
    dtype = jnp.promote_types(padded.dtype, jnp.float32)
    edge = (0, 0), (taps - 1, taps - 1)
    wide = jnp.pad(grad, (*edge, (0, 0)))
    if masks is not None:
        masks = jnp.pad(masks, ((0, 0), *edge))
    by_input, by_weight = 0, []
    for i in range(taps):
        # Output t took padded[t + i]: the gradient comes back shifted by i the other way.
        here, start = slice(taps - 1, taps - 1 + length), taps - 1 - i
        back = slice(start, start + padded.shape[1])
        by_input += wide[:, back].astype(dtype) * _share(masks, i, dtype, back) * weight[i]
        taken = padded[:, i : i + length].astype(dtype) * _share(masks, i, dtype, here)
        by_weight.append(jnp.sum(taken * grad, (0, 1)))
    return by_input.astype(padded.dtype), jnp.stack(by_weight).astype(weight.dtype), None


_sum_of_shifts.defvjp(_forward, _backward)


def _share(masks, i, dtype, part=slice(None)):
    """One tap's mask as numbers: multiplied in, it is four times faster than a selection."""
    return 1 if masks is None else masks[i][:, part, None].astype(dtype)
