"""Qwen3-Omni's two tracks: at each step a text token and the last frame, added.

The released form, for import and for the ablation: text at a fixed rate of one token a frame,
however long either is (`Qwen3OmniMoeForConditionalGeneration._get_talker_assistant_parts`).
"""

from collections.abc import Sequence

import numpy as np

from omnijax.models.talker.aria import END, FRAME, NOTHING, Stream
from omnijax.models.talker.config import TalkerConfig
from omnijax.models.talker.context import Context
from omnijax.models.talker.prompt import (
    Ids,
    Marks,
    RowBuilder,
    TalkerRow,
    Voice,
    check_codes,
    check_text,
    open_row,
)
from omnijax.typing import Int


def dual_track_row(
    config: TalkerConfig,
    marks: Marks,
    text: Ids,
    codes: Int[np.ndarray, "R Q"],
    speaker: str,
    *,
    context: Context | None = None,
) -> TalkerRow:
    """A training document of the released form; with no frames yet, the prompt of generation."""
    builder = RowBuilder(config)
    if context is not None:
        builder.context(context)
    builder.text(marks.assistant)
    opening = [
        config.nothink_id,
        config.think_bos_id,
        config.think_eos_id,
        config.speaker_id(speaker),
        config.codec_pad_id,
    ]
    beside = [config.tts_pad_id] * 4 + [config.tts_bos_id]
    builder.stream(_silent(config, beside, opening))
    builder.stream(dual_track(config, text, codes))
    return builder.finish()


def shown_dual_track_row(
    config: TalkerConfig,
    marks: Marks,
    text: Ids,
    codes: Int[np.ndarray, "R Q"],
    *,
    voice: Voice | None = None,
    context: Context | None = None,
    language: str | None = None,
) -> TalkerRow:
    """The two tracks behind ARIA's prompt, so that the streams alone differ: for the ablation.

    With no frames yet, the prompt of generation, which has the first text token.
    """
    builder = open_row(config, marks, voice, context, language)
    builder.stream(dual_track(config, text, codes))
    return builder.finish()


def dual_track(config: TalkerConfig, text: Ids, codes: Int[np.ndarray, "R Q"]) -> Stream:
    """Position i reads frame i - 1 (codec_bos at 0) and text token i: tts_eos, then tts_pad,
    once the text is over. Text past the last frame is never read."""
    codes = check_codes(config, codes)
    frames = len(codes)
    text = [*check_text(config, np.asarray(text, np.int32).reshape(-1)), config.tts_eos_id]
    text = [*text, *[config.tts_pad_id] * (frames + 1)][: frames + 1]
    read = np.full((frames + 1, config.codebooks), -1, np.int32)
    read[0, 0], read[1:] = config.codec_bos_id, codes
    targets = np.zeros_like(read)
    targets[:-1], targets[-1, 0] = codes, config.codec_eos_id
    kinds = np.full(frames + 1, FRAME, np.int32)
    kinds[-1] = END
    return Stream(np.asarray(text, np.int32), read, targets, kinds)


def _silent(config: TalkerConfig, text: Sequence[int], marks: Sequence[int]) -> Stream:
    """Text and marks side by side, nothing predicted."""
    read = np.full((len(marks), config.codebooks), -1, np.int32)
    read[:, 0] = marks
    nothing = np.full(len(marks), NOTHING, np.int32)
    return Stream(np.asarray(text, np.int32), read, np.zeros_like(read), nothing)
