"""The codec: samples to codes, codes to samples, whole or a piece at a time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.models.codec.code2wav import Code2Wav, Code2WavState
from omnijax.models.codec.config import CodecConfig
from omnijax.models.codec.encoder import CodecEncoder, EncoderState
from omnijax.models.codec.quantiser import SplitRVQ
from omnijax.typing import Array, Float, Int


class Codec(nn.Module):
    """24 kHz mono in -1..1 to `codebooks` codes a frame, and back.

    A clip that ends within a frame is filled with silence. Methods that take a state give the next
    one: `(state, piece) -> (state, out)`, with None for the start.
    """

    config: CodecConfig

    def setup(self):
        config = self.config
        if config.encoder is not None:
            self.encoder = CodecEncoder(config.encoder)
        if config.quantiser is not None:
            self.quantiser = SplitRVQ(config.quantiser)
        self.code2wav = Code2Wav(config.code2wav)

    def encode(self, samples: Float[Array, "B A"]) -> Int[Array, "B R Q"]:
        """Codes of clips, R = ceil(A / samples_per_frame)."""
        padding = -samples.shape[1] % self.config.samples_per_frame
        return self.encode_step(None, jnp.pad(samples, ((0, 0), (0, padding))))[1]

    def decode(self, codes: Int[Array, "B R Q"]) -> Float[Array, "B A"]:
        """Samples of frames; causal: A = samples_per_frame * R."""
        return self.code2wav(self.lookup(codes))[0]

    def encode_step(
        self, state: EncoderState | None, samples: Float[Array, "B A"]
    ) -> tuple[EncoderState, Int[Array, "B R Q"]]:
        """The next whole frames of each row."""
        if self.config.encoder is None:
            raise UserError("this codec has no encoder: CodecConfig.encoder is None")
        features, state = self.encoder(samples, state)
        with jax.named_scope("quantiser"):
            return state, self.quantiser.encode(features)

    def decode_step(
        self, state: Code2WavState | None, codes: Int[Array, "B R Q"]
    ) -> tuple[Code2WavState, Float[Array, "B A"]]:
        """The samples of the next frames of each row."""
        if self.config.code2wav.trim != "right":
            raise UserError(
                f"Code2WavConfig.trim is {self.config.code2wav.trim!r}: that form looks ahead and "
                "cannot be streamed, use 'right'"
            )
        samples, state = self.code2wav(self.lookup(codes), state)
        return state, samples

    def lookup(self, codes: Int[Array, "B R Q"]) -> Float[Array, "B R D"]:
        """What Code2Wav takes for these codes."""
        with jax.named_scope("lookup"):
            if self.config.code2wav.lookup == "table":
                return self.code2wav.embed(codes)
            return self.quantiser.decode(codes)

    def __call__(self, samples: Float[Array, "B A"]) -> Float[Array, "B A2"]:
        """Through codes and back."""
        return self.decode(self.encode(samples))
