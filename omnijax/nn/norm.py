"""RMS norms, in float32: zero-centred for streams and heads, gated for GDN's output."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.typing import Array, Float


def rms_norm(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    """``x / rms(x)`` in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def l2_norm(x: Float[Array, "... H"], eps: float = 1e-6) -> Float[Array, "... H"]:
    """``x / |x|`` in float32, eps inside the root: the gradient at zero is finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + eps)


class RMSNorm(nn.Module):
    """``x_hat * (1 + scale)``, scale from zero (Qwen3_5MoeRMSNorm).

    Not ``zero_centred``: ``x_hat * scale``, scale from one (Qwen3-Omni).
    """

    eps: float = 1e-6
    zero_centred: bool = True
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.initializers.zeros if self.zero_centred else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],), self.param_dtype).astype(jnp.float32)
        scale = 1.0 + scale if self.zero_centred else scale
        return (rms_norm(x, self.eps) * scale).astype(self.dtype)


class GatedRMSNorm(nn.Module):
    """``scale * x_hat * silu(gate)`` on each head, scale from one (Qwen3_5MoeRMSNormGated)."""

    eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "... N H"], gate: Float[Array, "... N H"]
    ) -> Float[Array, "... N H"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        y = rms_norm(x, self.eps) * scale.astype(jnp.float32)
        return (y * jax.nn.silu(gate.astype(jnp.float32))).astype(self.dtype)
