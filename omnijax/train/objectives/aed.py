"""An encoder's pretraining: an attention encoder-decoder that writes down what is said or shown.

For AuT this is transcription (AED), for the vision encoder captioning (CapPa, arXiv 2306.07915).
"""

from typing import Any

import jax
import jax.numpy as jnp

from omnijax.train.augment import augment_answers, augment_audio
from omnijax.train.objectives.lm import weighted_sums
from omnijax.train.stages import AugmentConfig
from omnijax.train.state import Losses, Objective
from omnijax.typing import Array


def aed_objective(
    encoder: Any, decoder: Any, example: Any, *, augment: AugmentConfig | None = None
) -> Objective:
    """`encoder` is an AuT or a VisionEncoder, `decoder` an AuTDecoder, batches are `AedBatch`.

    Parameters lie under "audio" or "vision" (as in the Thinker, which takes them over) and "aed".
    """
    root = "vision" if example.audio is None else "audio"

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key)
        media, tokens = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (getattr(example, root), example.tokens)
        )
        (features, valid, *_), params = encoder.init_with_output(keys[0], *media)
        aed_params = decoder.init(keys[1], features, valid, tokens)
        return {root: params["params"], "aed": aed_params["params"]}

    def loss(params: dict[str, Any], batch: Any, key: Array | None) -> Losses:
        media, tokens = getattr(batch, root), batch.tokens
        if key is not None and augment is not None:
            with jax.named_scope("augment"):
                tokens = augment_answers(
                    jax.random.fold_in(key, 1),
                    tokens,
                    batch.targets,
                    batch.loss_weights,
                    augment.answer_noise,
                )
                if root == "audio":
                    media = augment_audio(key, media, augment)
        features, valid, *_ = encoder.apply({"params": params[root]}, *media)
        logits = decoder.apply({"params": params["aed"]}, features, valid, tokens)
        with jax.named_scope("cross_entropy"):
            total, weight, right = weighted_sums(logits, batch.targets, batch.loss_weights)
        return Losses(total, weight, {"cross_entropy": total, "accuracy": right})

    return Objective(init, loss)
