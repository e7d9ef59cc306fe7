"""The hybrid decoder: one stack for Thinker, Talker, MTP and every ablation."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax import ops
from omnijax.nn.attention import Attention
from omnijax.nn.cache import DecoderCache, begin_step
from omnijax.nn.config import DecoderConfig
from omnijax.nn.feed_forward import FeedForward
from omnijax.nn.gated_delta_net import GatedDeltaNet
from omnijax.nn.moe import MoE
from omnijax.nn.norm import RMSNorm
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int

POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class DecoderAux(NamedTuple):
    """What a decoder says besides its output; None where the config has no such thing."""

    balance: Float[Array, ""] | None  # router load balance, mean over layers; 1 is even
    z: Float[Array, ""] | None  # router z loss, mean over layers
    load: Float[Array, "L E"] | None  # share of choices per expert
    hidden: Float[Array, "B T D"] | None  # the stream after ``accept_hidden_layer`` layers


class Layer(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x))."""

    config: DecoderConfig
    mixer: str

    @nn.compact
    def __call__(self, x, angles, segment_ids, cache, step, period):
        c = self.config
        types = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        norms = {"eps": c.norm_eps, "zero_centred": c.norm_zero_centred, **types}
        h = RMSNorm(**norms, name="mixer_norm")(x)
        if self.mixer == "full":
            with jax.named_scope("attention"):
                h, cache = Attention(c, name="attention")(
                    h, angles, segment_ids, cache, step, period
                )
        else:
            with jax.named_scope("gated_delta_net"):
                h, cache = GatedDeltaNet(c, name="gdn")(h, segment_ids, cache, step, period)
        x = x + h
        h = RMSNorm(**norms, name="ffn_norm")(x)
        if c.experts:
            with jax.named_scope("moe"):
                h, stats = MoE(c, name="moe")(h, segment_ids > 0)
        else:
            with jax.named_scope("ffn"):
                scale = (2 * c.layers) ** -0.5
                h = FeedForward(c.width, c.ffn, **types, scale=scale, name="ffn")(h)
                stats = None
        return shard(x + h, "batch", "time", "width"), cache, stats


class Period(nn.Module):
    """The layers of one pattern; scanned over."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, carry, period, angles, segment_ids, step, deepstack):
        c = self.config
        x, caches, accepted = carry
        all_stats, new_caches = [], []
        for i, mixer in enumerate(c.pattern):
            layer = period * len(c.pattern) + i
            cache = None if caches is None else caches[i]
            x, cache, stats = Layer(c, mixer, name=f"layer_{i}")(
                x, angles, segment_ids, cache, step, period
            )
            if deepstack is not None:
                last = deepstack.shape[0] - 1
                add = deepstack[jnp.minimum(layer, last)].astype(x.dtype)
                x = x + jnp.where(layer <= last, add, 0)
            if accepted is not None and (c.accept_hidden_layer - 1) % len(c.pattern) == i:
                accepted = jnp.where(layer + 1 == c.accept_hidden_layer, x, accepted)
            all_stats.append(stats)
            new_caches.append(cache)
        caches = None if caches is None else tuple(new_caches)
        stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_stats) if c.experts else None
        return (x, caches, accepted), stats


class HybridDecoder(nn.Module):
    """Layers of GDN and full attention in the config's pattern, and a final norm.

    Parameters are stacked over periods whether ``scan_layers`` or not, so both read the same ones.
    """

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "3 B T"],
        segment_ids: Int[Array, "B T"],
        cache: DecoderCache | None = None,
        *,
        deepstack: Float[Array, "K B T D"] | None = None,
    ) -> tuple[Float[Array, "B T D"], DecoderCache | None, DecoderAux]:
        """The normed stream, the cache after this chunk, and the aux.

        Args:
          positions: rotary ids (time, height, width).
          segment_ids: documents of a row, growing along it; 0 is padding. With a cache, padding
            stands on the right, and a document goes on where the last chunk's ended.
          cache: None in training: every row stands alone.
          deepstack: added to the stream after each of the first K layers.
        """
        c = self.config
        x = shard(x.astype(c.dtype), "batch", "time", "width")
        angles = ops.mrope_angles(
            positions, c.rotary_dim, c.rope_theta, c.mrope_sections, c.mrope_interleaved
        )
        step = None
        if cache is not None:
            cache, step = begin_step(cache, segment_ids)
        accepted = None if c.accept_hidden_layer is None else x
        carry = (x, None if cache is None else cache.layers, accepted)
        shared = (angles, segment_ids, step, deepstack)
        run = self._scanned if c.scan_layers or self.is_initializing() else self._unrolled
        (x, layers, accepted), stats = run(carry, shared)

        types = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        norm = RMSNorm(c.norm_eps, c.norm_zero_centred, **types, name="norm")
        if cache is not None:
            cache = cache._replace(layers=layers)
        return norm(x), cache, _aux(stats, accepted)

    def _scanned(self, carry, shared):
        c = self.config
        period = Period
        if c.remat != "none":
            period = nn.remat(Period, policy=POLICIES[c.remat], prevent_cse=False)
        scan = nn.scan(
            period,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *(nn.broadcast,) * len(shared)),
            length=c.periods,
        )
        return scan(c, name="periods")(carry, jnp.arange(c.periods), *shared)

    def _unrolled(self, carry, shared):
        c = self.config

        def run(params, carry, index, *shared):
            return Period(c, parent=None).apply({"params": params}, carry, index, *shared)

        if c.remat != "none":
            run = jax.checkpoint(run, policy=POLICIES[c.remat], static_argnums=(2,))
        stacked, all_stats = self.variables["params"]["periods"], []
        for i in range(c.periods):
            params = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
            carry, stats = run(params, carry, i, *shared)
            all_stats.append(stats)
        return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *all_stats)


def _aux(stats, accepted) -> DecoderAux:
    if stats is None:
        return DecoderAux(None, None, None, accepted)
    load = stats.load.reshape(-1, stats.load.shape[-1])
    return DecoderAux(stats.balance.mean(), stats.z.mean(), load, accepted)
