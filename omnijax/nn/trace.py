"""What goes on inside a decoder: attention maps, GDN gates and states, router choices, by layer.

For looking at a model, not for running it: maps are [T, T] and GDN runs one token at a time. The
layers are the decoder's own modules, so what is seen here is what they do.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax import ops
from omnijax.nn.cache import begin_step, init_cache
from omnijax.nn.config import DecoderConfig
from omnijax.nn.decoder import Layer
from omnijax.nn.gated_delta_net import GatedDeltaNet, gates
from omnijax.nn.moe import route, router_logits
from omnijax.nn.norm import RMSNorm
from omnijax.typing import Array, Float, Int, PyTree


class LayerTrace(NamedTuple):
    """One layer, float32; None where it has no such part."""

    mixer: str
    stream: Float[Array, "B T D"]  # after the layer
    attention: Float[Array, "B N T T"] | None  # what each query takes of each key
    log_decay: Float[Array, "B T N"] | None  # of GDN's state, at each token
    beta: Float[Array, "B T N"] | None  # how far the state moves to the token's value
    state_norm: Float[Array, "B T N"] | None  # Frobenius, after each token
    router: Float[Array, "B T E"] | None  # probabilities of the experts
    chosen: Int[Array, "B T k"] | None  # the experts that run, the likeliest first


_KEPT = ("mixer_norm", "ffn_norm", "q_norm", "k_norm", "a", "b")


@functools.partial(jax.jit, static_argnums=0)
def _trace(config, params, x, positions, segment_ids, deepstack):
    c = config
    x = x.astype(c.dtype)
    angles = ops.mrope_angles(
        positions, c.rotary_dim, c.rope_theta, c.mrope_sections, c.mrope_interleaved
    )
    traces = []
    for index in range(c.layers):
        period, place = divmod(index, len(c.pattern))
        own = jax.tree.map(lambda leaf, i=period: leaf[i], params["periods"][f"layer_{place}"])
        (x, _, _), kept = Layer(c, c.pattern[place]).apply(
            {"params": own},
            x,
            angles,
            segment_ids,
            None,
            None,
            0,
            capture_intermediates=lambda module, _: module.name in _KEPT,
            mutable="intermediates",
        )
        if deepstack is not None and index < len(deepstack):
            x = x + deepstack[index].astype(x.dtype)
        traces.append(_look(c, place, own, kept["intermediates"], angles, segment_ids, x))
    norm = RMSNorm(c.norm_eps, c.norm_zero_centred, dtype=c.dtype, param_dtype=c.param_dtype)
    return norm.apply({"params": params["norm"]}, x), traces


def _look(c, place, params, kept, angles, segment_ids, stream):
    attention = log_decay = beta = norms = router = chosen = None
    if c.pattern[place] == "full":
        q, k = (kept["attention"][name]["__call__"][0] for name in ("q_norm", "k_norm"))
        q, k = ops.apply_rotary(q, angles), ops.apply_rotary(k, angles)
        # Values that are the unit vectors of the keys' places bring back the weights themselves.
        length = segment_ids.shape[1]
        places = jnp.broadcast_to(jnp.eye(length)[None, :, None], (*k.shape[:3], length))
        attention = ops.attention(
            q,
            k,
            places,
            causal=True,
            window=c.attention_window or None,
            q_segments=segment_ids,
            kv_segments=segment_ids,
        ).transpose(0, 2, 1, 3)
    else:
        a, b = (kept["gdn"][name]["__call__"][0].astype(jnp.float32) for name in ("a", "b"))
        gdn = params["gdn"]
        log_decay, beta = gates(a, b, gdn["A_log"], gdn["dt_bias"])
        norms = _state_norms(c, place, gdn, kept["mixer_norm"]["__call__"][0], segment_ids)
    if c.experts:
        logits = router_logits(kept["ffn_norm"]["__call__"][0], params["moe"]["router"])
        _, chosen, router = route(logits, c.experts_per_token)
    stream = stream.astype(jnp.float32)
    return stream, attention, log_decay, beta, norms, router, chosen


def _state_norms(c, place, params, x, segment_ids):
    one_period = dataclasses.replace(c, layers=len(c.pattern), accept_hidden_layer=None)
    cache = init_cache(one_period, x.shape[0], 1)

    def step(carry, token):
        cache, state = carry
        x, segment = (leaf[:, None] for leaf in token)
        cache, where = begin_step(cache, segment)
        _, state = GatedDeltaNet(c).apply({"params": params}, x, segment, state, where)
        return (cache, state), jnp.sqrt(jnp.square(state.state[0]).sum((-1, -2)))

    tokens = (x.swapaxes(0, 1), segment_ids.T)
    _, norms = jax.lax.scan(step, (cache, cache.layers[place]), tokens)
    return norms.swapaxes(0, 1)


def trace_decoder(
    config: DecoderConfig,
    params: PyTree,
    x: Float[Array, "B T D"],
    positions: Int[Array, "3 B T"],
    segment_ids: Int[Array, "B T"],
    *,
    deepstack: Float[Array, "K B T D"] | None = None,
) -> tuple[Float[Array, "B T D"], tuple[LayerTrace, ...]]:
    """What ``HybridDecoder(config)`` gives for the same arguments, and each layer's inside."""
    hidden, traces = _trace(config, params, x, positions, segment_ids, deepstack)
    return hidden, tuple(LayerTrace(config.mixer(i), *trace) for i, trace in enumerate(traces))
