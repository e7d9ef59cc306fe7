"""AuT's pretraining: an attention encoder-decoder that writes down what is said."""

from typing import Any

import jax
import jax.numpy as jnp

from omnijax.train.augment import augment_audio
from omnijax.train.objectives.lm import weighted_sums
from omnijax.train.stages import AugmentConfig
from omnijax.train.state import Losses, Objective
from omnijax.typing import Array


def aed_objective(
    encoder: Any, decoder: Any, example: Any, *, augment: AugmentConfig | None = None
) -> Objective:
    """`encoder` is an AuT, `decoder` an AuTDecoder, batches are `AedBatch`.

    Parameters lie under "audio" (as in the Thinker, which takes them over) and "aed".
    """

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key)
        audio, tokens = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (example.audio, example.tokens)
        )
        (features, valid), audio_params = encoder.init_with_output(keys[0], *audio)
        aed_params = decoder.init(keys[1], features, valid, tokens)
        return {"audio": audio_params["params"], "aed": aed_params["params"]}

    def loss(params: dict[str, Any], batch: Any, key: Array | None) -> Losses:
        audio = batch.audio
        if key is not None and augment is not None:
            with jax.named_scope("augment"):
                audio = augment_audio(key, audio, augment)
        features, valid = encoder.apply({"params": params["audio"]}, *audio)
        logits = decoder.apply({"params": params["aed"]}, features, valid, batch.tokens)
        with jax.named_scope("cross_entropy"):
            total, weight, right = weighted_sums(logits, batch.targets, batch.loss_weights)
        return Losses(total, weight, {"cross_entropy": total, "accuracy": right})

    return Objective(init, loss)
