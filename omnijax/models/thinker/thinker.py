"""The Thinker: text, audio, images and video in; the next text token's logits out."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.models.aut import AuT
from omnijax.models.thinker.config import ThinkerConfig
from omnijax.models.thinker.inputs import AudioInputs, ThinkerInputs, VisionInputs, empty_media
from omnijax.models.thinker.merge import gather_features
from omnijax.models.vision import VisionEncoder
from omnijax.nn.cache import DecoderCache
from omnijax.nn.decoder import DecoderAux, HybridDecoder
from omnijax.nn.embed import Embed
from omnijax.nn.linear import Einsum
from omnijax.sharding import shard
from omnijax.typing import Array, Bool, Float, Int


class ThinkerOutput(NamedTuple):
    """``hidden`` is the normed last stream; ``logits(hidden)`` are of the token after each."""

    hidden: Float[Array, "B T D"]
    cache: DecoderCache | None
    aux: DecoderAux


class Thinker(nn.Module):
    """Parameters under "embed", "decoder", and where the config has them "audio", "vision",
    "lm_head"."""

    config: ThinkerConfig

    def setup(self):
        c = self.config
        types = {"dtype": c.decoder.dtype, "param_dtype": c.decoder.param_dtype}
        self.embed = Embed(c.vocab_size, c.decoder.width, **types)
        self.decoder = HybridDecoder(c.decoder)
        if c.aut is not None:
            self.audio = AuT(c.aut)
        if c.vision is not None:
            self.vision = VisionEncoder(c.vision)
        if not c.tie_embeddings:
            shape = (c.decoder.width, c.vocab_size)
            self.lm_head = Einsum("...d,dv->...v", shape, **types, out_dtype="float32")

    def __call__(self, inputs: ThinkerInputs, cache: DecoderCache | None = None) -> ThinkerOutput:
        if self.is_initializing():
            inputs = empty_media(self.config, inputs)
            self.logits(jnp.zeros((1, self.config.decoder.width), self.config.decoder.dtype))
        embedded = self.embed_inputs(inputs)
        return ThinkerOutput(
            *self.decode_embedded(embedded, inputs.positions, inputs.segment_ids, cache)
        )

    def embed_tokens(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T W"]:
        """What ``decode_embedded`` reads of plain text."""
        x = self.embed(tokens)
        extra = self.config.deepstack * self.config.decoder.width
        return jnp.pad(x, ((0, 0), (0, 0), (0, extra))) if extra else x

    def embed_inputs(self, inputs: ThinkerInputs) -> Float[Array, "B T W"]:
        """Embedded tokens with the media's features in their places.

        W is the decoder's width D; with DeepStack (1 + levels) * D: its features stand beside the
        stream, so a slice along T takes all that belongs to its tokens.
        """
        c = self.config
        for media, part in ((inputs.audio, "aut"), (inputs.vision, "vision")):
            if media is not None and getattr(c, part) is None:
                raise UserError(f"the input has media for {part}, which this model lacks")
        x = self.embed_tokens(inputs.tokens)
        if inputs.audio is not None:
            with jax.named_scope("audio"):
                features, valid = self.encode_audio(inputs.audio)
                x = _place(x, features, valid, inputs.tokens == c.audio_token_id)
        if inputs.vision is not None:
            with jax.named_scope("vision"):
                v = inputs.vision
                features, valid, levels = self.vision(v.patches, v.coords, v.grids, v.frames)
                features = jnp.concatenate([features, *levels], axis=-1) if levels else features
                slots = (inputs.tokens == c.image_token_id) | (inputs.tokens == c.video_token_id)
                x = _place(x, features, valid, slots)
        return shard(x, "batch", "time", "width")

    def decode_embedded(
        self,
        embedded: Float[Array, "B T W"],
        positions: Int[Array, "3 B T"],
        segment_ids: Int[Array, "B T"],
        cache: DecoderCache | None = None,
    ) -> tuple[Float[Array, "B T D"], DecoderCache | None, DecoderAux]:
        """The decoder over what ``embed_inputs`` or ``embed_tokens`` gave."""
        levels, deepstack = self.config.deepstack, None
        if levels:
            embedded, *rest = jnp.split(embedded, 1 + levels, axis=-1)
            deepstack = jnp.stack(rest)
        return self.decoder(embedded, positions, segment_ids, cache, deepstack=deepstack)

    def logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Float32 logits of the next token."""
        with jax.named_scope("lm_head"):
            return self.embed.attend(hidden) if self.config.tie_embeddings else self.lm_head(hidden)

    def encode_audio(self, audio: AudioInputs) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """AuT's tokens, chunk after chunk, and which of them are valid."""
        return self.audio(audio.mel, audio.lengths, audio.windows)

    def encode_vision(
        self, vision: VisionInputs
    ) -> tuple[Float[Array, "B S D"], Bool[Array, "B S"]]:
        """Merged vision tokens, block after block, and which of them are valid."""
        return self.vision(vision.patches, vision.coords, vision.grids, vision.frames)[:2]


def _place(x, features, valid, slots):
    beside = x.shape[-1] - features.shape[-1]  # audio has nothing for DeepStack
    features = jnp.pad(features.astype(x.dtype), ((0, 0), (0, 0), (0, beside)))
    placed, filled = gather_features(features, valid, slots)
    return jnp.where(filled[..., None], placed, x)
