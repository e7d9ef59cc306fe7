"""Gated DeltaNet (Qwen3_5MoeGatedDeltaNet; arXiv 2412.06464)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax import ops
from omnijax.nn.cache import GDNCache, Step
from omnijax.nn.config import DecoderConfig
from omnijax.nn.linear import Einsum
from omnijax.nn.norm import GatedRMSNorm, l2_norm
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int


def decay_init(key, shape, dtype=jnp.float32):
    """A uniform in [1, 16], as its logarithm (Mamba 2)."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1.0, 16.0)).astype(dtype)


def time_step_init(key, shape, dtype=jnp.float32):
    """softplus(bias) log-uniform in [0.001, 0.1] (Mamba 2)."""
    low, high = math.log(0.001), math.log(0.1)
    step = jnp.exp(jax.random.uniform(key, shape, jnp.float32, low, high))
    return (step + jnp.log(-jnp.expm1(-step))).astype(dtype)


def gates(
    a: Float[Array, "B T N"],
    b: Float[Array, "B T N"],
    a_log: Float[Array, "N"],  # noqa: F821
    dt_bias: Float[Array, "N"],  # noqa: F821
) -> tuple[Float[Array, "B T N"], Float[Array, "B T N"]]:
    """(log decay, beta) of each token and head."""
    return -jnp.exp(a_log) * jax.nn.softplus(a + dt_bias), jax.nn.sigmoid(b)


class GatedDeltaNet(nn.Module):
    """Convolved, normed q and k; the gated delta rule; a gated norm; the output projection."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        segment_ids: Int[Array, "B T"],
        cache: GDNCache | None = None,
        step: Step | None = None,
        period: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], GDNCache | None]:
        """The cache comes stacked over periods, and goes back with this period's state written."""
        c = self.config
        types = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        keys = (c.gdn_key_heads, c.gdn_key_dim)
        values = (c.gdn_value_heads, c.gdn_value_dim)
        x = jnp.where((segment_ids > 0)[..., None], x, 0)
        old = None
        if cache is not None:
            fresh = step.fresh.astype(bool)
            old = GDNCache(*(_start(leaf[period], fresh) for leaf in cache))

        def convolved(name: str, heads: tuple[int, int], state):
            h = Einsum("btd,dnh->btnh", (c.width, *heads), **types, name=name)(x)
            h = shard(h, "batch", "time", "heads", "head_dim")
            flat = h.reshape(*h.shape[:2], math.prod(heads))
            init = nn.initializers.uniform(2 * c.conv_width**-0.5)  # torch's Conv1d, recentred
            weight = self.param(
                f"conv_{name}",
                lambda *args: init(*args) - c.conv_width**-0.5,
                (c.conv_width, *heads),
                c.param_dtype,
            )
            flat, state = ops.causal_conv(
                flat,
                weight.reshape(c.conv_width, -1).astype(flat.dtype),
                segment_ids=segment_ids,
                state=state,
            )
            return jax.nn.silu(flat).reshape(h.shape), state

        q, conv_q = convolved("q", keys, old and old.conv_q)
        k, conv_k = convolved("k", keys, old and old.conv_k)
        v, conv_v = convolved("v", values, old and old.conv_v)
        q, k = l2_norm(q) * c.gdn_key_dim**-0.5, l2_norm(k)

        per_head = (c.width, c.gdn_value_heads)
        a = Einsum("btd,dn->btn", per_head, **types, name="a")(x).astype(jnp.float32)
        b = Einsum("btd,dn->btn", per_head, **types, name="b")(x).astype(jnp.float32)
        a_log = self.param("A_log", decay_init, (c.gdn_value_heads,), jnp.float32)
        dt_bias = self.param("dt_bias", time_step_init, (c.gdn_value_heads,), jnp.float32)
        log_decay, beta = gates(a, b, a_log, dt_bias)

        if cache is not None and x.shape[1] == 1:
            valid = segment_ids[:, 0] > 0
            y, state = ops.gated_delta_step(
                *(z[:, 0] for z in (q, k, v, log_decay, beta)),
                old.state,
                implementation="pallas" if c.gdn_implementation == "pallas" else None,
            )
            y, state = y[:, None], jnp.where(valid[:, None, None, None], state, old.state)
        else:
            y, state = ops.gated_delta_rule(
                q,
                k,
                v,
                log_decay,
                beta,
                segment_ids=segment_ids,
                initial_state=old and old.state,
                chunk_size=c.gdn_chunk,
                implementation=c.gdn_implementation,
            )
        if cache is not None:
            new = GDNCache(state, conv_q, conv_k, conv_v)
            cache = jax.tree.map(lambda all, one: all.at[period].set(one), cache, new)

        z = Einsum("btd,dnh->btnh", (c.width, *values), **types, name="z")(x)
        y = GatedRMSNorm(eps=c.norm_eps, **types, name="norm")(y, z)
        out = Einsum(
            "btnh,nhd->btd",
            (*values, c.width),
            **types,
            scale=(2 * c.layers) ** -0.5,
            name="out",
        )
        return shard(out(y), "batch", "time", "width"), cache


def _start(state, fresh):
    """The state that a chunk starts from: zero for rows that begin a new document."""
    return jnp.where(fresh.reshape(-1, *(1,) * (state.ndim - 1)), 0, state)
