"""Speech metrics: perfect for the clip itself, worse with more noise, and clear about bad input."""

import sys
from pathlib import Path

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.eval import speech as speech_metrics
from omnijax.eval.speech import (
    codebook_use,
    mel_distance,
    pesq,
    pitch_kept,
    stoi,
    streamed_apart,
)
from omnijax.media import Audio
from omnijax.models.codec import init_decode_state, stream_decode

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
import tiny_codec as tiny  # noqa: E402


@pytest.fixture(scope="module")
def speech():
    from omnijax.data.omniworld import live

    return live("validation", tasks=["say"])[0]["meta"]["speech"]


def noisy(clip, size):
    noise = np.random.default_rng(0).standard_normal(len(clip.samples)) * size
    return clip._replace(samples=(clip.samples + noise).astype(np.float32))


def test_the_clip_itself_is_perfect_and_more_noise_is_worse(speech):
    assert stoi(speech, speech) == pytest.approx(1, abs=1e-6)
    assert mel_distance(speech, speech) == 0
    little, much = noisy(speech, 0.01), noisy(speech, 0.3)
    assert 1 > stoi(speech, little) > stoi(speech, much)
    assert 0 < mel_distance(speech, little) < mel_distance(speech, much)


def buzz(hertz, seconds=0.6):
    t = np.arange(int(seconds * 24_000)) / 24_000
    wave = sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 8))
    return Audio((0.1 * wave).astype(np.float32), 24_000)


def test_pitch_is_kept_by_the_clip_itself_raised_by_an_octave_and_lost_in_a_whisper():
    voice = buzz(120)
    silence = voice._replace(samples=0 * voice.samples)
    whisper = noisy(silence, 0.1)
    same = pitch_kept([(voice, voice)])
    assert same.voiced == 1 and same.semitones == 0
    raised = pitch_kept([(voice, buzz(240))])
    assert raised.voiced > 0.9 and raised.semitones == pytest.approx(12, abs=0.2)
    lost = pitch_kept([(voice, silence)])
    assert lost.voiced == 0 and lost.semitones is None
    assert pitch_kept([(voice, whisper)]).voiced < 0.2
    # All frames of all clips count; a copy that hums where there was no voice is told.
    both = pitch_kept([(voice, voice), (voice, silence)])
    assert both.voiced == pytest.approx(0.5) and both.semitones == 0
    assert pitch_kept([(voice, voice), (whisper, voice)]).hummed > 0.8
    with pytest.raises(UserError, match="nothing in the 1 clips has a pitch"):
        pitch_kept([(silence, voice)])


def test_pesq_falls_with_noise_and_says_what_it_needs(speech):
    try:
        import pesq as _  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r'pip install -e "\.\[pesq\]"'):
            pesq(speech, speech)
        return
    assert pesq(speech, speech) == pytest.approx(4.64, abs=0.01)
    assert 4.6 > pesq(speech, noisy(speech, 0.003)) > pesq(speech, noisy(speech, 0.1)) > 1
    with pytest.raises(UserError, match="PESQ finds no speech"):
        pesq(*[Audio(np.zeros(24_000, np.float32), 24_000)] * 2)


def test_codebook_use_counts_codes_and_their_evenness():
    codes = np.array([[0, 3], [1, 3], [2, 3], [3, 3]])
    use = codebook_use([codes[:1], codes[1:]], size=4)
    np.testing.assert_allclose(use.share, [1, 0.25])
    np.testing.assert_allclose(use.perplexity, [4, 1])


def test_clips_that_cannot_be_compared_are_refused(speech):
    shorter = speech._replace(samples=speech.samples[:-1])
    with pytest.raises(UserError, match="one length and rate"):
        stoi(speech, shorter)
    with pytest.raises(UserError, match="one length and rate"):
        mel_distance(speech, speech._replace(sample_rate=16_000))
    silent = Audio(np.zeros(24_000, np.float32), 24_000)
    with pytest.raises(UserError, match="STOI needs 0.4 s of speech"):
        stoi(silent, silent)
    apart = np.zeros(48_000, np.float32)
    for start in (0, 36_000):  # 0.1 s each, over a second apart
        apart[start : start + 2400] = noisy(silent, 0.1).samples[:2400]
    with pytest.raises(UserError, match="the clip of 2.00 s has less"):
        stoi(Audio(apart, 24_000), Audio(apart, 24_000))
    with pytest.raises(UserError, match="no codes"):
        codebook_use([], size=4)
    with pytest.raises(UserError, match="no codes to stream"):
        streamed_apart(tiny.MODEL, {}, [])
    with pytest.raises(UserError, match="longest is 0, it must be at least 1"):
        streamed_apart(tiny.MODEL, {}, [tiny.codes(1, 3)[0]], longest=0)


@pytest.mark.parametrize("run", [0, 1])
def test_what_streaming_changes_is_found_wherever_it_is(monkeypatch, run):
    codec = tiny.MODEL
    params = tiny.params(codec)["params"]
    clips = [tiny.codes(1, n, seed=n)[0] for n in (7, 9, 5)]
    assert streamed_apart(codec, params, clips, frames=10) < 1e-5
    assert streamed_apart(codec, params, clips, frames=50) < 1e-5  # fewer than one run

    def apart_where(changed):
        frames = 0

        def decode(model, params, state, codes):
            nonlocal frames
            frames += codes.shape[1]
            after, samples = stream_decode(model, params, state, codes)
            last = frames == 10 * (run + 1)
            return changed(model, after, samples, last, frames > 10 * run)

        monkeypatch.setattr(speech_metrics, "stream_decode", decode)
        return streamed_apart(codec, params, clips, frames=10, longest=3)

    def louder(model, state, samples, last, here):
        return state, samples + 0.01 * last

    def broken(model, state, samples, last, here):
        return state, samples * np.where(last, np.nan, 1)

    def forgetful(model, state, samples, last, here):
        return init_decode_state(model) if here else state, samples

    assert apart_where(louder) == pytest.approx(0.01, abs=1e-5)
    assert np.isnan(apart_where(broken))
    assert apart_where(forgetful) > 1e-3
