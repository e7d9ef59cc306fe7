"""The Talker's training: frames, residual codes, the end of speech, requests for text."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from omnijax.models.talker.aria import ASK, END, FRAME
from omnijax.models.talker.inputs import TalkerBatch
from omnijax.sharding import shard
from omnijax.train.augment import augment_answers
from omnijax.train.objectives.lm import cross_entropy
from omnijax.train.state import Losses, Objective
from omnijax.typing import Array, Bool, Float, Int


def choose_frames(
    frames: Bool[Array, "B T"], count: int, key: Array | None
) -> tuple[Int[Array, "B K"], Bool[Array, "B K"]]:
    """Places of ``count`` frames of each row, drawn without return, and which of them are frames.

    Without a key, or where they all fit, every frame is there.
    """
    rows, length = frames.shape
    if key is None or count >= length:
        return jnp.broadcast_to(jnp.arange(length), frames.shape), frames
    chance = jnp.where(frames, jax.random.uniform(key, (rows, length)), -1.0)
    chance, places = jax.lax.top_k(chance, count)
    return places, chance >= 0


def talker_objective(
    model: Any,
    example: TalkerBatch,
    *,
    residual_weight: float = 1.0,
    mtp_frames: int | None = None,
    asks: bool = False,
    frame_noise: float = 0.0,
    router_balance: float = 1e-2,
    router_z: float = 1e-3,
) -> Objective:
    """The Talker's objective over `TalkerBatch`; `example` gives the shapes for `init`.

    The loss is the cross entropy of all that the codec head predicts, plus ``residual_weight``
    times that of the residual codes (a mean over codebooks, so a frame's residuals weigh as much
    as its semantic code). Each kind is reported as the mean over its own targets, in nats:
    "semantic", "end" and, where the Talker ``asks``, "request" beside "codec_chance" (ln V of the
    codec head), "residual" and "residual_1" to the last codebook's beside "residual_chance".

    mtp_frames: train the MTP on so many frames of a row, drawn anew at each step (None: all);
    evaluation takes all. The MTP's cost is a codebook's worth of tokens for each frame.

    frame_noise: a share of the frames that have been said are read as others of the batch, so that
    it must look at the text for the next one (`augment_answers`); not in evaluation.
    """
    config = model.config

    def init(key: Array) -> dict[str, Any]:
        inputs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example.inputs)
        return model.init(key, inputs)["params"]

    def residuals(
        params: dict[str, Any], hidden: Float[Array, "B T D"], batch: TalkerBatch, key: Array | None
    ) -> tuple[Float[Array, "R"], Float[Array, "R"], Float[Array, ""]]:
        """(sums of loss, of right guesses, by codebook; the frames that they are sums over)."""
        length = hidden.shape[1]
        count = min(mtp_frames or length, length)
        places, valid = choose_frames(batch.kinds == FRAME, count, key)
        chosen = jnp.take_along_axis(hidden, places[..., None], axis=1)
        codes = jnp.take_along_axis(batch.targets, places[..., None], axis=1)
        codes = jnp.where(valid[..., None], codes, 0).reshape(-1, config.codebooks)
        chosen = chosen.reshape(-1, chosen.shape[-1])
        logits = model.apply({"params": params}, chosen, codes, method="residual_logits")
        loss, right = cross_entropy(logits, codes[:, 1:])
        valid = valid.reshape(-1, 1).astype(jnp.float32)
        return (loss * valid).sum(0), (right * valid).sum(0), valid.sum()

    def loss(params: dict[str, Any], batch: TalkerBatch, key: Array | None) -> Losses:
        inputs = batch.inputs
        if key is not None and frame_noise:
            with jax.named_scope("augment"):
                said = (batch.kinds == FRAME).astype(jnp.float32)
                noise = jax.random.fold_in(key, 1)
                codes = augment_answers(noise, inputs.codes, batch.targets, said, frame_noise)
                inputs = inputs._replace(codes=codes)
        output = model.apply({"params": params}, inputs)
        with jax.named_scope("cross_entropy"):
            logits = model.apply({"params": params}, output.hidden, method="logits")
            logits = shard(logits, "batch", "time", "vocab")
            codec, right = cross_entropy(logits, batch.targets[..., 0])
        with jax.named_scope("residuals"):
            by_book, right_by_book, seen = residuals(params, output.hidden, batch, key)

        masks = {
            name: (batch.kinds == kind).astype(jnp.float32)
            for name, kind in (("semantic", FRAME), ("end", END), ("request", ASK))
        }
        counts = {name: mask.sum() for name, mask in masks.items()}
        weight = sum(counts.values())

        def mean(total: Array, count: Array) -> Array:
            """As a share of the batch's weight, which all metrics are divided by."""
            return total / jnp.maximum(count, 1) * weight

        by_book = by_book / jnp.maximum(seen, 1)
        kinds = [name for name in masks if asks or name != "request"]
        metrics = {name: mean(jnp.sum(codec * masks[name]), counts[name]) for name in kinds}
        metrics |= {
            "semantic_accuracy": mean(jnp.sum(right * masks["semantic"]), counts["semantic"]),
            "residual": by_book.mean() * weight,
            "residual_accuracy": mean(right_by_book.mean(), seen),
            "codec_chance": math.log(config.codec_vocab_size) * weight,
            "residual_chance": math.log(config.codebook_size) * weight,
        }
        metrics |= {f"residual_{i + 1}": by_book[i] * weight for i in range(config.residuals)}

        total = sum(jnp.sum(codec * mask) for mask in masks.values())
        total = total + residual_weight * by_book.mean() * counts["semantic"]
        if output.aux.balance is not None:
            metrics |= {
                "router_balance": output.aux.balance * weight,
                "router_z": output.aux.z * weight,
            }
            router = router_balance * output.aux.balance + router_z * output.aux.z
            total = total + router * weight
        return Losses(total, weight, metrics)

    return Objective(init, loss)
