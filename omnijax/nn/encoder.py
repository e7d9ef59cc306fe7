"""The bidirectional pre-norm transformer that AuT and the vision encoder share.

Released classes: `Qwen3OmniMoeAudioEncoderLayer`, `Qwen3_5MoeVisionBlock`; they differ in rotary
positions, activation and norm epsilon only.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """One stack; filled by the config of the model that it belongs to."""

    width: int
    layers: int
    heads: int
    ffn: int
    activation: str
    norm_eps: float
    dtype: str
    param_dtype: str
    scan_layers: bool
    remat: bool


def group_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T N H"],
    v: Float[Array, "B T N H"],
    groups: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Attention between positions of equal, non-zero group id; zeros where the id is 0.

    The scores of group 0 are never read, so any finite value may stand at padding positions.
    """
    scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    allowed = (groups[:, :, None] == groups[:, None, :]) & (groups[:, :, None] > 0)
    # A finite floor keeps rows of group 0 free of NaN, in the gradient too.
    scores = jnp.where(allowed[:, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1) * allowed[:, None]
    return jnp.einsum("bnts,bsnh->btnh", weights.astype(v.dtype), v)


def rotate(x: Float[Array, "B T N H"], angles: Float[Array, "B T A"]) -> Float[Array, "B T N H"]:
    """Rotates pairs (i, i + H/2) by `angles` [B, T, H/2], in float32."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    out = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return out.astype(x.dtype)


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        groups: Int[Array, "B T"],
        angles: Float[Array, "B T A"] | None = None,
    ) -> Float[Array, "B T D"]:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        norm = {"epsilon": config.norm_eps, **types}
        head_dim = config.width // config.heads

        with jax.named_scope("attention"):
            h = nn.LayerNorm(**norm, name="attention_norm")(x)
            qkv = nn.DenseGeneral((3, config.heads, head_dim), **types, name="qkv")(h)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
            if angles is not None:
                q, k = rotate(q, angles), rotate(k, angles)
            h = group_attention(q, k, v, groups)
            x = x + nn.DenseGeneral(config.width, axis=(-2, -1), **types, name="out")(h)
        with jax.named_scope("ffn"):
            h = nn.LayerNorm(**norm, name="ffn_norm")(x)
            h = ACTIVATIONS[config.activation](nn.Dense(config.ffn, **types, name="up")(h))
            x = x + nn.Dense(config.width, **types, name="down")(h)
        return shard(x, "batch", "time", "width")


class EncoderStack(nn.Module):
    """Blocks with parameters stacked over layers; also the hidden states after chosen layers."""

    config: EncoderConfig
    keep_layers: tuple[int, ...] = ()  # 0-based; their outputs are returned too

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        groups: Int[Array, "B T"],
        angles: Float[Array, "B T A"] | None = None,
    ) -> tuple[Float[Array, "B T D"], list[Float[Array, "B T D"]]]:
        config, keep = self.config, self.keep_layers

        def step(block, carry, layer):
            x, kept = carry
            x = block(x, groups, angles)
            # Only the chosen layers are stored: a layer that is not among them writes nowhere.
            kept = tuple(jnp.where(layer == at, x, old) for at, old in zip(keep, kept, strict=True))
            return (x, kept), None

        if config.remat:
            step = nn.remat(step, prevent_cse=not config.scan_layers)
        scan = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=config.layers,
            unroll=1 if config.scan_layers else config.layers,
        )
        kept = tuple(jnp.zeros_like(x) for _ in keep)
        (x, kept), _ = scan(
            EncoderBlock(config, name="layers"), (x, kept), jnp.arange(config.layers)
        )
        return x, list(kept)
