"""The MTP: the residual codes of a frame, one after the other (Qwen3OmniMoeTalkerCodePredictor).

A frame's sequence is [the Talker's hidden state, code 0, code 1, ..., code Q - 2]; position k + 1
predicts code k + 1 with a head of its own. It sees its own frame and nothing after.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.talker.config import TalkerConfig
from omnijax.nn.cache import DecoderCache, init_cache
from omnijax.nn.decoder import HybridDecoder
from omnijax.nn.linear import Einsum, fan_in_init
from omnijax.typing import Array, Float, Int, Key, PyTree


class MTP(nn.Module):
    """Parameters: "embed" and "head", stacked over the residual codebooks, "decoder", and
    "project" where its width is not the Talker's."""

    config: TalkerConfig

    def setup(self):
        c = self.config
        width, types = c.decoder.width, {"dtype": c.mtp.dtype, "param_dtype": c.mtp.param_dtype}
        table = (c.residuals, c.codebook_size, width)
        init = jax.nn.initializers.normal(width**-0.5)
        self.embed = self.param("embed", init, table, c.mtp.param_dtype)
        head = (c.residuals, c.mtp.width, c.codebook_size)
        self.head = self.param("head", fan_in_init(c.mtp.width), head, c.mtp.param_dtype)
        self.decoder = HybridDecoder(c.mtp)
        if c.mtp.width != width:
            self.project = Einsum("...d,dm->...m", (width, c.mtp.width), **types)

    def __call__(
        self,
        hidden: Float[Array, "N D"],
        first: Float[Array, "N D"],
        residuals: Int[Array, "N R"],
    ) -> Float[Array, "N R V"]:
        """Logits of all residual codes of N frames at once, the codes before each given.

        Args:
          hidden: the Talker's state that predicted the frame.
          first: the embedding of code 0.
          residuals: codes 1 to Q - 1; the last one is not read.
        """
        with jax.named_scope("mtp"):
            given = self.embed_each(residuals)[:, :-1]
            x = jnp.concatenate([hidden[:, None], first[:, None], given], axis=1)
            out, _ = self.read(x, jnp.arange(x.shape[1]))
            return jnp.einsum(
                "nrd,rdv->nrv",
                out[:, 1:].astype(self.config.mtp.dtype),
                self.head.astype(self.config.mtp.dtype),
                preferred_element_type=jnp.float32,
            )

    def embed_each(self, residuals: Int[Array, "... R"]) -> Float[Array, "... R D"]:
        """Each code by its own table, one past its end as its last; -1 gives the zero vector."""
        books, size, width = self.embed.shape
        flat = jnp.clip(residuals, 0, size - 1) + size * jnp.arange(books)
        vectors = jnp.take(self.embed.reshape(-1, width), flat, axis=0, mode="clip")
        return jnp.where((residuals >= 0)[..., None], vectors, 0).astype(self.config.mtp.dtype)

    def embed_code(self, code: Int[Array, "N"], book: Int[Array, ""]) -> Float[Array, "N D"]:
        """Codes of one residual codebook, 0 the first."""
        return jnp.take(self.embed[book], code, axis=0, mode="clip").astype(self.config.mtp.dtype)

    def read(
        self, x: Float[Array, "N T D"], places: Int[Array, "T"], cache: DecoderCache | None = None
    ) -> tuple[Float[Array, "N T W"], DecoderCache | None]:
        """The decoder over embedded places of a frame's sequence."""
        c = self.config
        if c.mtp.width != c.decoder.width:
            x = self.project(x)
        positions = jnp.broadcast_to(places, (3, *x.shape[:2]))
        out, cache, _ = self.decoder(x, positions, jnp.ones(x.shape[:2], jnp.int32), cache)
        return out, cache

    def logits(self, hidden: Float[Array, "N W"], book: Int[Array, ""]) -> Float[Array, "N V"]:
        """Float32 logits of one residual codebook, 0 the first."""
        head = self.head[book].astype(self.config.mtp.dtype)
        hidden = hidden.astype(self.config.mtp.dtype)
        return jnp.einsum("nd,dv->nv", hidden, head, preferred_element_type=jnp.float32)


Choose = Callable[[Array, Array], Array]  # (logits [N, V], key) -> codes [N]


def predict_residuals(
    config: TalkerConfig,
    params: PyTree,
    hidden: Float[Array, "N D"],
    first: Float[Array, "N D"],
    key: Key[Array, ""],
    choose: Choose,
) -> tuple[Int[Array, "N R"], Float[Array, "N R V"]]:
    """The residual codes of N frames and the logits that each was chosen from.

    Always ``config.residuals`` steps, with a cache of the frame's own; made to be part of a larger
    program. Arguments as for `MTP`, whose parameters ``params`` are.
    """
    model = MTP(config)

    def apply(method, *args):
        return model.apply({"params": params}, *args, method=method)

    def step(carry, book_and_key):
        cache, x, at = carry
        book, key = book_and_key
        out, cache = apply(MTP.read, x, at + jnp.arange(x.shape[1]), cache)
        logits = apply(MTP.logits, out[:, -1], book)
        code = choose(logits, key)
        embedded = apply(MTP.embed_code, code, book)[:, None]
        return (cache, embedded.astype(x.dtype), at + x.shape[1]), (code, logits)

    with jax.named_scope("mtp"):
        keys = jax.random.split(key, config.residuals)
        x = jnp.stack([hidden, first], axis=1).astype(config.mtp.dtype)
        cache = init_cache(config.mtp, x.shape[0], config.codebooks)
        carry, begun = step((cache, x, jnp.int32(0)), (jnp.int32(0), keys[0]))
        books = jnp.arange(1, config.residuals)
        _, rest = jax.lax.scan(step, carry, (books, keys[1:]))
        codes, logits = jax.tree.map(
            lambda one, more: jnp.concatenate([one[None], more]).swapaxes(0, 1), begun, rest
        )
        return codes, logits
