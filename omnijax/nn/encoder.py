"""The bidirectional pre-norm transformer that AuT and the vision encoder share.

Released classes: `Qwen3OmniMoeAudioEncoderLayer`, `Qwen3_5MoeVisionBlock`; they differ in rotary
positions, activation and norm epsilon only.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from omnijax.errors import UserError
from omnijax.nn.config import DTYPES
from omnijax.ops import apply_rotary, attention, windowed_attention
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int

ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
}


def check(ok: bool, message: str) -> None:
    """Raises UserError with the message, which names the field, its value and the limit."""
    if not ok:
        raise UserError(message)


def check_dtypes(config) -> None:
    for field in ("dtype", "param_dtype"):
        value = getattr(config, field)
        check(
            value in DTYPES,
            f"{type(config).__name__}.{field} is {value!r}, it must be one of {DTYPES}",
        )


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


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)).

    Positions of equal, non-zero group attend to each other. `block` promises that no group crosses
    a multiple of it, and saves the scores between blocks.
    """

    config: EncoderConfig
    block: int | None = None

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
                q, k = apply_rotary(q, angles), apply_rotary(k, angles)
            if self.block is None:
                h = attention(q, k, v, causal=False, q_segments=groups, kv_segments=groups)
            else:
                h = windowed_attention(q, k, v, window=self.block, segments=groups)
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
        block: int | None = None,
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
            EncoderBlock(config, block, name="layers"), (x, kept), jnp.arange(config.layers)
        )
        return x, list(kept)
