"""What is counted of speech that was written down again: skips, repeats, pauses, silence."""

from types import SimpleNamespace

import numpy as np
import pytest

from omnijax.eval import spoken
from omnijax.media import Audio

RATE = 24_000


@pytest.mark.parametrize(
    ("truth", "heard", "skipped", "repeated"),
    [
        ("a red bell rings", "a red bell rings", 0, 0),
        ("a red bell rings", "a bell rings", 0.25, 0),
        ("a red bell rings", "a red red bell rings", 0, 0.25),
        ("a red bell rings", "a red blue bell rings", 0, 0),  # put in, and not said twice
        ("a red bell rings", "a red bell a red bell rings", 0, 0.75),
        ("a red bell rings", "a red bell rings a red bell rings", 0, 1),
        ("a red bell rings", "a red bell rings a red bell rings a red bell rings", 0, 2),
        ("a red bell rings", "a red bell red bell uh rings", 0, 0.5),  # of three added
        ("a red bell rings", "", 1, 0),
        ("a red bell rings", "a green bell rings", 0, 0),
    ],
)
def test_words_left_out_and_said_twice(truth, heard, skipped, repeated):
    assert spoken.skips_and_repeats([truth], [heard]) == (skipped, repeated)


def test_pauses_are_gaps_inside_that_are_longer_than_a_consonant():
    tone = 0.5 * np.sin(np.arange(RATE) / 9).astype(np.float32)
    quiet = np.zeros(RATE // 2, np.float32)
    assert spoken.pause_share(np.concatenate([quiet, tone, quiet]), RATE) == 0
    share = spoken.pause_share(np.concatenate([tone, quiet, tone]), RATE)
    assert share == pytest.approx(0.2, abs=0.01)
    short = np.concatenate([tone, quiet[: RATE // 10], tone])
    assert spoken.pause_share(short, RATE) == 0
    assert spoken.pause_share(np.zeros(0, np.float32), RATE) == 0


def _speech(*parts: float) -> np.ndarray:
    """Tones and, for negative seconds, quiet."""
    tone = 0.5 * np.sin(np.arange(9 * RATE) / 9).astype(np.float32)
    return np.concatenate([tone[: int(s * RATE)] if s > 0 else np.zeros(int(-s * RATE), np.float32)
                           for s in parts])  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "seconds"),
    [
        ((1.0, -0.5, 1.0), [2.5]),  # short enough: whole, though it pauses
        ((2.0, -0.4, 2.0), [2.2, 2.2]),
        ((1.0, -0.2, 1.0, -0.2, 1.0, -0.2, 1.0), [1.1, 1.2, 1.2, 1.1]),  # as long as between two
        ((2.0, -0.4, 1.5, -0.1, 1.0), [2.2, 2.8]),  # not where a sentence may pause
        ((2.0, -0.1, 2.0), [2.05, 2.05]),  # unless it is too long for one
        ((2.0, -0.04, 2.0), [4.04]),  # a consonant's closure is no pause
        ((6.0,), [6.0]),
    ],
)
def test_a_long_clip_is_cut_at_its_pauses_and_nothing_is_lost(parts, seconds):
    clip = Audio(_speech(*parts), RATE)
    pieces = spoken.at_pauses(clip)
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces]), clip.samples)
    assert [p.seconds for p in pieces] == pytest.approx(seconds, abs=0.03)
    quiet = Audio(np.zeros(5 * RATE, np.float32), RATE)
    assert [p.seconds for p in spoken.at_pauses(quiet)] == [5.0]


def test_longer_answers_join_sentences_of_one_voice_and_language_and_use_none_twice():
    def said(i, voice, language):
        clip = Audio(np.full(3, i, np.float32), RATE)
        return {"meta": {"answer": f"{i}", "voice": voice, "language": language, "speech": clip}}

    voices = [("a", "en"), ("b", "en"), ("a", "de")]
    examples = [said(i, *voices[i % 3]) for i in range(13)]  # a speaks English five times
    answers = [example["meta"] for example in spoken.joined(examples, 2)]
    assert [(meta["voice"], meta["language"]) for meta in answers] == [*voices, *voices]
    assert [meta["answer"] for meta in answers] == ["0 3", "1 4", "2 5", "6 9", "7 10", "8 11"]
    for meta in answers:
        expected = np.repeat([float(i) for i in meta["answer"].split()], 3)
        np.testing.assert_array_equal(meta["speech"].samples, expected)


def test_what_is_heard_of_a_clips_pieces_is_joined_in_order(monkeypatch):
    monkeypatch.setattr(
        spoken, "answer",
        lambda generator, tokenizer, processor, chats, batch_size: [
            f"{chat['messages'][0]['content'][0]['audio'].seconds:.1f}" for chat in chats
        ],
    )  # fmt: skip
    recogniser = SimpleNamespace(generator=lambda max_len: None, tokenizer=None, processor=None)
    clips = [Audio(_speech(*parts), RATE) for parts in ((1.0,), (2.0, -0.4, 2.5), (0.5,))]
    assert spoken.transcripts(recogniser, clips) == ["1.0", "2.2 2.7", "0.5"]


def test_a_clip_without_samples_is_heard_as_nothing_and_the_others_keep_their_places(monkeypatch):
    asked = []

    def written(generator, tokenizer, processor, chats, batch_size):
        asked.extend(chats)
        return [f"heard {i}" for i in range(len(chats))]

    monkeypatch.setattr(spoken, "answer", written)
    recogniser = SimpleNamespace(generator=lambda max_len: None, tokenizer=None, processor=None)
    empty, sound = Audio(np.zeros(0, np.float32), RATE), Audio(np.ones(9, np.float32), RATE)
    assert spoken.transcripts(recogniser, [empty, sound, empty, sound]) == [
        "", "heard 0", "", "heard 1"
    ]  # fmt: skip
    assert len(asked) == 2
    assert spoken.transcripts(recogniser, [empty]) == [""] and len(asked) == 2
