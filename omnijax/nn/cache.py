"""Static caches of a decoder: stacked over periods, donated from call to call."""

from typing import NamedTuple

import jax.numpy as jnp

from omnijax.nn.config import DecoderConfig
from omnijax.typing import Array, Float, Int


class AttentionCache(NamedTuple):
    """Keys and values of one attention layer of each period; slot s holds a row's s-th token.

    Heads stand before slots, as a step reads them: otherwise it would turn the whole cache first.
    """

    key: Float[Array, "L B K S H"]
    value: Float[Array, "L B K S H"]


class GDNCache(NamedTuple):
    """State (float32) and the last ``conv_width - 1`` inputs of the convolutions."""

    state: Float[Array, "L B N H Hv"]
    conv_q: Float[Array, "L B W KH"]
    conv_k: Float[Array, "L B W KH"]
    conv_v: Float[Array, "L B W NHv"]


class DecoderCache(NamedTuple):
    """Everything a decoder remembers of its rows.

    ``length``: valid tokens of each row so far; ``document``: segment id of the last of them (0:
    none yet); ``segment_ids``: that of every slot, 0 where nothing is. ``layers``: one entry for
    each place in the pattern. Slots past S are dropped: the caller checks that a row fits.
    """

    length: Int[Array, "B"]
    document: Int[Array, "B"]
    segment_ids: Int[Array, "B S"]
    layers: tuple[AttentionCache | GDNCache, ...]


def init_cache(
    config: DecoderConfig, batch: int, max_len: int, dtype: str | jnp.dtype | None = None
) -> DecoderCache:
    """Empty rows of up to ``max_len`` tokens."""
    dtype = jnp.dtype(dtype or config.dtype)
    lead = (config.periods, batch)

    def layer(mixer: str) -> AttentionCache | GDNCache:
        if mixer == "full":
            shape = (*lead, config.kv_heads, max_len, config.head_dim)
            return AttentionCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        keys, values = config.gdn_key_heads, config.gdn_value_heads
        state = (*lead, values, config.gdn_key_dim, config.gdn_value_dim)
        taps = (*lead, config.conv_width - 1)
        return GDNCache(
            jnp.zeros(state, jnp.float32),
            jnp.zeros((*taps, keys * config.gdn_key_dim), dtype),
            jnp.zeros((*taps, keys * config.gdn_key_dim), dtype),
            jnp.zeros((*taps, values * config.gdn_value_dim), dtype),
        )

    return DecoderCache(
        length=jnp.zeros((batch,), jnp.int32),
        document=jnp.zeros((batch,), jnp.int32),
        segment_ids=jnp.zeros((batch, max_len), jnp.int32),
        layers=tuple(layer(mixer) for mixer in config.pattern),
    )


class Step(NamedTuple):
    """Where a chunk of tokens lies in a cache; the same for every layer."""

    slots: Int[Array, "B T"]  # of each token; S (out of range) for padding
    positions: Int[Array, "B T"]  # index of each token along its row
    segment_ids: Int[Array, "B S"]  # of the slots, this chunk's included
    fresh: Int[Array, "B"]  # 1 where the row's chunk starts a new document: its state starts anew


def begin_step(cache: DecoderCache, segment_ids: Int[Array, "B T"]) -> tuple[DecoderCache, Step]:
    """The cache with the chunk's tokens counted (layers untouched), and where they go.

    The valid tokens of a row must be a prefix of its chunk: padding stands on the right.
    """
    valid = segment_ids > 0
    rows = jnp.arange(segment_ids.shape[0])[:, None]
    positions = cache.length[:, None] + jnp.arange(segment_ids.shape[1])
    slots = jnp.where(valid, positions, cache.segment_ids.shape[1])
    ids = cache.segment_ids.at[rows, slots].set(segment_ids, mode="drop")
    fresh = valid[:, 0] & (segment_ids[:, 0] != cache.document)
    cache = cache._replace(
        length=cache.length + valid.sum(axis=1, dtype=jnp.int32),
        document=jnp.maximum(cache.document, segment_ids.max(axis=1)),
        segment_ids=ids,
    )
    return cache, Step(slots, positions, ids, fresh.astype(jnp.int32))
