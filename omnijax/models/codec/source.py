"""A voice's source: harmonics of a pitch, each as loud as an envelope says.

A convolution that makes samples from frames must find each period's place by itself, and nano's few
channels do not: alone they whisper. Here the pitch is said once a step and its phase is kept by an
oscillator (neural source-filter models, arXiv 1810.11946), the harmonics take their size from a
spectral envelope (DDSP, arXiv 2001.04643), and the convolutions are left with what has no pitch.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from omnijax.models.codec.config import HarmonicsConfig
from omnijax.typing import Array, Bool, Float, Int, UInt

EXACT = jax.lax.Precision.HIGHEST  # samples are heard: an accelerator's default leaves 56 dB
LOUD = -5.0  # log amplitude of each harmonic at the start of training: near that of speech


class SourceState(NamedTuple):
    """Where the oscillator of each row stands, and how loud its harmonics last were."""

    phase: UInt[Array, "B"]  # uint32: 2^32 to a period
    sizes: Float[Array, "B H"]


class Voice(NamedTuple):
    """What a source gives: samples, and each step's pitch in octaves over the lowest."""

    samples: Float[Array, "B A"]
    pitch: Float[Array, "B S"]


class HarmonicSource(nn.Module):
    """Steps' features to `hop` samples each, at the pitch that they say.

    The pitch is rounded to 1 / `config.grid` octaves and the phase is an integer, so that a stream
    is in phase with the whole clip however long they last, unless what is said in the two, a
    rounding error apart, once falls on different sides of a half: from then on they are apart by
    a hundredth of a period or so. Within a step the pitch stands still and each harmonic's size
    goes straight from the last step's to its own. All in float32. S steps, H harmonics, E bands.
    """

    config: HarmonicsConfig
    hop: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B S D"],
        state: SourceState | None = None,
        pitch: Float[Array, "B S"] | None = None,
    ) -> tuple[Voice, SourceState]:
        """`pitch`, in octaves over `config.lowest`, takes the place of what the features say where
        it is finite: training's, while what they say is not yet true.
        """
        config, hop = self.config, self.hop
        batch, steps, _ = x.shape
        x = x.astype(jnp.float32)
        middle = nn.initializers.constant(config.octaves / 2)
        said = nn.Dense(1, bias_init=middle, precision=EXACT, name="pitch")(x)[..., 0]
        true = said if pitch is None else jnp.where(jnp.isfinite(pitch), pitch, said)
        last = config.notes - 1
        note = jnp.clip(jnp.round(jax.lax.stop_gradient(true) * config.grid), 0, last)
        note = note.astype(jnp.int32)
        small, loud = nn.initializers.normal(0.01), nn.initializers.constant(LOUD)
        envelope = nn.Dense(config.bands, kernel_init=small, bias_init=loud, name="envelope")(x)
        sizes, heard = self._sizes(envelope, note)
        before = jnp.zeros((batch, config.count)) if state is None else state.sizes
        phase = jnp.zeros((batch,), jnp.uint32) if state is None else state.phase

        turn = jnp.asarray(config.turns())[note]  # [B, S], of a sample
        ends = phase[:, None] + jnp.cumsum(turn * jnp.uint32(hop), axis=1, dtype=jnp.uint32)
        starts = jnp.concatenate([phase[:, None], ends[:, :-1]], axis=1)
        sample = jnp.arange(1, hop + 1, dtype=jnp.uint32)
        phases = starts[..., None] + turn[..., None] * sample  # [B, S, hop]
        number = jnp.arange(1, config.count + 1, dtype=jnp.uint32)
        angles = (phases[..., None] * number).astype(jnp.int32).astype(jnp.float32)
        waves = jnp.sin(angles * np.float32(np.pi / 2**31))  # [B, S, hop, H]
        # A harmonic that this step's pitch puts over the top is silent at once.
        earlier = jnp.concatenate([before[:, None], sizes[:, :-1]], axis=1) * heard
        share = jnp.arange(1, hop + 1, dtype=jnp.float32) / hop
        # The sum over harmonics of waves * (earlier + (sizes - earlier) * share), as two products.
        begun = jnp.einsum("bsih,bsh->bsi", waves, earlier, precision=EXACT)
        grown = jnp.einsum("bsih,bsh->bsi", waves, sizes - earlier, precision=EXACT)
        samples = (begun + share * grown).reshape(batch, steps * hop)
        return Voice(samples, said), SourceState(ends[:, -1], sizes[:, -1])

    def _sizes(
        self, envelope: Float[Array, "B S E"], note: Int[Array, "B S"]
    ) -> tuple[Float[Array, "B S H"], Bool[Array, "B S H"]]:
        """The envelope's amplitude at each harmonic, between two bands linearly in its log, and
        which harmonics are heard at all."""
        at, heard = self.config.places()
        at, heard = jnp.asarray(at)[note], jnp.asarray(heard)[note]
        below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, self.config.bands - 2)
        low = jnp.take_along_axis(envelope, below, axis=-1)
        high = jnp.take_along_axis(envelope, below + 1, axis=-1)
        return jnp.where(heard, jnp.exp(low + (high - low) * (at - below)), 0.0), heard
