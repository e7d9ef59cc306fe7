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
    """One clip or picture a row and what it says or shows, in words, for the attention
    encoder-decoder that pretrains an encoder."""

    audio: AudioInputs | None
    vision: VisionInputs | None
    tokens: Int[Array, "B U"]  # <|endoftext|>, then the words
    targets: Int[Array, "B U"]  # the words, then <|endoftext|>
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
        if self.max_patches % 4:  # spatial_merge**2 of every preset; whole merge blocks only
            raise UserError(
                f"max_patches is {self.max_patches}, it must be a multiple of 4, the patches of a "
                "merge block (spatial_merge**2 of every preset)"
            )

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


def empty_audio(batch: int, chunks: int, processor: ProcessorConfig) -> AudioInputs:
    """Rows of unused audio chunks."""
    return AudioInputs(
        np.zeros((batch, chunks, processor.audio_chunk_frames, processor.mel_bins), np.float32),
        np.zeros((batch, chunks), np.int32),
        np.zeros((batch, chunks), np.int32),
    )


def empty_vision(batch: int, patches: int, processor: ProcessorConfig) -> VisionInputs:
    """Rows of unused patches."""
    patch_dim = processor.temporal_patch * 3 * processor.patch_size**2
    return VisionInputs(
        np.zeros((batch, patches, patch_dim), np.float32),
        np.zeros((batch, patches, 2), np.int32),
        np.zeros((batch, patches, 2), np.int32),
        np.zeros((batch, patches), np.int32),
    )


def _whole(positions: np.ndarray) -> np.ndarray:
    """The position ids, or an error at one that an integer cannot hold."""
    between = positions[positions % 1 != 0]
    if len(between):
        raise UserError(
            f"an example has the position id {between[0]:g}, a row holds whole ids only: choose "
            'ChatStyle(time="stamps"), or an ids_per_second that gives whole ids'
        )
    return positions


def _root_weights(mask: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """0/1 weights with each run of n ones divided by sqrt(n)."""
    opens = np.diff(mask, prepend=0) > 0
    run = np.cumsum(opens)  # the number of the answer that a token belongs to
    lengths = np.bincount(run, weights=mask)
    return mask / np.sqrt(np.maximum(lengths, 1))[run].astype(mask.dtype)


def collate_thinker(
    rows: Sequence[Sequence[Rendered]],
    *,
    batch_size: int,
    budget: RowBudget,
    processor: ProcessorConfig,
    loss_weighting: str = "token",
) -> tuple[TrainBatch, Fill]:
    """Lay the documents of each row behind one another; rows that are missing stay empty.

    loss_weighting "sqrt" divides the weights of an answer of n tokens by sqrt(n), so that short
    answers are not drowned by long ones (InternVL 2.5, arXiv 2412.05271).
    """
    batch, length = batch_size, budget.max_tokens
    chunks, patches = budget.max_audio_chunks, budget.max_patches
    tokens = np.zeros((batch, length), np.int32)
    positions = np.zeros((3, batch, length), np.int32)
    segments = np.zeros((batch, length), np.int32)
    targets = np.zeros((batch, length), np.int32)
    weights = np.zeros((batch, length), np.float32)
    audio = empty_audio(batch, chunks, processor)
    vision = empty_vision(batch, patches, processor)
    fill = np.zeros(len(Fill._fields), np.int64)
    for b, row in enumerate(rows):
        t = g = p = window = frame = counted = 0
        for document, example in enumerate(row, start=1):
            t_end = t + len(example.tokens)
            tokens[b, t:t_end] = example.tokens
            positions[:, b, t:t_end] = _whole(example.positions).T
            segments[b, t:t_end] = document
            targets[b, t : t_end - 1] = example.tokens[1:]
            weight = example.loss_mask[1:].astype(np.float32)
            counted += int(weight.sum())
            if loss_weighting == "sqrt":
                weight = _root_weights(weight)
            weights[b, t : t_end - 1] = weight
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
        fill += (len(row), bool(row), t, counted, g, p)
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


class Shown(NamedTuple):
    """A picture or video as the vision encoder reads it, and the tokens of what it shows."""

    patches: np.ndarray  # [P, dim]
    coords: np.ndarray  # [P, 2]
    grids: np.ndarray  # [P, 2]
    frames: np.ndarray  # [P], 1-based
    tokens: np.ndarray  # [U]


def collate_aed(
    rows: Sequence[Spoken | Shown],
    *,
    batch_size: int,
    budget: RowBudget,
    end_token: int,
    processor: ProcessorConfig,
) -> tuple[AedBatch, Fill]:
    """One example a row; the decoder starts from the token that also ends the words."""
    batch, length = batch_size, budget.max_tokens
    audio = empty_audio(batch, budget.max_audio_chunks, processor)
    vision = empty_vision(batch, budget.max_patches, processor)
    tokens = np.zeros((batch, length), np.int32)
    targets = np.zeros((batch, length), np.int32)
    weights = np.zeros((batch, length), np.float32)
    fill = np.zeros(len(Fill._fields), np.int64)
    for b, example in enumerate(rows):
        *media, words = example
        spoken = isinstance(example, Spoken)
        n, u = len(media[0]), len(words)
        for array, part in zip(audio if spoken else vision, media, strict=True):
            array[b, :n] = part
        tokens[b, 0] = targets[b, u] = end_token
        tokens[b, 1 : u + 1] = targets[b, :u] = words
        weights[b, : u + 1] = 1
        fill += (1, 1, u + 1, u + 1, n * spoken, n * (not spoken))
    batch = AedBatch(
        audio if budget.max_audio_chunks else None,
        vision if budget.max_patches else None,
        tokens,
        targets,
        weights,
    )
    return batch, Fill(*fill.tolist())
