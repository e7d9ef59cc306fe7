"""What a Talker reads, on the host: the voice, what was said, and the answer's stream.

    system:    <|im_start|>system \\n, a description, codec_bos, the reference's frames, codec_eos,
               <|im_end|> \\n
    context:   what the Thinker has read: text by the Talker's own table, media positions by the
               Thinker's stream
    assistant: <|im_start|>assistant \\n, nothink or think and a language, tts_bos, codec_bos,
               then the ARIA stream

Text in parts as it comes, marks of the codec table between them. [REFERENCE section 5]
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.models.talker.aria import NOTHING, Schedule, Stream, interleave
from omnijax.models.talker.config import TalkerConfig
from omnijax.models.talker.context import Context
from omnijax.models.talker.inputs import TalkerBatch, TalkerInputs
from omnijax.text.positions import PositionState
from omnijax.text.tokenizer import Tokenizer
from omnijax.typing import Bool, Float, Int

Ids = Sequence[int | np.integer] | Int[np.ndarray, "_"]  # of the text table


class Marks(NamedTuple):
    """What the template writes, as ids of the text table."""

    system: tuple[int, ...]  # <|im_start|>system \n
    assistant: tuple[int, ...]  # <|im_start|>assistant \n
    close: tuple[int, ...]  # <|im_end|> \n


def chat_marks(tokenizer: Tokenizer) -> Marks:
    start, end = tokenizer.special("im_start"), tokenizer.special("im_end")
    return Marks(
        (start, *tokenizer.encode_literal("system\n")),
        (start, *tokenizer.encode_literal("assistant\n")),
        (end, *tokenizer.encode_literal("\n")),
    )


class Voice(NamedTuple):
    """Who speaks: described in words, shown by a few seconds of speech, or both; with neither it is
    nobody's voice, from which guidance goes on."""

    description: Ids = ()
    reference: Int[np.ndarray, "R Q"] | None = None  # codec frames


class TalkerRow(NamedTuple):
    """One document, unbatched: `TalkerBatch` without the batch axis, position axes last."""

    tokens: Int[np.ndarray, "T"]
    codes: Int[np.ndarray, "T Q"]
    media: Bool[np.ndarray, "T"]
    positions: Int[np.ndarray, "T 3"]
    targets: Int[np.ndarray, "T Q"]
    kinds: Int[np.ndarray, "T"]
    hidden: Float[np.ndarray, "S H"]


class RowBuilder:
    """Collects the parts of a document in order; `finish` makes its arrays."""

    def __init__(self, config: TalkerConfig):
        self._config = config
        self._positions = PositionState()
        self._parts: list[TalkerRow] = []

    def text(self, ids: Ids) -> None:
        ids = np.asarray(ids, np.int32).reshape(-1)
        self._add(tokens=check_text(self._config, ids))

    def mark(self, *ids: int) -> None:
        """Ids of the codec table that are no frames."""
        codes = np.full((len(ids), self._config.codebooks), -1, np.int32)
        codes[:, 0] = ids
        self._add(codes=codes)

    def frames(self, codes: Int[np.ndarray, "R Q"]) -> None:
        self._add(codes=check_codes(self._config, codes))

    def context(self, context: Context) -> None:
        """Text by its ids, media by the Thinker's stream; rotary ids as the Thinker's, moved."""
        media = np.asarray(context.media, bool)
        if media.sum() != len(context.hidden):
            raise UserError(
                f"the context has {media.sum()} media positions and {len(context.hidden)} states "
                "of the Thinker: there must be one for each"
            )
        if np.shape(context.hidden)[1:] != (self._config.thinker_width,):
            raise UserError(
                f"the context's states have shape {np.shape(context.hidden)}, this Talker's "
                f"Thinker has width {self._config.thinker_width}"
            )
        tokens = np.where(media, -1, context.tokens).astype(np.int32)
        check_text(self._config, np.where(media, 0, tokens))
        self._add(tokens=tokens, media=media, hidden=context.hidden, positions=context.positions)

    def stream(self, stream: Stream) -> None:
        self._add(**stream._asdict())

    def finish(self) -> TalkerRow:
        return TalkerRow(*(np.concatenate(arrays) for arrays in zip(*self._parts, strict=True)))

    def _add(self, **given) -> None:
        length = len(next(iter(given.values())))
        books = self._config.codebooks
        if (places := given.pop("positions", None)) is None:
            self._positions, places = self._positions.text(length)
        else:
            start = int(self._positions.next)
            places = np.asarray(places) - (np.min(places) if length else 0) + start
            self._positions = PositionState(start + int(np.ptp(places) + 1 if length else 0))
        empty = {
            "tokens": np.full(length, -1, np.int32),
            "codes": np.full((length, books), -1, np.int32),
            "media": np.zeros(length, bool),
            "targets": np.zeros((length, books), np.int32),
            "kinds": np.full(length, NOTHING, np.int32),
            "hidden": np.zeros((0, self._config.thinker_width), np.float32),
        }
        self._parts.append(TalkerRow(**(empty | given), positions=places.astype(np.int32)))


def prompt_row(
    config: TalkerConfig,
    marks: Marks,
    *,
    voice: Voice | None = None,
    context: Context | None = None,
    language: str | None = None,
) -> TalkerRow:
    """All that stands before the answer's first element, codec_bos included."""
    builder = open_row(config, marks, voice, context, language)
    builder.mark(config.codec_bos_id)
    return builder.finish()


def answer_row(
    config: TalkerConfig,
    marks: Marks,
    text: Ids,
    codes: Int[np.ndarray, "R Q"],
    schedule: Schedule,
    *,
    voice: Voice | None = None,
    context: Context | None = None,
    language: str | None = None,
    asks: bool = False,
) -> TalkerRow:
    """A training document: `prompt_row` and the answer's stream.

    Args:
      text: as `spoken_text` gives it; schedule: over it and the frames.
      asks: the Talker learns where to ask for text (the policy "learned").
    """
    builder = open_row(config, marks, voice, context, language)
    builder.stream(
        interleave(
            check_text(config, np.asarray(text, np.int32).reshape(-1)),
            check_codes(config, codes),
            schedule,
            begin=config.codec_bos_id,
            end=config.codec_eos_id,
            ask=config.ask_id if asks else None,
        )
    )
    return builder.finish()


def spoken_text(config: TalkerConfig, text: Ids) -> list[int]:
    """The text with the mark of its end, which tells the Talker that no more will come [C]."""
    return [*map(int, text), config.tts_eos_id]


def open_row(
    config: TalkerConfig,
    marks: Marks,
    voice: Voice | None,
    context: Context | None,
    language: str | None,
) -> RowBuilder:
    """A document up to the beginning of the answer's stream."""
    builder = RowBuilder(config)
    if voice is not None:
        builder.text([*marks.system, *voice.description])
        if voice.reference is not None:
            builder.mark(config.codec_bos_id)
            builder.frames(voice.reference)
            builder.mark(config.codec_eos_id)
        builder.text(marks.close)
    if context is not None:
        builder.context(context)
    builder.text(marks.assistant)
    if language is None:
        builder.mark(config.nothink_id)
    else:
        builder.mark(config.think_id, config.language_id(language))
    builder.text([config.tts_bos_id])
    return builder


def check_codes(config: TalkerConfig, codes: Int[np.ndarray, "R Q"]) -> Int[np.ndarray, "R Q"]:
    """The codes, or a UserError that names the first that no codebook has."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != config.codebooks:
        raise UserError(
            f"the frames have shape {codes.shape}, this Talker's are [frames, {config.codebooks}]"
        )
    wrong = np.argwhere((codes < 0) | (codes >= config.codebook_size))
    if len(wrong):
        frame, book = wrong[0]
        raise UserError(
            f"code {codes[frame, book]} in codebook {book} of frame {frame} is out of range, "
            f"codes are 0 to {config.codebook_size - 1}"
        )
    return codes.astype(np.int32)


def check_text(config: TalkerConfig, ids: Int[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """The ids, or a UserError that names the first that the text table has not."""
    wrong = np.flatnonzero((ids < 0) | (ids >= config.text_vocab_size))
    if len(wrong):
        raise UserError(
            f"text id {ids[wrong[0]]} at place {wrong[0]} is out of range, ids are 0 to "
            f"{config.text_vocab_size - 1}"
        )
    return ids


def collate_talker(
    config: TalkerConfig,
    rows: Sequence[Sequence[TalkerRow]],
    *,
    max_tokens: int,
    max_hidden: int = 0,
    batch_size: int | None = None,
) -> TalkerBatch:
    """Lay the documents of each row behind one another; rows that are missing stay empty.

    Raises:
      UserError: a row does not fit, with its length and the limit. Nothing is ever cut.
    """
    batch, books = batch_size or len(rows), config.codebooks
    out = TalkerRow(
        np.full((batch, max_tokens), -1, np.int32),
        np.full((batch, max_tokens, books), -1, np.int32),
        np.zeros((batch, max_tokens), bool),
        np.zeros((batch, max_tokens, 3), np.int32),
        np.zeros((batch, max_tokens, books), np.int32),
        np.zeros((batch, max_tokens), np.int32),
        np.zeros((batch, max_hidden, config.thinker_width), np.float32),
    )
    segments = np.zeros((batch, max_tokens), np.int32)
    valid = np.zeros((batch, max_hidden), bool)
    for b, row in enumerate(rows):
        t = s = 0
        for document, item in enumerate(row, start=1):
            t_end, s_end = t + len(item.tokens), s + len(item.hidden)
            for name, end, limit in (
                ("max_tokens", t_end, max_tokens),
                ("max_hidden", s_end, max_hidden),
            ):
                if end > limit:
                    unit = "positions" if name == "max_tokens" else "media positions"
                    raise UserError(f"a row has {end} {unit}, the limit ({name}) is {limit}")
            for array, part in zip(out[:-1], item[:-1], strict=True):
                array[b, t:t_end] = part
            out.hidden[b, s:s_end] = item.hidden
            segments[b, t:t_end], valid[b, s:s_end] = document, True
            t, s = t_end, s_end
    inputs = TalkerInputs(
        out.tokens,
        out.codes,
        out.media,
        np.moveaxis(out.positions, -1, 0),
        segments,
        out.hidden if max_hidden else None,
        valid if max_hidden else None,
    )
    return TalkerBatch(inputs, out.targets, out.kinds)
