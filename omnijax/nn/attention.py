"""Gated full attention (Qwen3_5MoeAttention)."""

import flax.linen as nn
import jax

from omnijax import ops
from omnijax.nn.cache import AttentionCache, Step
from omnijax.nn.config import DecoderConfig
from omnijax.nn.linear import Einsum
from omnijax.nn.norm import RMSNorm
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int


class Attention(nn.Module):
    """softmax(q k^T) v, times sigmoid(gate); q and k are normed per head, then turned in part."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        angles: Float[Array, "B T half"],
        segment_ids: Int[Array, "B T"],
        cache: AttentionCache | None = None,
        step: Step | None = None,
        period: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], AttentionCache | None]:
        """The cache comes stacked over periods, and goes back with this period's slots written."""
        c = self.config
        types = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        norms = {"eps": c.norm_eps, "zero_centred": c.norm_zero_centred, **types}
        queries, keys = (c.width, c.heads, c.head_dim), (c.width, c.kv_heads, c.head_dim)

        q = Einsum("btd,dnh->btnh", queries, **types, name="q")(x)
        k = Einsum("btd,dkh->btkh", keys, **types, name="k")(x)
        v = Einsum("btd,dkh->btkh", keys, **types, name="v")(x)
        q = shard(q, "batch", "time", "heads", "head_dim")
        k = shard(k, "batch", "time", "kv_heads", "head_dim")
        v = shard(v, "batch", "time", "kv_heads", "head_dim")
        q = ops.apply_rotary(RMSNorm(**norms, name="q_norm")(q), angles)
        k = ops.apply_rotary(RMSNorm(**norms, name="k_norm")(k), angles)

        options = {
            "causal": True,
            "window": c.attention_window or None,
            "implementation": c.attention_implementation,
        }
        if cache is None:
            y = ops.attention(q, k, v, q_segments=segment_ids, kv_segments=segment_ids, **options)
        else:
            rows = jax.lax.broadcasted_iota("int32", step.slots.shape, 0)
            write = lambda old, new: old.at[period, rows, :, step.slots].set(  # noqa: E731
                new.astype(old.dtype), mode="drop"
            )
            read = lambda all: all[period].swapaxes(1, 2).astype(q.dtype)  # noqa: E731
            cache = AttentionCache(write(cache.key, k), write(cache.value, v))
            y = ops.attention(
                q,
                read(cache.key),
                read(cache.value),
                q_segments=segment_ids,
                kv_segments=step.segment_ids,
                q_positions=step.positions,
                **options,
            )
        if c.attention_gate:
            y = y * jax.nn.sigmoid(Einsum("btd,dnh->btnh", queries, **types, name="gate")(x))
        out = Einsum(
            "btnh,nhd->btd",
            (c.heads, c.head_dim, c.width),
            **types,
            scale=(2 * c.layers) ** -0.5,
            name="out",
        )
        return shard(out(y), "batch", "time", "width"), cache
