"""The gated feed-forward (SwiGLU) of dense layers and of the shared expert."""

import flax.linen as nn
import jax

from omnijax.nn.linear import Einsum
from omnijax.sharding import shard
from omnijax.typing import Array, Float


class FeedForward(nn.Module):
    """W_down (silu(W_gate x) * W_up x)."""

    width: int
    ffn: int
    dtype: str = "float32"
    param_dtype: str = "float32"
    scale: float = 1.0  # of the output projection's initial values

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        gate = Einsum("btd,df->btf", (self.width, self.ffn), **types, name="gate")(x)
        up = Einsum("btd,df->btf", (self.width, self.ffn), **types, name="up")(x)
        h = shard(jax.nn.silu(gate) * up, "batch", "time", "ffn")
        down = Einsum("btf,fd->btd", (self.ffn, self.width), **types, scale=self.scale, name="down")
        return down(h)
