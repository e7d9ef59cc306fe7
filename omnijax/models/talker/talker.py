"""The Talker: text, the Thinker's stream and codec frames in; the next frame out."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.models.talker.config import TalkerConfig
from omnijax.models.talker.inputs import TalkerInputs
from omnijax.models.talker.mtp import MTP
from omnijax.models.thinker.merge import gather_features
from omnijax.nn.cache import DecoderCache
from omnijax.nn.decoder import DecoderAux, HybridDecoder
from omnijax.nn.embed import Embed
from omnijax.nn.linear import Einsum
from omnijax.sharding import shard
from omnijax.typing import Array, Float, Int


class TalkerOutput(NamedTuple):
    """``hidden`` is the normed last stream: what `Talker.logits` and the MTP read."""

    hidden: Float[Array, "B T D"]
    cache: DecoderCache | None
    aux: DecoderAux


class ResizeMLP(nn.Module):
    """fc_2(silu(fc_1 x)), with biases (Qwen3OmniMoeTalkerResizeMLP)."""

    ffn: int
    width: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... D"]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        h = jax.nn.silu(nn.Dense(self.ffn, **types, name="fc_1")(x))
        return nn.Dense(self.width, **types, name="fc_2")(h)


class Talker(nn.Module):
    """Parameters under "text_embed", "codec_embed", "hidden_projection", "decoder", "codec_head",
    "mtp", and with a text table of another width "text_projection"."""

    config: TalkerConfig

    def setup(self):
        c = self.config
        types = {"dtype": c.decoder.dtype, "param_dtype": c.decoder.param_dtype}
        width = c.decoder.width

        def projection(inputs: int) -> nn.Module:
            if c.projection == "mlp":
                return ResizeMLP(c.projection_ffn, width, **types)
            return Einsum("...h,hd->...d", (inputs, width), **types)

        self.text_embed = Embed(c.text_vocab_size, c.text_width or width, **types)
        if c.text_width is not None:
            self.text_projection = projection(c.text_width)
        self.codec_embed = Embed(c.codec_vocab_size, width, **types)
        self.hidden_projection = projection(c.thinker_width)
        self.decoder = HybridDecoder(c.decoder)
        head = (width, c.codec_vocab_size)
        self.codec_head = Einsum("...d,dv->...v", head, **types, out_dtype="float32")
        self.mtp = MTP(c)

    def __call__(self, inputs: TalkerInputs, cache: DecoderCache | None = None) -> TalkerOutput:
        if self.is_initializing():
            c = self.config
            state = jnp.zeros((1, c.decoder.width), c.decoder.dtype)
            self.hidden_projection(jnp.zeros((1, c.thinker_width)))
            self.logits(state)
            self.residual_logits(state, jnp.zeros((1, c.codebooks), jnp.int32))
        embedded = self.embed_inputs(inputs)
        return TalkerOutput(
            *self.decode_embedded(embedded, inputs.positions, inputs.segment_ids, cache)
        )

    def embed_text(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Text by its table; -1 gives the zero vector."""
        x = self.text_embed(jnp.maximum(tokens, 0))
        if self.config.text_width is not None:
            x = self.text_projection(x)
        return jnp.where((tokens >= 0)[..., None], x, 0)

    def embed_codes(self, codes: Int[Array, "... Q"]) -> Float[Array, "... D"]:
        """The sum of a frame's embeddings, each code by its own table; -1 adds nothing."""
        first, rest = codes[..., 0], codes[..., 1:]
        x = jnp.where((first >= 0)[..., None], self.codec_embed(jnp.maximum(first, 0)), 0)
        return x + self.mtp.embed_each(rest).sum(-2).astype(x.dtype)

    def embed_inputs(self, inputs: TalkerInputs) -> Float[Array, "B T D"]:
        """What the decoder reads."""
        with jax.named_scope("embed"):
            x = self.embed_text(inputs.tokens) + self.embed_codes(inputs.codes)
            if inputs.hidden is not None:
                hidden = self.hidden_projection(inputs.hidden).astype(x.dtype)
                placed, _ = gather_features(hidden, inputs.hidden_valid, inputs.media)
                x = x + placed
            return shard(x, "batch", "time", "width")

    def decode_embedded(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "3 B T"],
        segment_ids: Int[Array, "B T"],
        cache: DecoderCache | None = None,
    ) -> tuple[Float[Array, "B T D"], DecoderCache | None, DecoderAux]:
        """The decoder over what ``embed_inputs`` gave."""
        return self.decoder(embedded, positions, segment_ids, cache)

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Float32 logits of the next code 0 or mark."""
        with jax.named_scope("codec_head"):
            return self.codec_head(hidden)

    def residual_logits(
        self, hidden: Float[Array, "N D"], codes: Int[Array, "N Q"]
    ) -> Float[Array, "N R V"]:
        """Float32 logits of the residual codes of N frames, each from its own codes before it.

        ``hidden`` is the state at the position that predicts the frame, before it is read.
        """
        return self.mtp(hidden, self.codec_embed(codes[:, 0]), codes[:, 1:])
