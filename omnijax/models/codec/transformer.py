"""The windowed causal transformer of both halves of the codec.

Released classes: `Qwen3OmniMoeCode2WavTransformerModel`, `MimiTransformerModel`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.codec.config import TransformerConfig
from omnijax.nn.linear import Einsum
from omnijax.nn.norm import RMSNorm
from omnijax.ops import apply_rotary, attention, rotary_angles
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int


class KeysValues(NamedTuple):
    """The last `window - 1` positions, keys rotated; stacked over layers outside of a block."""

    keys: Float[Array, "*layers B W N H"]
    values: Float[Array, "*layers B W N H"]


def make_norm(config: TransformerConfig, name: str) -> nn.Module:
    types = {"dtype": config.dtype, "param_dtype": config.param_dtype, "name": name}
    if config.norm == "rms":
        return RMSNorm(eps=config.norm_eps, zero_centred=False, **types)
    return nn.LayerNorm(epsilon=config.norm_eps, **types)


class Block(nn.Module):
    """x + scale * attention(norm(x)), then x + scale * ffn(norm(x))."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        first: Int[Array, "B"],
        past: KeysValues | None = None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        """`first`: the position of x's first entry, so many have come before."""
        config = self.config
        width, heads, dim = config.width, config.heads, config.head_dim
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}

        def scale(name: str) -> Float[Array, "D"]:
            init = nn.initializers.constant(config.layer_scale)
            return self.param(name, init, (width,), config.param_dtype).astype(config.dtype)

        with jax.named_scope("attention"):
            h = make_norm(config, "attention_norm")(x)
            q, k, v = (
                Einsum("btd,dnh->btnh", (width, heads, dim), **types, name=name)(h)
                for name in ("q", "k", "v")
            )
            angles = rotary_angles(first[:, None] + jnp.arange(x.shape[1]), dim, config.rope_theta)
            q, k = apply_rotary(q, angles), apply_rotary(k, angles)
            h, past = window_attention(q, k, v, first, past, config.window)
            h = Einsum("btnh,nhd->btd", (heads, dim, width), **types, name="out")(h)
            x = x + scale("attention_scale") * h
        with jax.named_scope("ffn"):
            h = make_norm(config, "ffn_norm")(x)
            up = Einsum("btd,df->btf", (width, config.ffn), **types, name="up")(h)
            if config.norm == "rms":
                gate = Einsum("btd,df->btf", (width, config.ffn), **types, name="gate")(h)
                h = nn.silu(gate) * up
            else:
                h = nn.gelu(up, approximate=False)
            h = Einsum("btf,fd->btd", (config.ffn, width), **types, name="down")(h)
            x = x + scale("ffn_scale") * h
        return shard(x, "batch", "time", "width"), past


def window_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    first: Int[Array, "B"],
    past: KeysValues | None,
    window: int,
) -> tuple[Float[Array, "B T N H"], KeysValues]:
    """Attention to the last `window` positions, those in `past` among them, and the new past."""
    length, reach = q.shape[1], window - 1
    if past is None:
        out = attention(q, k, v, causal=True, window=window)
        empty = jnp.zeros((q.shape[0], reach, *q.shape[2:]), k.dtype)
        past = KeysValues(empty, empty)
        keys, values = (jnp.concatenate(pair, 1) for pair in zip(past, (k, v), strict=True))
    else:
        keys, values = (jnp.concatenate(pair, 1) for pair in zip(past, (k, v), strict=True))
        at = first[:, None] + jnp.arange(-reach, length)
        out = attention(
            q,
            keys,
            values,
            causal=True,
            window=window,
            q_positions=at[:, reach:],
            kv_positions=at,
            q_segments=jnp.ones(q.shape[:2], jnp.int32),
            kv_segments=(at >= 0).astype(jnp.int32),  # before the start there is nothing
        )
    return out, KeysValues(keys[:, length:], values[:, length:])


class Transformer(nn.Module):
    """All layers; their parameters and pasts are stacked."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        first: Int[Array, "B"],
        past: KeysValues | None = None,
    ) -> tuple[Float[Array, "B T D"], KeysValues]:
        config = self.config
        scan = nn.scan(
            lambda block, x, past: block(x, first, past),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.layers,
            unroll=1 if config.scan_layers else config.layers,
        )
        x, past = scan(Block(config, name="layers"), x, past)
        if config.norm == "rms":
            x = make_norm(config, "final_norm")(x)
        return x, past
