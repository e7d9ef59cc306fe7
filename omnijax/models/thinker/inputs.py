"""What a Thinker reads: tokens with their positions, and the media that fill placeholder tokens."""

from typing import NamedTuple

import jax.numpy as jnp

from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.models.thinker.config import ThinkerConfig
from omnijax.typing import Array, Float, Int


class AudioInputs(NamedTuple):
    """Mel chunks of a row, in the order of the row's audio placeholders."""

    mel: Float[Array, "B G F M"]
    lengths: Int[Array, "B G"]  # valid mel frames; 0 = unused chunk
    windows: Int[Array, "B G"]  # attention window, unique in the row; 0 = unused chunk


class VisionInputs(NamedTuple):
    """Patches of a row, in the order of the row's image and video placeholders.

    Blocks of ``merge**2`` patches lie together: each block fills one placeholder.
    """

    patches: Float[Array, "B P X"]
    coords: Int[Array, "B P 2"]  # row and column of the patch in its image
    grids: Int[Array, "B P 2"]  # rows and columns of its image, in patches
    frames: Int[Array, "B P"]  # attention group, unique in the row; 0 = unused patch


class ThinkerInputs(NamedTuple):
    """One batch: the k-th placeholder token of a row takes the k-th valid feature of that row."""

    tokens: Int[Array, "B T"]
    positions: Int[Array, "3 B T"]  # time, height, width
    segment_ids: Int[Array, "B T"]  # document of the token in its row; 0 = padding
    audio: AudioInputs | None = None
    vision: VisionInputs | None = None


def text_inputs(tokens: Int[Array, "B T"]) -> ThinkerInputs:
    """Plain text, one document a row, no padding."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), (3, *tokens.shape))
    return ThinkerInputs(tokens, positions, jnp.ones_like(tokens))


def check_media(model: ThinkerConfig, processor: ProcessorConfig) -> None:
    """Raises UserError where the processor's arrays have not the sizes that the encoders read.

    A model would run on them: their features would lie at other tokens than theirs, or nowhere.
    """
    pairs = []
    if model.aut is not None:
        pairs += [
            ("audio_chunk_frames", processor.audio_chunk_frames, model.aut.chunk_frames),
            ("audio_downsample", processor.audio_downsample, model.aut.downsample),
            ("mel_bins", processor.mel_bins, model.aut.mel_bins),
        ]
    if model.vision is not None:
        for name in ("patch_size", "temporal_patch", "spatial_merge"):
            pairs.append((name, getattr(processor, name), getattr(model.vision, name)))
    for name, given, needed in pairs:
        if given != needed:
            raise UserError(f"config.processor.{name} is {given}, the model's encoder has {needed}")


def empty_media(config: ThinkerConfig, inputs: ThinkerInputs) -> ThinkerInputs:
    """The inputs with one unused chunk and block of patches wherever an encoder has none.

    An encoder's parameters are made when it runs: so they are all there after any ``init``.
    """
    rows = inputs.tokens.shape[0]
    if config.aut is not None and inputs.audio is None:
        mel = jnp.zeros((rows, 1, config.aut.chunk_frames, config.aut.mel_bins))
        unused = jnp.zeros((rows, 1), jnp.int32)
        inputs = inputs._replace(audio=AudioInputs(mel, unused, unused))
    if config.vision is not None and inputs.vision is None:
        count = config.vision.merge_unit
        patches = jnp.zeros((rows, count, config.vision.patch_dim))
        pairs = jnp.zeros((rows, count, 2), jnp.int32)
        unused = jnp.zeros((rows, count), jnp.int32)
        inputs = inputs._replace(vision=VisionInputs(patches, pairs, pairs, unused))
    return inputs
