"""Token embedding, usable as the output projection too."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.typing import Array, Float, Int


class Embed(nn.Module):
    """A table [V, D]: rows in, and with ``attend`` float32 logits out (tied embeddings)."""

    vocab_size: int
    width: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    def setup(self):
        init = jax.nn.initializers.normal(self.width**-0.5)
        self.table = self.param("table", init, (self.vocab_size, self.width), self.param_dtype)

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        return jnp.take(self.table, tokens, axis=0, mode="clip").astype(self.dtype)

    def attend(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        return jnp.einsum(
            "...d,vd->...v",
            hidden.astype(self.dtype),
            self.table.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
