"""Vision encoder: packed patches to tokens (released relatives: `Qwen3_5MoeVisionModel`,
`Qwen3OmniMoeVisionEncoder` for DeepStack)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from omnijax.models.vision.config import VisionConfig
from omnijax.nn.encoder import ACTIVATIONS, EncoderStack
from omnijax.ops import rotary_angles_2d
from omnijax.typing import Array, Bool, Float, Int


def axis_weights(
    index: Int[Array, "B P"], size: Int[Array, "B P"], side: int
) -> Float[Array, "B P I"]:
    """Linear interpolation weights over `side` grid points of position `index` among `size`.

    First and last positions lie on the first and last grid points (`align_corners`).
    """
    source = index * (side - 1) / jnp.maximum(size - 1, 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[..., None] - jnp.arange(side)))


class Merger(nn.Module):
    """Four neighbouring patches to one token. Released DeepStack mergers norm after joining."""

    config: VisionConfig
    norm_joined: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B P D"]) -> Float[Array, "B p O"]:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        norm = nn.LayerNorm(epsilon=config.norm_eps, **types, name="norm")
        joined = (x.shape[0], x.shape[1] // config.merge_unit, config.merge_unit * config.width)
        x = norm(x.reshape(joined)) if self.norm_joined else norm(x).reshape(joined)
        x = ACTIVATIONS["gelu"](nn.Dense(joined[-1], **types, name="fc_1")(x))
        return nn.Dense(config.out_width, **types, name="fc_2")(x)


class VisionEncoder(nn.Module):
    """Rows of packed patches to features; patches of one frame id attend to each other only."""

    config: VisionConfig

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "B P X"],
        coords: Int[Array, "B P 2"],
        grids: Int[Array, "B P 2"],
        frames: Int[Array, "B P"],
        *,
        block_patches: int | None = None,
    ) -> tuple[Float[Array, "B p O"], Bool[Array, "B p"], list[Float[Array, "B p O"]]]:
        """Features [B, P/4, out_width], which of them are valid, and the DeepStack features.

        `coords`: row and column of a patch in its image, `grids`: its image's rows and columns, in
        patches. `frames`: attention groups, 0 = unused. Patches come in merge blocks.
        `block_patches` promises that no frame crosses a multiple of it: attention then costs
        P*block instead of P^2, with the same result.
        """
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        rows, count = frames.shape

        with jax.named_scope("patch_embed"):
            x = nn.Dense(config.width, **types, name="patch_embed")(patches)
        with jax.named_scope("positions"):
            side = config.grid_side
            table = self.param(
                "positions",
                nn.initializers.normal(0.02),
                (side * side, config.width),
                config.param_dtype,
            )
            # A product with interpolation weights, not a gather: its gradient is no scatter.
            down = axis_weights(coords[..., 0], grids[..., 0], side)
            across = axis_weights(coords[..., 1], grids[..., 1], side)
            weights = (down[..., :, None] * across[..., None, :]).reshape(rows, count, -1)
            x = x + jnp.matmul(weights, table, precision="highest").astype(x.dtype)
            angles = rotary_angles_2d(coords, config.width // config.heads, config.rope_theta)

        x, kept = EncoderStack(config.encoder, config.deepstack_layers, name="encoder")(
            x, frames, angles, block=block_patches
        )
        deepstack = [
            Merger(config, norm_joined=True, name=f"deepstack_{i}")(h) for i, h in enumerate(kept)
        ]
        features = Merger(config, name="merger")(x)
        return features, frames[:, :: config.merge_unit] > 0, deepstack
