"""What is said for a Talker alone: answers, sentences in many voices, mere words."""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld import aloud as spoken_aloud
from omnijax.data.omniworld import speech, voices
from omnijax.data.omniworld.speech import changed, speak, synthesise
from omnijax.data.omniworld.tasks import plan
from omnijax.errors import UserError
from omnijax.eval.speech import pitch_track
from omnijax.eval.voices import voice_print
from omnijax.media import Audio


def test_a_reply_is_one_line_or_sentence_of_an_answer_and_never_a_call():
    seen = set()
    for index in range(400):
        made = plan(index)
        for text, number in spoken_aloud.replies_of(made):
            assert made["messages"][number]["role"] == "assistant"
            assert text in made["messages"][number]["content"]
            assert text == text.strip() and "\n" not in text and "tool_call" not in text
            seen.add(made["task"])
    assert seen == {*omniworld.MIXTURE} - {"transcribe"}


def test_a_time_in_brackets_is_spoken_without_them(monkeypatch):
    aloud = []

    def spoken(rng, text, language, split):
        aloud.append(text)
        return {"kind": "speech", "text": "yes", "language": language, "voice": "anna",
                "accent": "en"}  # fmt: skip

    monkeypatch.setattr(spoken_aloud, "spoken", spoken)
    texts = [spoken_aloud.reply(index, "train")["meta"]["answer"] for index in range(60)]
    timed = [pair for pair in zip(texts, aloud, strict=True) if pair[0].startswith("<")]
    assert timed
    for text, said in timed:
        assert said == text.replace("<", "").replace(">", ",")


def test_replies_are_the_same_for_the_same_index_and_others_for_another_split():
    train, again = (omniworld.live("train", tasks=["say_reply"]) for _ in range(2))
    one, two = train[3], again[3]
    assert one["meta"]["answer"] == two["meta"]["answer"]
    np.testing.assert_array_equal(one["meta"]["speech"].samples, two["meta"]["speech"].samples)
    assert one["meta"]["speech"].sample_rate == 24_000 and one["meta"]["speech"].seconds >= 1
    test = omniworld.live("test", tasks=["say_reply"])
    assert len(test) == 500 < len(train)
    assert [test[i]["meta"]["answer"] for i in range(8)] != [
        train[i]["meta"]["answer"] for i in range(8)
    ]
    with pytest.raises(IndexError):
        test[500]


def test_the_question_of_a_reply_is_the_chat_up_to_it_with_its_media():
    train, seen = omniworld.live("train", tasks=["say_reply"]), set()
    for index in range(12):
        reply = train[index]
        asked, messages = reply["meta"]["asked"], spoken_aloud.question_of(reply)["messages"]
        whole = omniworld.example(asked["index"], asked["split"])["chat"]["messages"]
        assert messages[-1]["role"] in ("user", "tool")
        assert reply["meta"]["answer"] in whole[len(messages)]["content"]
        seen |= {
            item["type"]
            for message in messages
            if not isinstance(message["content"], str)
            for item in message["content"]
            if item["type"] == "text" or item[item["type"]] is not None
        }
    assert {"text", "image"} < seen


def test_replies_stand_alone_in_a_source():
    with pytest.raises(UserError, match="say_reply is a source of its own in train"):
        omniworld.live("train", tasks=["say_reply", "say"])
    with pytest.raises(UserError, match="say_reply is a source of its own in train"):
        omniworld.live("test_voice", tasks=["say_reply"])


def test_many_voices_say_sentences_the_same_ones_for_the_same_index():
    train = omniworld.live("train", tasks=["say_by_many"])
    metas = [train[i]["meta"] for i in range(12)]
    assert len({meta["voice"] for meta in metas}) > 8
    assert all(meta["voice"].startswith("drawn ") for meta in metas)
    assert len({meta["language"] for meta in metas}) > 1
    again = omniworld.live("train", tasks=["say_by_many"])[3]["meta"]
    assert again["answer"] == metas[3]["answer"]
    np.testing.assert_array_equal(again["speech"].samples, metas[3]["speech"].samples)
    with pytest.raises(UserError, match="say_by_many is a source of its own in train"):
        omniworld.live("test_voice", tasks=["say_by_many"])


def test_words_are_said_in_no_order_in_every_language():
    train = omniworld.live("train", tasks=["say_words"])
    metas = [train[i]["meta"] for i in range(40)]
    assert {meta["language"] for meta in metas} == {"en", "de", "es", "fr"}
    drawn = [meta["voice"] for meta in metas if meta["voice"].startswith("drawn ")]
    own = {meta["voice"] for meta in metas} - set(drawn)
    assert own <= {voice.name for voice in voices.VOICES}
    assert 8 < len(drawn) < 32 and len(set(drawn)) > 8 and len(own) > 4
    assert all(meta["speech"].sample_rate == 24_000 for meta in metas)
    # What comes after a word is told by less than half as many pairs that are met again.
    sentences = omniworld.live("train", tasks=["say"])
    shares = []
    for answers in (
        [m["answer"] for m in metas],
        [sentences[i]["meta"]["answer"] for i in range(40)],
    ):
        pairs = Counter(pair for answer in answers for pair in pairwise(answer.split()))
        shares.append(sum(n for n in pairs.values() if n > 1) / pairs.total())
    assert 2 * shares[0] < shares[1]
    again = omniworld.live("train", tasks=["say_words"])[3]["meta"]
    assert again["answer"] == metas[3]["answer"]
    np.testing.assert_array_equal(again["speech"].samples, metas[3]["speech"].samples)


def test_words_of_a_split_are_drawn_from_plans_of_its_own(monkeypatch):
    seen = []

    def noted(index, split, seed):
        seen.append((split, seed))
        return plan(index, split, seed)

    monkeypatch.setattr(spoken_aloud, "plan", noted)
    for split in ("train", "validation", "test"):
        omniworld.live(split, tasks=["say_words"])[3]
    assert len(set(seen)) == 3 and {split for split, _ in seen} == {"words"}


def test_drawn_voices_are_many_and_none_is_made_of_an_unseen_one_s_variant():
    drawn = [voices.drawn_voice(number) for number in range(voices.DRAWN)]
    assert len({voice.formants for voice in drawn}) == voices.DRAWN
    unseen = {voice.variant for voice in voices.UNSEEN_VOICES}
    assert not unseen & {voice.variant for voice in drawn}
    assert len({voice.variant for voice in drawn}) > 40
    women = [voice for voice in drawn if voice.description.endswith("woman")]
    assert 0.4 < len(women) / len(drawn) < 0.6
    assert voices.voice_of("drawn 7") == drawn[7] and voices.voice_of("anna").name == "anna"


def test_drawn_voices_are_heard_and_hardly_clip():
    drawn = [voices.drawn_voice(number) for number in range(400)]
    assert len({voice.variant for voice in drawn}) > 40
    clipped = []
    for voice in drawn:
        variant = f"en-us+{voice.variant}"
        samples, _ = synthesise("a red circle moves", variant, 155, voice.pitch, voice.formants)
        assert 0.1 < np.abs(samples).max(), voice
        clipped.append(np.mean(np.abs(samples) > 0.99))
    assert max(clipped) < 3e-3 and np.mean(np.array(clipped) > 1e-3) < 0.02


def test_what_a_variant_says_of_its_formants_is_changed_and_nothing_else():
    lines = [
        "name someone",
        "formant 0 105 80 150",
        "  formant 0 1 1 1",  # espeak-ng reads none that is indented
        "formant 1 120 75 150 -50",
        "formant 2 110 // wide",
        "voicing 30",
    ]
    factors = ((1.0, 1.0, 1.0), (1.1, 0.8, 1.2), (0.9, 3.0, 3.0), (2.0, 2.0, 2.0))
    assert changed(lines, factors) == [
        "name someone",
        "formant 0 105 80 150",
        "  formant 0 1 1 1",
        "formant 1 132 60 180 -50",
        "formant 2 99",
        "voicing 30",
    ]


def test_changed_formants_are_heard_at_each_utterance_and_not_after_it():
    same = ("a red circle moves", "en-us+m2", 155, 50)
    plain, _ = synthesise(*same)
    own, _ = synthesise(*same, voices.drawn_voice(0).formants)
    other, _ = synthesise(*same, voices.drawn_voice(1).formants)
    again, _ = synthesise(*same, voices.drawn_voice(0).formants)
    np.testing.assert_array_equal(own, again)
    np.testing.assert_array_equal(plain, synthesise(*same)[0])
    for one, two in ((own, plain), (own, other)):
        prints = [voice_print(Audio(sound, 22_050)) for sound in (one, two)]
        assert abs(prints[0].pitch - prints[1].pitch) < 0.05  # in octaves
        assert np.abs(prints[0].spectrum - prints[1].spectrum).max() > 0.2


def test_factors_of_one_leave_every_variant_as_it_is():
    ones = ((1.0, 1.0, 1.0),) * 9
    for variant in {voices.drawn_voice(number).variant for number in range(400)}:
        same = ("a red circle moves", f"en-us+{variant}", 155, 50)
        np.testing.assert_array_equal(synthesise(*same, ones)[0], synthesise(*same)[0], variant)


def test_changed_formants_need_a_folder_of_a_name_that_espeak_can_hold(monkeypatch, tmp_path):
    deep = tmp_path / ("a" * 70) / ("b" * 70)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setattr(speech, "_own", {})
    with pytest.raises(UserError, match=r"has \d+ bytes, the limit is 140 \(TMPDIR"):
        synthesise("red", "en", 150, 50, voices.drawn_voice(0).formants)
    assert not [*deep.iterdir()]


def test_a_folder_of_changed_formants_that_was_swept_away_is_made_again():
    same = ("a red circle moves", "en-us+m2", 155, 50, voices.drawn_voice(0).formants)
    before, _ = synthesise(*same)
    shutil.rmtree(speech._own_data())
    np.testing.assert_array_equal(before, synthesise(*same)[0])


def test_what_is_left_of_changed_formants_goes_with_the_process():
    program = (
        "from omnijax.data.omniworld import speech, voices\n"
        "speech.synthesise('red', 'en+m2', 150, 50, voices.drawn_voice(0).formants)\n"
        "print(speech._own_data())"
    )
    left = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    folder = Path(left.stdout.strip())
    assert folder.name.startswith("espeak-") and not folder.exists(), left.stderr


def test_drawn_voices_are_called_low_and_high_by_how_they_sound():
    heard = {}
    for number in range(24):
        voice = voices.drawn_voice(number)
        samples = speak("the red circle moves left", voice.name, "en", np.random.default_rng(0))
        pitch = 2 ** voice_print(Audio(samples.astype(np.float32), 16_000)).pitch
        words = voice.description.split()
        heard.setdefault(words[-1], []).append((pitch, words))
    for sex in ("man", "woman"):
        low, high = ([f0 for f0, words in heard[sex] if word in words] for word in ("low", "high"))
        assert low and high and max(low) < min(high), heard[sex]


def test_the_lowest_drawn_voice_ends_no_sentence_far_under_what_a_codec_s_source_says():
    drawn = [voices.drawn_voice(number) for number in range(voices.DRAWN)]
    hertz = {voice: voices._MEN.get(voice.variant, 999) * voice.stretch for voice in drawn}
    low = min(drawn, key=lambda voice: hertz[voice] * 2 ** (voice.pitch / voices._PITCH_OCTAVE))
    spoken, rate = synthesise(
        "the red circle moves left", f"en-us+{low.variant}", low.rate, low.pitch - 4, low.formants
    )
    f0, _ = pitch_track(Audio(spoken, rate))
    f0 = f0[np.isfinite(f0)] * low.stretch
    assert 70 < np.median(f0) < 82 and np.percentile(f0, 10) > 63


def test_a_voice_that_changes_changes_the_mark_of_the_voices(monkeypatch):
    before = voices.fingerprint_of_voices()
    assert voices.fingerprint_of_voices.__wrapped__() == before
    drawn = voices.drawn_voice
    higher = {7: drawn(7)._replace(pitch=drawn(7).pitch + 1)}
    monkeypatch.setattr(voices, "drawn_voice", lambda number: higher.get(number) or drawn(number))
    assert voices.fingerprint_of_voices.__wrapped__() != before


def test_a_stretched_voice_is_higher_and_as_quick(monkeypatch):
    anna = voices.BY_NAME["anna"]
    monkeypatch.setitem(voices.BY_NAME, "higher", anna._replace(stretch=1.15))

    def said(name):
        samples = speak("the red circle moves left", name, "en", np.random.default_rng(0))
        return voice_print(Audio(samples.astype(np.float32), 16_000)).pitch, len(samples)

    (low, long), (high, other) = said("anna"), said("higher")
    assert high - low == pytest.approx(np.log2(1.15), abs=0.03)
    assert abs(other / long - 1) < 0.05
