"""Split residual vector quantisation: semantic codebooks beside acoustic ones.

Released class: `MimiSplitResidualVectorQuantizer`. How the codes are learned: `codebooks.py`.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.codec.config import QuantiserConfig
from omnijax.nn.linear import fan_in_init
from omnijax.typing import Array, Float, Int

HIGHEST = jax.lax.Precision.HIGHEST


def nearest(x: Float[Array, "*lead W"], codebook: Float[Array, "V W"]) -> Int[Array, "*lead"]:
    """The code nearest to each vector; ties go to the lower id."""
    x, codebook = x.astype(jnp.float32), codebook.astype(jnp.float32)
    products = jnp.matmul(x, codebook.T, precision=HIGHEST)
    # |x|^2 is the same for every code and left out.
    return jnp.argmin(jnp.sum(jnp.square(codebook), -1) - 2 * products, axis=-1).astype(jnp.int32)


class Residuals(NamedTuple):
    """One chain of codebooks, each on what the one before left; codebooks lead, [q, B, R, ...]."""

    codes: Int[Array, "q B R"]
    inputs: Float[Array, "q B R W"]  # what each codebook was given
    values: Float[Array, "q B R W"]  # what it chose


def quantise(x: Float[Array, "B R W"], codebooks: Float[Array, "q V W"]) -> Residuals:
    """Residual quantisation of x by every codebook in turn."""

    def step(residual: Array, codebook: Array) -> tuple[Array, Residuals]:
        codes = nearest(residual, codebook)
        values = codebook.astype(residual.dtype)[codes]
        return residual - values, Residuals(codes, residual, values)

    return jax.lax.scan(step, x, codebooks)[1]


class SplitRVQ(nn.Module):
    """Features to codes and back. `codebooks` never get a gradient: they follow what they code."""

    config: QuantiserConfig

    def setup(self):
        config = self.config
        inward, outward = (config.features, config.width), (config.width, config.features)
        init_in, init_out = fan_in_init(config.features), fan_in_init(config.width)
        kinds = ("semantic", "acoustic")
        self.inward = {
            kind: self.param(f"{kind}_in", init_in, inward, config.param_dtype) for kind in kinds
        }
        self.outward = {
            kind: self.param(f"{kind}_out", init_out, outward, config.param_dtype) for kind in kinds
        }
        self.codebooks = self.param(
            "codebooks",
            nn.initializers.normal(1.0),
            (config.codebooks, config.size, config.width),
            "float32",
        )

    def project(
        self, features: Float[Array, "B R D"]
    ) -> tuple[Float[Array, "B R W"], Float[Array, "B R W"]]:
        """What the semantic codebooks and what the acoustic ones quantise."""
        dtype = self.config.dtype
        x = features.astype(dtype)
        return x @ self.inward["semantic"].astype(dtype), x @ self.inward["acoustic"].astype(dtype)

    def restore(
        self, semantic: Float[Array, "B R W"], acoustic: Float[Array, "B R W"]
    ) -> Float[Array, "B R D"]:
        """Features from what the two chains chose."""
        dtype = self.config.dtype
        parts = {"semantic": semantic, "acoustic": acoustic}
        return sum(x.astype(dtype) @ self.outward[kind].astype(dtype) for kind, x in parts.items())

    def chains(self) -> tuple[Float[Array, "q V W"], Float[Array, "p V W"]]:
        """The semantic and the acoustic codebooks."""
        codebooks = jax.lax.stop_gradient(self.codebooks)
        return codebooks[: self.config.semantic], codebooks[self.config.semantic :]

    def encode(self, features: Float[Array, "B R D"]) -> Int[Array, "B R Q"]:
        """Codes of every frame, the semantic ones first."""
        pairs = zip(self.project(features), self.chains(), strict=True)
        codes = jnp.concatenate([quantise(x, codebooks).codes for x, codebooks in pairs])
        return jnp.moveaxis(codes, 0, -1)

    def decode(self, codes: Int[Array, "B R q"]) -> Float[Array, "B R D"]:
        """Features of the codes; fewer codebooks than all: the first ones."""
        count, semantic = codes.shape[-1], self.config.semantic
        codebooks = jax.lax.stop_gradient(self.codebooks)
        chosen = [codebooks[q][codes[..., q]] for q in range(count)]
        zero = jnp.zeros((*codes.shape[:-1], self.config.width), codebooks.dtype)
        return self.restore(sum(chosen[:semantic], zero), sum(chosen[semantic:], zero))

    def __call__(self, features: Float[Array, "B R D"]) -> Float[Array, "B R D"]:
        """Through codes and back."""
        return self.decode(self.encode(features))
