"""The gated delta rule over a pair of kernels, whatever they run on: layout, and gradients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from omnijax.ops.gated_delta_rule.pallas_mesh import ROWS, STEP, TOKENS, on_each_device
from omnijax.ops.segments import fill_segments


class Kernels(NamedTuple):
    """What a device brings; ``options`` goes to both: the chunk size first, `interpret` last.

    forward: (options, inputs, state, keep_states=) -> (out, state after[, the states before the
    chunks]). backward: (options, inputs, states, by_out, by_after) -> gradients by q and k of each
    value head, v, log_decay, beta and the state before.
    """

    forward: Callable
    backward: Callable
    options: tuple[Any, ...]


def rule(kernels, q, k, v, log_decay, beta, segment_ids, state):
    """(out [B, T, N, Hv] in v's dtype, state after [B, N, H, Hv]); arguments as naive's."""
    args, axes = (q, k, v, log_decay, beta, state), (*(TOKENS,) * 5, STEP)
    if segment_ids is not None:
        args, axes = (*args, segment_ids), (*axes, ROWS)

    def run(q, k, v, log_decay, beta, state, segment_ids=None):
        return _rule(kernels, q, k, v, log_decay, beta, segment_ids, state)

    return on_each_device(run, args, axes, (TOKENS, STEP), kernels.options[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rule(kernels, q, k, v, log_decay, beta, segment_ids, state):
    inputs, unload = load(kernels.options[0], (q, k, v, log_decay, beta), segment_ids)
    out, after = kernels.forward(kernels.options, inputs, state, keep_states=False)
    return unload(out).astype(v.dtype), after


def _rule_forward(kernels, q, k, v, log_decay, beta, segment_ids, state):
    result = _rule(kernels, q, k, v, log_decay, beta, segment_ids, state)
    return result, (q, k, v, log_decay, beta, segment_ids, state)


def _rule_backward(kernels, residuals, grads):
    *inputs, segment_ids, state = residuals
    options = kernels.options
    by_out, by_after = grads
    loaded, _ = load(options[0], inputs, segment_ids)
    by_out, _ = load(options[0], (*inputs[:2], by_out, *inputs[3:]), segment_ids)
    _, _, states = kernels.forward(options, loaded, state, keep_states=True)
    *by_inputs, by_state = kernels.backward(options, loaded, states, by_out[2], by_after)
    _, pull_load = jax.vjp(lambda *xs: load(options[0], xs, segment_ids)[0][:5], *inputs)
    key_heads = inputs[1].shape[2]
    by_q, by_k = (  # summed over the value heads of a key head
        x.reshape(x.shape[0], key_heads, -1, *x.shape[2:]).sum(2).astype(like.dtype)
        for x, like in zip(by_inputs[:2], loaded, strict=False)
    )
    return *pull_load((by_q, by_k, *by_inputs[2:])), None, by_state


_rule.defvjp(_rule_forward, _rule_backward)


def load(chunk, inputs, segment_ids):
    """q, k [B, K, T, H], v [B, N, T, Hv], two vectors [B, N, chunks, 1, C] and the documents.

    T is padded to whole chunks, padding is zero; also the function that takes v's shape back.
    """
    batch, length = inputs[2].shape[:2]
    padding = -length % chunk
    began = jnp.zeros((batch, length), bool)
    if segment_ids is not None:
        valid = segment_ids != 0
        inputs = [
            jnp.where(valid.reshape(*valid.shape, *(1,) * (x.ndim - 2)), x, 0) for x in inputs
        ]
        ids = fill_segments(segment_ids)
        began = jnp.diff(ids, axis=1, prepend=ids[:, :1]) != 0
    document = jnp.cumsum(_pad(began, padding).reshape(batch, -1, 1, chunk), -1)

    def heads_first(x):
        x = _pad(x, padding).swapaxes(1, 2)
        vector = x.ndim == 3
        return x.reshape(*x.shape[:2], -1, 1, chunk).astype(jnp.float32) if vector else x

    def unload(out):
        return out.swapaxes(1, 2)[:, :length]

    return (*(heads_first(x) for x in inputs), document.astype(jnp.float32)), unload


def _pad(x, padding):
    return jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
