"""What a part of a sequence does to the state, as an affine map: parts on shards compose."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from omnijax.typing import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST


class Transition(NamedTuple):
    """S -> matrix S + bias, of each row and value head; in float32."""

    matrix: Float[Array, "B N H H"]
    bias: Float[Array, "B N H Hv"]

    def __call__(self, state: Float[Array, "B N H Hv"]) -> Float[Array, "B N H Hv"]:
        """The state after the part, from the one before it."""
        return jnp.matmul(self.matrix, state, precision=HIGHEST) + self.bias

    def then(self, later: "Transition") -> "Transition":
        """This part and then `later`, as one; associative, so shards may scan over it."""
        return Transition(
            jnp.matmul(later.matrix, self.matrix, precision=HIGHEST), later(self.bias)
        )
