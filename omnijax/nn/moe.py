"""A mixture of experts with a shared one (Qwen3_5MoeSparseMoeBlock). No token is ever dropped."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax import ops
from omnijax.nn.config import DecoderConfig
from omnijax.nn.feed_forward import FeedForward
from omnijax.nn.linear import Einsum, fan_in_init
from omnijax.sharding import shard
from omnijax.typing import Array, Bool, Float, Int


class RouterStats(NamedTuple):
    """Of one layer, over valid tokens, in float32."""

    balance: Float[Array, ""]  # E sum_e f_e p_e; 1 when even, up to E / k when one set takes all
    z: Float[Array, ""]  # mean squared logsumexp of the logits (ST-MoE)
    load: Float[Array, "E"]  # share of the choices that each expert got


def route(
    logits: Float[Array, "B T E"], k: int
) -> tuple[Float[Array, "B T k"], Int[Array, "B T k"], Float[Array, "B T E"]]:
    """Weights of each token's top k (they sum to one), which they are, and all probabilities."""
    probabilities = jax.nn.softmax(logits, axis=-1)
    weights, chosen = jax.lax.top_k(probabilities, k)
    return weights / weights.sum(-1, keepdims=True), chosen, probabilities


def router_stats(
    logits: Float[Array, "B T E"],
    probabilities: Float[Array, "B T E"],
    chosen: Int[Array, "B T k"],
    valid: Bool[Array, "B T"],
) -> RouterStats:
    """Switch's load balance (transformers' load_balancing_loss_func / k) and the z loss."""
    experts = logits.shape[-1]
    mask = valid.astype(jnp.float32)
    tokens = jnp.maximum(mask.sum(), 1.0)
    hits = jax.nn.one_hot(chosen, experts).sum(-2)
    load = jnp.einsum("bte,bt->e", hits, mask) / (tokens * chosen.shape[-1])
    mean = jnp.einsum("bte,bt->e", probabilities, mask) / tokens
    z = jnp.sum(jnp.square(jax.nn.logsumexp(logits, -1)) * mask) / tokens
    return RouterStats(experts * jnp.sum(load * mean), z, load)


def router_logits(x: Float[Array, "B T D"], router: Float[Array, "D E"]) -> Float[Array, "B T E"]:
    """In float32: two experts are often close."""
    x, router = x.astype(jnp.float32), router.astype(jnp.float32)
    return jnp.einsum("btd,de->bte", x, router, precision=jax.lax.Precision.HIGHEST)


class MoE(nn.Module):
    """sum_e w_e expert_e(x) over the top k, plus sigmoid(W_sg x) * shared(x)."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], RouterStats]:
        c = self.config
        types = {"dtype": c.dtype, "param_dtype": c.param_dtype}
        scale = (2 * c.layers) ** -0.5

        with jax.named_scope("router"):
            router = self.param("router", fan_in_init(c.width), (c.width, c.experts), c.param_dtype)
            logits = router_logits(x, router)
            weights, chosen, probabilities = route(logits, c.experts_per_token)
            stats = router_stats(logits, probabilities, chosen, valid)

        with jax.named_scope("experts"):
            up, down = (c.experts, c.width, c.expert_ffn), (c.experts, c.expert_ffn, c.width)
            experts = (
                self.param("experts_gate", fan_in_init(c.width), up, c.param_dtype),
                self.param("experts_up", fan_in_init(c.width), up, c.param_dtype),
                self.param("experts_down", fan_in_init(c.expert_ffn, scale), down, c.param_dtype),
            )
            # Padding chooses no expert, and costs nothing.
            chosen = jnp.where(valid[..., None], chosen, c.experts)
            y = ops.expert_ffn(
                x.reshape(-1, c.width),
                *(w.astype(c.dtype) for w in experts),
                chosen.reshape(-1, c.experts_per_token),
                weights.reshape(-1, c.experts_per_token),
                c.moe_implementation,
            )
            y = shard(y.reshape(x.shape), "batch", "time", "width")

        if c.shared_expert_ffn:
            with jax.named_scope("shared_expert"):
                shared = FeedForward(
                    c.width, c.shared_expert_ffn, **types, scale=scale, name="shared"
                )(x)
                gate = Einsum("btd,do->bto", (c.width, 1), **types, name="shared_gate")(x)
                y = y + jax.nn.sigmoid(gate) * shared
        return y, stats
