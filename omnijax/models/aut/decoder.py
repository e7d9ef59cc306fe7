"""The attention decoder that AuT is pretrained with: features in, the transcript's logits out."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from omnijax.models.aut.config import AuTDecoderConfig
from omnijax.models.aut.encoder import sinusoids
from omnijax.nn.encoder import ACTIVATIONS
from omnijax.ops import attention
from omnijax.typing import Array, Bool, Float, Int


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the audio, feed-forward; norms before each."""

    config: AuTDecoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B U D"], memory: Float[Array, "B S X"], valid: Bool[Array, "B S"]
    ) -> Float[Array, "B U D"]:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        norm = {"epsilon": config.norm_eps, **types}
        heads = (config.heads, config.width // config.heads)

        with jax.named_scope("self_attention"):
            h = nn.LayerNorm(**norm, name="self_norm")(x)
            qkv = nn.DenseGeneral((3, *heads), **types, name="self_qkv")(h)
            h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], causal=True)
            x = x + nn.DenseGeneral(config.width, axis=(-2, -1), **types, name="self_out")(h)
        with jax.named_scope("cross_attention"):
            h = nn.LayerNorm(**norm, name="cross_norm")(x)
            q = nn.DenseGeneral(heads, **types, name="cross_q")(h)
            kv = nn.DenseGeneral((2, *heads), **types, name="cross_kv")(memory)
            h = attention(
                q,
                kv[:, :, 0],
                kv[:, :, 1],
                causal=False,
                q_segments=jnp.ones(x.shape[:2], jnp.int32),
                kv_segments=valid.astype(jnp.int32),
            )
            x = x + nn.DenseGeneral(config.width, axis=(-2, -1), **types, name="cross_out")(h)
        with jax.named_scope("ffn"):
            h = nn.LayerNorm(**norm, name="ffn_norm")(x)
            h = ACTIVATIONS["gelu"](nn.Dense(config.ffn, **types, name="up")(h))
            return x + nn.Dense(config.width, **types, name="down")(h)


class AuTDecoder(nn.Module):
    """Logits at position u are for the token after `tokens[:, u]`; one clip a row."""

    config: AuTDecoderConfig

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B S X"],
        valid: Bool[Array, "B S"],
        tokens: Int[Array, "B U"],
    ) -> Float[Array, "B U V"]:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        # AuT's own positions restart in every chunk, so the clip's order is given here.
        rank = jnp.cumsum(valid, axis=1) - 1
        memory = features + sinusoids(rank, config.feature_width).astype(features.dtype)
        embed = nn.Embed(config.vocab_size, config.width, **types, name="embed")
        order = sinusoids(jnp.arange(tokens.shape[1]), config.width)
        x = embed(tokens) + order.astype(config.dtype)
        for i in range(config.layers):
            x = DecoderBlock(config, name=f"layer_{i}")(x, memory, valid)
        x = nn.LayerNorm(epsilon=config.norm_eps, **types, name="final_norm")(x)
        # Not embed.attend: its product would round the logits to the dtype.
        table = embed.embedding.astype(config.dtype)
        return jnp.einsum("bud,vd->buv", x, table, preferred_element_type=jnp.float32)
