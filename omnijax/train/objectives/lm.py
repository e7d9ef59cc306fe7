"""Next-token prediction with the Thinker: cross entropy on weighted targets, and router losses."""

from typing import Any

import jax
import jax.numpy as jnp

from omnijax.sharding import shard
from omnijax.train.augment import augment_answers, augment_audio
from omnijax.train.stages import AugmentConfig
from omnijax.train.state import Losses, Objective
from omnijax.typing import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """(negative log likelihood in float32, 1 where the best guess is right)."""
    logits = logits.astype(jnp.float32)
    # A one-hot sum in place of a gather: it stays local when the vocabulary is split.
    right = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    chosen = jnp.sum(logits * right, axis=-1)
    loss = jax.nn.logsumexp(logits, axis=-1) - chosen
    return loss, (chosen >= jnp.max(logits, axis=-1)).astype(jnp.float32)


def weighted_sums(
    logits: Float[Array, "B T V"], targets: Int[Array, "B T"], weights: Float[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Sums of (weighted loss, weights, weighted accuracy)."""
    loss, right = cross_entropy(logits, targets)
    weights = weights.astype(jnp.float32)
    return jnp.sum(loss * weights), jnp.sum(weights), jnp.sum(right * weights)


def lm_objective(
    model: Any,
    example: Any,
    *,
    router_balance: float = 1e-2,
    router_z: float = 1e-3,
    augment: AugmentConfig | None = None,
    loss_chunk: int = 0,
) -> Objective:
    """The Thinker's objective over `TrainBatch`; `example` gives the shapes for `init`.

    loss_chunk: logits are made for this many tokens of a row at a time and made again in the
    backward pass (0: all at once), for vocabularies that do not fit in memory.
    """

    def init(key: Array) -> dict[str, Any]:
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example.inputs)
        return model.init(key, inputs)["params"]

    def loss(params: dict[str, Any], batch: Any, key: Array | None) -> Losses:
        inputs = batch.inputs
        if key is not None and augment is not None:
            with jax.named_scope("augment"):
                tokens = augment_answers(
                    jax.random.fold_in(key, 1),
                    inputs.tokens,
                    batch.targets,
                    batch.loss_weights,
                    augment.answer_noise,
                )
                inputs = inputs._replace(tokens=tokens)
                if inputs.audio is not None:
                    inputs = inputs._replace(audio=augment_audio(key, inputs.audio, augment))
        output = model.apply({"params": params}, inputs)

        def sums(hidden: Array, targets: Array, weights: Array) -> tuple[Array, Array, Array]:
            logits = model.apply({"params": params}, hidden, method="logits")
            logits = shard(logits, "batch", "time", "vocab")
            return weighted_sums(logits, targets, weights)

        with jax.named_scope("cross_entropy"):
            length = batch.targets.shape[1]
            if loss_chunk and length > loss_chunk:
                if length % loss_chunk:
                    raise ValueError(f"loss_chunk {loss_chunk} does not divide {length} tokens")

                def split(x: Array) -> Array:
                    parts = x.reshape(x.shape[0], -1, loss_chunk, *x.shape[2:])
                    return jnp.moveaxis(parts, 1, 0)

                parts = jax.tree.map(split, (output.hidden, batch.targets, batch.loss_weights))
                values = jax.lax.map(lambda part: jax.checkpoint(sums)(*part), parts)
                total, weight, right = jax.tree.map(jnp.sum, values)
            else:
                total, weight, right = sums(output.hidden, batch.targets, batch.loss_weights)
        metrics = {"cross_entropy": total, "accuracy": right}
        if output.aux is not None and output.aux.balance is not None:
            metrics |= {
                "router_balance": output.aux.balance * weight,
                "router_z": output.aux.z * weight,
            }
            router = router_balance * output.aux.balance + router_z * output.aux.z
            total = total + router * weight
        return Losses(total, weight, metrics)

    return Objective(init, loss)
