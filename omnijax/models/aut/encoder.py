"""AuT: mel chunks to audio tokens (released relative: `Qwen3OmniMoeAudioEncoder`)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from omnijax.models.aut.config import AuTConfig
from omnijax.nn.encoder import ACTIVATIONS, EncoderStack
from omnijax.typing import Array, Bool, Float, Int


def sinusoids(
    positions: Int[Array, "..."], width: int, max_timescale: float = 10_000.0
) -> Float[Array, "... D"]:
    """Whisper's sinusoidal positions: the sines of all frequencies, then the cosines."""
    half = width // 2
    rates = jnp.exp(-jnp.log(max_timescale) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angles = positions.astype(jnp.float32)[..., None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def token_lengths(lengths: Int[Array, "..."], downsample: int) -> Int[Array, "..."]:
    """Audio tokens of chunks with so many valid mel frames."""
    return -(-lengths // downsample)


def window_ids(num_chunks: int, window_chunks: int) -> Int[Array, "G"]:
    """Window of each chunk of one clip, from 1 on: `window_chunks` chunks attend to each other.

    Dynamic-window training draws `window_chunks` anew for each clip; the model sees only ids.
    """
    return jnp.arange(num_chunks, dtype=jnp.int32) // window_chunks + 1


class ConvStem(nn.Module):
    """Halves time and frequency with every 3x3 convolution, then folds frequency into width."""

    config: AuTConfig

    @nn.compact
    def __call__(
        self, mel: Float[Array, "C F M"], lengths: Int[Array, "C"]
    ) -> Float[Array, "C n D"]:
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        # The released class pads a partial chunk with zeros and lets the convolutions see them.
        # Frames past the length are whatever the caller left there, so they are set to zero here.
        inside = jnp.arange(mel.shape[1]) < lengths[:, None]
        x = jnp.where(inside[:, :, None], mel, 0.0)[..., None].astype(config.dtype)
        for i, channels in enumerate(config.conv_channels):
            with jax.named_scope(f"conv_{i}"):
                conv = nn.Conv(channels, (3, 3), 2, padding=1, **types, name=f"conv_{i}")
                x = ACTIVATIONS["gelu"](conv(x))
        chunks, tokens, bins, channels = x.shape
        x = x.reshape(chunks, tokens, bins * channels)
        x = nn.Dense(config.width, use_bias=False, **types, name="conv_out")(x)
        # Positions restart in every chunk: the rest of the order is in the window's content.
        return x + sinusoids(jnp.arange(tokens), config.width).astype(x.dtype)


class AuT(nn.Module):
    """Rows of mel chunks to features; chunks of one window id attend to each other, no others do.

    The chunk length is read off `mel`: released weights see a clip shorter than one chunk at its
    own length, without padding, and F gives that.
    """

    config: AuTConfig

    def setup(self):
        config = self.config
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.stem = ConvStem(config)
        self.encoder = EncoderStack(config.encoder)
        self.final_norm = nn.LayerNorm(epsilon=config.norm_eps, **types)
        self.proj_1 = nn.Dense(config.width, **types)
        self.proj_2 = nn.Dense(config.out_width, **types)

    def __call__(
        self,
        mel: Float[Array, "B G F M"],
        lengths: Int[Array, "B G"],
        windows: Int[Array, "B G"],
        *,
        block_chunks: int | None = None,
    ) -> tuple[Float[Array, "B Gn O"], Bool[Array, "B Gn"]]:
        """Features [B, G*n, out_width] and which of them are valid.

        `lengths`: valid mel frames of each chunk, 0 = unused. `windows`: attention windows, 0 =
        unused. `block_chunks` promises that no window crosses a multiple of so many chunks:
        attention then costs G*n * block*n instead of (G*n)^2, with the same result.
        """
        embedded = self.embed_chunks(mel, lengths)
        return self.encode(embedded, lengths, windows, block_chunks=block_chunks)

    def embed_chunks(
        self, mel: Float[Array, "B G F M"], lengths: Int[Array, "B G"]
    ) -> Float[Array, "B G n D"]:
        """The convolutions alone: every chunk for itself."""
        rows, chunks = lengths.shape
        x = self.stem(mel.reshape(-1, *mel.shape[2:]), lengths.reshape(-1))
        return x.reshape(rows, chunks, *x.shape[1:])

    def encode(
        self,
        embedded: Float[Array, "B G n D"],
        lengths: Int[Array, "B G"],
        windows: Int[Array, "B G"],
        *,
        block_chunks: int | None = None,
    ) -> tuple[Float[Array, "B Gn O"], Bool[Array, "B Gn"]]:
        """The transformer over chunks that went through the convolutions."""
        rows, chunks, tokens, width = embedded.shape
        tokens_in = token_lengths(lengths, self.config.downsample)
        valid = (jnp.arange(tokens) < tokens_in[..., None]) & (windows > 0)[..., None]
        groups = jnp.where(valid, windows[..., None], 0)
        x, _ = self.encoder(
            embedded.reshape(rows, chunks * tokens, width),
            groups.reshape(rows, chunks * tokens),
            block=block_chunks and block_chunks * tokens,
        )
        x = ACTIVATIONS["gelu"](self.proj_1(self.final_norm(x)))
        return self.proj_2(x), valid.reshape(rows, chunks * tokens)
