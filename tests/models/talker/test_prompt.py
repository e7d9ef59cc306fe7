"""What a Talker reads, place by place, and what is refused."""

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.models.talker import aria, presets
from omnijax.models.talker.context import Context
from omnijax.models.talker.dual_track import dual_track_row
from omnijax.models.talker.prompt import (
    Marks,
    Voice,
    answer_row,
    chat_marks,
    collate_talker,
    prompt_row,
    spoken_text,
)
from omnijax.text.tokenizer import nano_tokenizer

pytestmark = pytest.mark.usefixtures("quick_compile")

CONFIG = presets.tiny()
MARKS = Marks((1, 2, 3), (1, 4, 3), (5, 3))
FRAMES = np.arange(12).reshape(3, 4)
CONTEXT = Context(
    tokens=np.array([7, 0, 0, 8]),
    media=np.array([False, True, True, False]),
    hidden=np.arange(48.0, dtype=np.float32).reshape(2, 24),
    positions=np.array([[5, 5, 5], [6, 6, 6], [6, 6, 7], [8, 8, 8]]),
)


def read(row):
    """Each position in words: a text id, "c" and a mark, the codes of a frame, or "media"."""
    said = []
    for token, codes, media in zip(row.tokens, row.codes, row.media, strict=True):
        parts = [int(token)] if token >= 0 else []
        if codes[1] >= 0:
            parts.append(codes.tolist())
        elif codes[0] >= 0:
            parts.append(f"c{codes[0] - CONFIG.control_base}")
        parts += ["media"] if media else []
        said.append(parts[0] if len(parts) == 1 else tuple(parts))
    return said


def test_a_prompt_is_voice_context_and_opening_in_order():
    row = prompt_row(CONFIG, MARKS, voice=Voice((9,), FRAMES[:2]), context=CONTEXT, language="de")
    system = [1, 2, 3, 9, "c1", [0, 1, 2, 3], [4, 5, 6, 7], "c2", 5, 3]
    opening = [1, 4, 3, "c6", f"c{17 - 20}", 62, "c1"]
    assert read(row) == [*system, 7, "media", "media", 8, *opening]
    assert (row.kinds == aria.NOTHING).all()
    np.testing.assert_array_equal(row.hidden, CONTEXT.hidden)
    # The Thinker's ids, moved to where the context begins; what follows goes on after the largest.
    assert row.positions[:, 0].tolist() == [*range(11), 11, 11, 13, *range(14, 21)]
    assert row.positions[10:14, 2].tolist() == [10, 11, 12, 13]


def test_a_voice_that_is_only_described_has_no_frames_and_none_has_no_system():
    row = prompt_row(CONFIG, MARKS, voice=Voice((9, 10)))
    assert read(row) == [1, 2, 3, 9, 10, 5, 3, 1, 4, 3, "c7", 62, "c1"]
    assert read(prompt_row(CONFIG, MARKS)) == [1, 4, 3, "c7", 62, "c1"]


def test_an_answer_goes_on_from_its_prompt_and_predicts_frames_end_and_requests():
    text = spoken_text(CONFIG, [30, 31])
    schedule = aria.earliest(3, 3)
    row = answer_row(CONFIG, MARKS, text, FRAMES, schedule, context=CONTEXT, asks=True)
    prompt = prompt_row(CONFIG, MARKS, context=CONTEXT)
    begin = len(prompt.tokens)
    for whole, part in zip(row[:-1], prompt[:-1], strict=True):
        if part is not prompt.targets and part is not prompt.kinds:
            np.testing.assert_array_equal(whole[:begin], part)
    stream = [30, [0, 1, 2, 3], 31, [4, 5, 6, 7], 63, [8, 9, 10, 11]]
    assert read(row)[begin - 1 :] == ["c1", *stream]
    assert row.kinds[begin - 1 :].tolist() == [aria.ASK, aria.FRAME] * 3 + [aria.END]
    assert row.targets[begin - 1 :, 0].tolist() == [23, 0, 23, 4, 23, 8, 22]
    assert (row.kinds[: begin - 1] == aria.NOTHING).all()


def test_the_released_form_adds_text_and_frame_at_each_step():
    config = presets.tiny("dual_track")
    row = dual_track_row(config, MARKS, [30, 31], FRAMES, "ethan", context=CONTEXT)
    pad, bos, eos = 61, 62, 63
    opening = [(pad, "c7"), (pad, "c8"), (pad, "c9"), (pad, f"c{18 - 20}"), (bos, "c0")]
    steps = [(30, "c1"), (31, [0, 1, 2, 3]), (eos, [4, 5, 6, 7]), (pad, [8, 9, 10, 11])]
    assert read(row) == [7, "media", "media", 8, 1, 4, 3, *opening, *steps]
    assert row.targets[-4:, 0].tolist() == [0, 4, 8, config.codec_eos_id]
    assert row.kinds[-4:].tolist() == [aria.FRAME] * 3 + [aria.END]
    with pytest.raises(UserError, match="speaker 'nobody' is unknown.*knows ethan"):
        dual_track_row(config, MARKS, [30], FRAMES, "nobody")


def test_what_is_out_of_range_is_named_with_its_place_and_the_limit():
    wrong = FRAMES.copy()
    wrong[2, 1] = 16
    with pytest.raises(UserError, match="code 16 in codebook 1 of frame 2 .* 0 to 15"):
        prompt_row(CONFIG, MARKS, voice=Voice(reference=wrong))
    with pytest.raises(UserError, match=r"shape \(3, 3\), this Talker's are \[frames, 4\]"):
        prompt_row(CONFIG, MARKS, voice=Voice(reference=FRAMES[:, :3]))
    with pytest.raises(UserError, match="text id 64 at place 1 .* 0 to 63"):
        answer_row(CONFIG, MARKS, [3, 64], FRAMES, aria.earliest(2, 3))
    with pytest.raises(UserError, match="language 'xx' is unknown to this Talker, it knows en, de"):
        prompt_row(CONFIG, MARKS, language="xx")
    place = int(np.flatnonzero(~CONTEXT.media)[-1])
    tokens = np.where(np.arange(len(CONTEXT.tokens)) == place, 64, CONTEXT.tokens)
    with pytest.raises(UserError, match=f"text id 64 at place {place} "):
        prompt_row(CONFIG, MARKS, context=CONTEXT._replace(tokens=tokens))
    with pytest.raises(UserError, match="2 media positions and 1 states"):
        prompt_row(CONFIG, MARKS, context=CONTEXT._replace(hidden=CONTEXT.hidden[:1]))
    with pytest.raises(UserError, match=r"states have shape \(2, 20\), .* Thinker has width 24"):
        prompt_row(CONFIG, MARKS, context=CONTEXT._replace(hidden=CONTEXT.hidden[:, :20]))


def test_packed_rows_keep_every_document_whole_and_in_its_place():
    a = answer_row(CONFIG, MARKS, [30], FRAMES, aria.earliest(1, 3), context=CONTEXT)
    b = answer_row(CONFIG, MARKS, [31, 32], FRAMES[:1], aria.earliest(2, 1))
    size = len(a.tokens) + len(b.tokens)
    batch = collate_talker(CONFIG, [[a, b], [b]], max_tokens=size + 3, max_hidden=5, batch_size=3)
    ids = batch.inputs.segment_ids
    assert ids.sum(1).tolist() == [len(a.tokens) + 2 * len(b.tokens), len(b.tokens), 0]
    for row, document, item in ((0, 1, a), (0, 2, b), (1, 1, b)):
        at = ids[row] == document
        np.testing.assert_array_equal(batch.inputs.tokens[row, at], item.tokens)
        np.testing.assert_array_equal(batch.inputs.codes[row, at], item.codes)
        np.testing.assert_array_equal(batch.inputs.positions[:, row, at].T, item.positions)
        np.testing.assert_array_equal(batch.targets[row, at], item.targets)
        np.testing.assert_array_equal(batch.kinds[row, at], item.kinds)
    assert batch.inputs.hidden_valid.sum(1).tolist() == [2, 0, 0]
    with pytest.raises(UserError, match=rf"{size} positions, the limit \(max_tokens\) is 20"):
        collate_talker(CONFIG, [[a, b]], max_tokens=20, max_hidden=2)
    with pytest.raises(UserError, match=r"2 media positions, the limit \(max_hidden\) is 1"):
        collate_talker(CONFIG, [[a]], max_tokens=size, max_hidden=1)


def test_nanos_marks_are_those_of_its_tokenizer():
    tokenizer, config = nano_tokenizer(), presets.nano()
    marks = chat_marks(tokenizer)
    assert tokenizer.decode([*marks.system, *marks.close, *marks.assistant]) == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>assistant\n"
    )
    for name in ("tts_pad", "tts_bos", "tts_eos"):
        assert getattr(config, f"{name}_id") == tokenizer.special(name)
    assert tokenizer.vocab_size <= config.text_vocab_size
