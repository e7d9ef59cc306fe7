"""Media features into placeholder tokens, by rank: packing needs no offsets."""

import jax.numpy as jnp

from omnijax.typing import Array, Bool, Float, Int


def rank_of_valid(valid: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """Index of the k-th valid entry of each row, for k = 0, 1, ...; S past the last one."""
    rows, count = valid.shape
    rank = jnp.where(valid, jnp.cumsum(valid, axis=1) - 1, count)
    index = jnp.full((rows, count), count, jnp.int32)
    places = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), valid.shape)
    return index.at[jnp.arange(rows)[:, None], rank].set(places, mode="drop")


def gather_features(
    features: Float[Array, "B S D"], valid: Bool[Array, "B S"], slots: Bool[Array, "B T"]
) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
    """For the k-th slot of each row its k-th valid feature (zero elsewhere), and where one is."""
    order = rank_of_valid(valid)
    k = jnp.cumsum(slots, axis=1) - 1
    filled = slots & (k < valid.sum(axis=1)[:, None])
    index = jnp.take_along_axis(order, jnp.where(filled, k, 0), axis=1)
    index = jnp.where(filled, index, 0)
    placed = jnp.take_along_axis(features, index[..., None], axis=1)
    return jnp.where(filled[..., None], placed, 0), filled
