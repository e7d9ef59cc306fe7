"""Text as it comes, sound as it is made: the same sound however the text arrived."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.generate.speaker import WORD, Speaker
from omnijax.media import Audio
from omnijax.models.codec import Codec
from omnijax.models.talker import Talker
from omnijax.models.talker.prompt import Voice

sys.path.insert(0, str(Path(__file__).parent))
import tiny_speaker as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")
TEXT = "the red circle is left of the blue cross"
LIMIT = 30


@pytest.fixture(scope="module")
def speaker():
    return tiny.speaker()


def spoken(speaker, *pieces):
    speech = speaker.start(speaker.voice("anna"), max_frames=LIMIT)
    sound = []
    for i, piece in enumerate(pieces):
        speech.push(piece, last=i == len(pieces) - 1)
        sound.append(tiny.drained(speech))
    return speech, sound


def test_streamed_sound_is_what_the_same_codes_give_offline(speaker):
    speech, sound = spoken(speaker, TEXT)
    codes = np.concatenate(speech.codes)
    assert len(codes) == LIMIT and speech.done and speech.reason == "length"
    np.testing.assert_allclose(np.concatenate(sound), speaker.decode(codes), atol=1e-5)


@pytest.mark.parametrize(
    "pieces",
    [
        ("the red circle ", "is left of ", "the blue cross"),
        tuple(TEXT),
        ("the red circle is left of the blue cro", "ss", ""),
    ],
)
def test_late_and_split_text_gives_the_same_sound_and_waits_for_it(speaker, pieces):
    whole, (at_once,) = spoken(speaker, TEXT)
    speech, sound = spoken(speaker, *pieces)
    np.testing.assert_allclose(np.concatenate(sound), at_once, atol=1e-5)
    assert all(read <= whole.read[-1] for read in speech.read)
    early = sum(map(len, sound[:-1])) // speaker.codec.config.samples_per_frame
    assert early < LIMIT  # it did not speak on without text


@settings(deadline=None, max_examples=300)
@given(st.text("ab .,!?\n\t'é1-", max_size=24))
def test_the_tokens_of_words_are_those_of_the_text(text):
    words = WORD.split(text)
    assert "".join(words) == text
    ids = [one for word in words for one in tiny.TOKENIZER.encode(word, literal=True)]
    assert ids == tiny.TOKENIZER.encode(text, literal=True)


def test_a_word_ends_at_any_spaces_and_at_a_line_s_end():
    assert WORD.split("a  bell.\nIt rings") == ["a", "  bell.\n", "It", " rings"]


def test_a_voice_is_heard_in_the_codes(speaker):
    anna = spoken(speaker, TEXT)[0].codes
    speech = speaker.start(speaker.voice("ben"), max_frames=LIMIT)
    speech.push(TEXT, last=True)
    tiny.drained(speech)
    assert not np.array_equal(np.concatenate(anna), np.concatenate(speech.codes))


def test_answers_of_a_batch_are_each_what_they_are_alone(speaker):
    texts = [TEXT, "a bell"]
    voices = [speaker.voice("anna"), speaker.voice("ben")]
    both = speaker.say(texts, voices)
    for text, voice, batched in zip(texts, voices, both, strict=True):
        alone = speaker.say([text], [voice])[0]
        assert len(batched) == len(alone) > 0
        np.testing.assert_allclose(batched, alone, atol=1e-5)


@pytest.mark.slow
def test_guidance_is_of_voices_that_are_only_shown():
    as_they_are, guided = (
        tiny.speaker(dataclasses.replace(tiny.GREEDY, guidance=guidance), max_len=64)
        for guidance in (1.0, 3.0)
    )
    stored, cloned = as_they_are.voice("anna"), Voice((), tiny.VOICES[0].codes)
    texts = ["a bell", TEXT]
    before = as_they_are.say_codes(texts, [stored, cloned], whole=False)
    after = guided.say_codes(texts, [stored, cloned], whole=False)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    speech = guided.start(cloned)
    speech.push(TEXT, last=True)
    tiny.drained(speech)
    np.testing.assert_array_equal(np.concatenate(speech.codes), after[1])
    assert speech.cut
    with pytest.raises(UserError, match=r"speech of row 1 does not fit: .*\(max_len\) is 64"):
        guided.say(texts, [stored, cloned])


def test_a_talker_of_two_tracks_is_guided_too():
    model = Talker(dataclasses.replace(tiny.TALKER, form="dual_track"))
    codec = Codec(tiny.tiny_codec.config())
    before, after = (
        Speaker(
            model, tiny.params(), codec, tiny.codec_params(), tiny.TOKENIZER, tiny.VOICES,
            dataclasses.replace(tiny.GREEDY, guidance=guidance), max_len=64,
        ).say_codes(
            [TEXT, TEXT], [Voice((), tiny.VOICES[0].codes), Voice((9,), None)], whole=False
        )
        for guidance in (1.0, 3.0)
    )  # fmt: skip
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_what_was_said_grows_with_the_sound_and_is_never_ahead_of_the_text(speaker):
    speech = speaker.start(speaker.voice("anna"), max_frames=LIMIT)
    speech.push(TEXT, last=True)
    seen = []
    for _ in speech.packets():
        seen.append(speech.said)
        assert TEXT.startswith(speech.said)
    assert seen == sorted(seen, key=len) and seen[0] != seen[-1]


def test_nothing_that_can_be_said_is_silence_and_not_noise(speaker):
    speech = speaker.start(speaker.voice())
    speech.push(" ... !", last=True)
    assert speech.done and speech.reason == "nothing to say"
    assert not len(tiny.drained(speech))
    slowly = speaker.start(speaker.voice())
    for piece in ("... ... !!! ", "... ??? ... ", "... ..."):
        slowly.push(piece)
        assert not len(tiny.drained(slowly))
    slowly.push("", last=True)
    assert slowly.done and slowly.reason == "nothing to say"
    with pytest.raises(UserError, match="nothing to say in '!'"):
        speaker.say(["!"], [speaker.voice()])


def test_a_clip_shows_a_voice_and_a_bad_clip_is_refused(speaker):
    rng = np.random.default_rng(0)
    clip = (0.1 * rng.standard_normal(24_000)).astype(np.float32)
    voice = speaker.clone(Audio(clip, 24_000))
    assert voice.reference.shape == (500, 4) and not len(voice.description)
    for samples, message in (
        (clip[:1000], "lasts 0.04 s, a voice is shown by 0.8 to 10 s"),
        (0 * clip, "the reference is silent: its peak is 0.0000"),
        (np.sign(clip), "the reference is clipped: 100.0% of it"),
        (clip * np.nan, "must be a finite number"),
    ):
        with pytest.raises(UserError, match=message):
            speaker.clone(Audio(samples.astype(np.float32), 24_000))


def test_a_voice_or_language_that_is_not_known_is_named(speaker):
    with pytest.raises(UserError, match="no voice 'zoe', there are anna, ben"):
        speaker.voice("zoe")
    with pytest.raises(UserError, match="the language 'xx' is unknown to this Talker"):
        speaker.start(speaker.voice(), language="xx")
    with pytest.raises(UserError, match="description of the voice is empty"):
        speaker.voice(describe=" ")


def test_text_is_held_back_by_the_languages_pace():
    config = dataclasses.replace(tiny.GREEDY, lead=2)
    held = tiny.speaker(config, pace={"": 1.0, "en": 6.0})
    read = {}
    for language in (None, "en"):
        speech = held.start(held.voice("anna"), language=language, max_frames=24)
        speech.push(TEXT, last=True)
        tiny.drained(speech)
        read[language] = speech.read
    # Of four tokens read two may be unsaid: the others have two frames, or twelve: three packets.
    assert read[None][:2] == [4, 8] and read["en"][:4] == [4, 4, 4, 8]
    quick, slow = (
        held.say_codes([TEXT], [held.voice("anna")], languages=[name])[0] for name in (None, "en")
    )
    assert not np.array_equal(quick[:24], slow[:24])
    with pytest.raises(UserError, match="the pace of 'en' is 0"):
        tiny.speaker(pace={"en": 0.0})


def test_each_language_has_a_pace_by_which_is_told_what_was_said():
    speaker = tiny.speaker(pace={"": 4.0, "en": 1.0})

    def after_a_packet(language):
        speech = speaker.start(speaker.voice("anna"), language=language)
        speech.push(TEXT)
        assert len(next(speech.packets()))
        return speech.said

    assert len(after_a_packet("en")) > len(after_a_packet(None))
    assert after_a_packet("de") == after_a_packet(None)  # no pace of its own
