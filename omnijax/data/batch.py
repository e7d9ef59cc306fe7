"""From rendered examples to the arrays of a training step, in shapes that never change."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media.processor import ProcessorConfig
from omnijax.models.thinker.inputs import AudioInputs, ThinkerInputs, VisionInputs
from omnijax.text.chat import Rendered
from omnijax.typing import Array, Float, Int


class TrainBatch(NamedTuple):
    """Packed rows for the Thinker; no weight on padding, media and what the user says."""

    inputs: ThinkerInputs
    targets: Int[Array, "B T"]  # the next token of the same document; 0 where there is none
    loss_weights: Float[Array, "B T"]


class AedBatch(NamedTuple):
    """One clip a row and its transcript, for the attention encoder-decoder that trains AuT."""

    audio: AudioInputs
    tokens: Int[Array, "B U"]  # <|endoftext|>, then the transcript
    targets: Int[Array, "B U"]  # the transcript, then <|endoftext|>
    loss_weights: Float[Array, "B U"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowBudget:
    """How much one row holds. A limit of 0 media leaves that modality out of the batch."""

    max_tokens: int
    max_audio_chunks: int = 0
    max_patches: int = 0

    def __post_init__(self):
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}, it must be at least 1")
        for name in ("max_audio_chunks", "max_patches"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must not be negative")
        if self.max_patches % 4:
            raise UserError(f"max_patches is {self.max_patches}, it must be a multiple of 4")

    def excess(self, rendered: Rendered) -> str | None:
        """What of the example does not fit into an empty row, with length and limit."""
        for field, length, limit in (
            ("max_tokens", len(rendered.tokens), self.max_tokens),
            ("max_audio_chunks", len(rendered.audio_lengths), self.max_audio_chunks),
            ("max_patches", len(rendered.patch_frames), self.max_patches),
        ):
            if length > limit:
                unit = field.removeprefix("max_").replace("_", " ")
                return f"it has {length} {unit}, the row's limit ({field}) is {limit}"
        return None


class Fill(NamedTuple):
    """Used share of a batch: sums over batches give the share over time."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    targets: int = 0
    audio_chunks: int = 0
    patches: int = 0


def collate_thinker(
    rows: Sequence[Sequence[Rendered]],
    *,
    batch_size: int,
    budget: RowBudget,
    processor: ProcessorConfig,
) -> tuple[TrainBatch, Fill]:
    """Lay the documents of each row behind one another; rows that are missing stay empty."""
    batch, length = batch_size, budget.max_tokens
    chunks, patches = budget.max_audio_chunks, budget.max_patches
    patch_dim = processor.temporal_patch * 3 * processor.patch_size**2
    tokens = np.zeros((batch, length), np.int32)
    positions = np.zeros((3, batch, length), np.int32)
    segments = np.zeros((batch, length), np.int32)
    targets = np.zeros((batch, length), np.int32)
    weights = np.zeros((batch, length), np.float32)
    audio = AudioInputs(
        np.zeros((batch, chunks, processor.audio_chunk_frames, processor.mel_bins), np.float32),
        np.zeros((batch, chunks), np.int32),
        np.zeros((batch, chunks), np.int32),
    )
    vision = VisionInputs(
        np.zeros((batch, patches, patch_dim), np.float32),
        np.zeros((batch, patches, 2), np.int32),
        np.zeros((batch, patches, 2), np.int32),
        np.zeros((batch, patches), np.int32),
    )
    fill = np.zeros(len(Fill._fields), np.int64)
    for b, row in enumerate(rows):
        t = g = p = window = frame = 0
        for document, example in enumerate(row, start=1):
            t_end = t + len(example.tokens)
            tokens[b, t:t_end] = example.tokens
            positions[:, b, t:t_end] = example.positions.T
            segments[b, t:t_end] = document
            targets[b, t : t_end - 1] = example.tokens[1:]
            weights[b, t : t_end - 1] = example.loss_mask[1:]
            t = t_end
            if n := len(example.audio_lengths):
                audio.mel[b, g : g + n] = example.audio_mel
                audio.lengths[b, g : g + n] = example.audio_lengths
                audio.windows[b, g : g + n] = example.audio_windows + window
                window += int(example.audio_windows.max())
                g += n
            if n := len(example.patch_frames):
                vision.patches[b, p : p + n] = example.patches
                vision.coords[b, p : p + n] = example.patch_coords
                vision.grids[b, p : p + n] = example.patch_grids
                vision.frames[b, p : p + n] = example.patch_frames + frame
                frame += int(example.patch_frames.max())
                p += n
        fill += (len(row), bool(row), t, int(weights[b].sum()), g, p)
    inputs = ThinkerInputs(
        tokens, positions, segments, audio if chunks else None, vision if patches else None
    )
    return TrainBatch(inputs, targets, weights), Fill(*fill.tolist())


class Spoken(NamedTuple):
    """A clip as AuT reads it, and the tokens of what is said in it."""

    mel: np.ndarray  # [G, F, M]
    lengths: np.ndarray  # [G]
    windows: np.ndarray  # [G], 1-based
    tokens: np.ndarray  # [U]


def collate_aed(
    rows: Sequence[Spoken],
    *,
    batch_size: int,
    max_tokens: int,
    max_audio_chunks: int,
    end_token: int,
    processor: ProcessorConfig,
) -> tuple[AedBatch, Fill]:
    """One clip a row; the decoder starts from the token that also ends the transcript."""
    batch, chunks = batch_size, max_audio_chunks
    audio = AudioInputs(
        np.zeros((batch, chunks, processor.audio_chunk_frames, processor.mel_bins), np.float32),
        np.zeros((batch, chunks), np.int32),
        np.zeros((batch, chunks), np.int32),
    )
    tokens = np.zeros((batch, max_tokens), np.int32)
    targets = np.zeros((batch, max_tokens), np.int32)
    weights = np.zeros((batch, max_tokens), np.float32)
    fill = np.zeros(len(Fill._fields), np.int64)
    for b, spoken in enumerate(rows):
        g, u = len(spoken.lengths), len(spoken.tokens)
        audio.mel[b, :g], audio.lengths[b, :g] = spoken.mel, spoken.lengths
        audio.windows[b, :g] = spoken.windows
        tokens[b, 0] = targets[b, u] = end_token
        tokens[b, 1 : u + 1] = targets[b, :u] = spoken.tokens
        weights[b, : u + 1] = 1
        fill += (1, 1, u + 1, u + 1, g, 0)
    return AedBatch(audio, tokens, targets, weights), Fill(*fill.tolist())
