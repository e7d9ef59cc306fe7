"""From logits to the next token: greedy, temperature, top-k, top-p, repetition penalty."""

import dataclasses

import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.typing import Array, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a token is chosen.

    temperature 0 is greedy. top_k 0 and top_p 1 keep every token. repetition_penalty divides
    positive logits of tokens already in the row and multiplies negative ones (CTRL, 1909.05858).
    The filters apply in the order penalty, temperature, top-k, top-p.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}, it must be 0 (greedy) or more")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}, it must be 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}, it must be above 0 and at most 1 (off)")
        if not self.repetition_penalty > 0:
            raise UserError(f"repetition_penalty is {self.repetition_penalty}, it must be above 0")


def penalise_repeats(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """Make tokens that the row already holds less likely."""
    if penalty == 1.0:
        return logits
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
    """Mask all but the k largest logits of each row (ties with the k-th stay)."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits < threshold, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """Mask all but the smallest set of tokens whose probability reaches p (never empty)."""
    if p == 1.0:
        return logits
    descending = jnp.sort(logits, axis=-1)[:, ::-1]
    probs = jax.nn.softmax(descending, axis=-1)
    # A token stays if the mass before it is still below p.
    kept = jnp.cumsum(probs, axis=-1) - probs < p
    threshold = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < threshold, -jnp.inf, logits)


def sample(
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"],
    key: Key[Array, ""],
    config: SamplingConfig,
) -> Int[Array, "B"]:
    """Choose one token a row; float32 throughout."""
    logits = penalise_repeats(logits.astype(jnp.float32), seen, config.repetition_penalty)
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = keep_top_p(keep_top_k(logits / config.temperature, config.top_k), config.top_p)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
