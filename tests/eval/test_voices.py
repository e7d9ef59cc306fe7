"""Voices told apart by pitch and spectrum; clones are scored against all of them."""

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.eval.voices import (
    PITCH_AND_SPECTRUM,
    SPEAKER_ENCODER,
    Measure,
    cosine_distances,
    distances,
    measure,
    score_cloning,
    speaker_embedding,
    voice_print,
)
from omnijax.generate.speaker import Speaker
from omnijax.media import Audio

RATE = 24_000
# F0 in Hz, and where the spectrum has its peak.
VOICES = {"low": (110.0, 500.0), "high": (220.0, 500.0), "bright": (220.0, 2500.0)}


def hum(f0, formant, seed=0, seconds=0.8):
    """Harmonics of a pitch that wavers, louder near the formant."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.02 * np.sin(2 * np.pi * 4 * t + seed))) / RATE
    each = np.arange(1, int(5000 / f0))
    loud = 1 / (1 + ((each * f0 - formant) / 400) ** 2)
    samples = (loud[:, None] * np.sin(each[:, None] * phase)).sum(0)
    samples = samples / np.abs(samples).max() * rng.uniform(0.3, 0.8)
    return Audio((samples + 1e-3 * rng.standard_normal(len(t))).astype(np.float32), RATE)


@pytest.fixture(scope="module")
def clips():
    return {name: [hum(*voice, seed) for seed in range(3)] for name, voice in VOICES.items()}


def test_a_print_has_the_pitch_and_not_the_level(clips):
    one = voice_print(clips["low"][0])
    assert one.pitch == pytest.approx(np.log2(110), abs=0.03)
    louder = clips["low"][0]._replace(samples=1.2 * clips["low"][0].samples)
    np.testing.assert_allclose(voice_print(louder).spectrum, one.spectrum, atol=0.02)


def test_a_clip_is_nearest_to_its_own_voice_by_pitch_and_by_spectrum(clips):
    prints = {name: [voice_print(clip) for clip in own[1:]] for name, own in clips.items()}
    for name, own in clips.items():
        there = distances(voice_print(own[0]), prints)
        assert min(there, key=there.get) == name


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE), np.zeros(10), np.random.default_rng(0).standard_normal(RATE) * 0.1],
    ids=["silence", "too short", "noise"],
)
def test_what_has_no_voice_is_refused(samples):
    with pytest.raises(UserError, match="voice"):
        voice_print(Audio(samples.astype(np.float32), RATE))


class Parrot(Speaker):
    """A speaker whose clone of a clip is that clip: perfect; or always one voice's."""

    sample_rate = RATE

    def __init__(self, always=None):
        self._always = always

    def clone(self, reference):
        return reference

    def say(self, texts, voices, **_):
        return [(self._always or voice).samples for voice in voices]

    def encode(self, clip):
        return clip.samples

    def decode(self, codes):
        return np.zeros_like(codes)


def test_clones_are_counted_by_whom_they_are_nearest_to(clips):
    perfect = score_cloning(Parrot(), clips, ["low", "bright"], ["a", "b"])
    assert perfect == {"cloned": 1.0, "copied": 0.0, "told": 1.0, "chance": 1 / 3, "trials": 4}
    stuck = score_cloning(Parrot(clips["high"][0]), clips, ["low", "high"], ["a", "b"])
    assert stuck["cloned"] == 0.5


def test_by_cosine_the_mean_of_a_voices_clips_counts_and_not_its_length():
    voices = {"a": [np.array([3.0, 0.0]), np.array([1.0, 0.0])], "b": [np.array([1.0, 1.0])]}
    there = cosine_distances(np.array([1.0, 0.0]), voices)
    assert there["a"] == pytest.approx(0) and there["b"] == pytest.approx(1 - 0.5**0.5)


def test_clones_are_scored_by_the_measure_that_is_given(clips):
    level = Measure(
        "level", lambda clip: np.array([np.abs(clip.samples).max(), 1.0]), cosine_distances
    )
    scaled = {"soft": 0.1, "loud": 1.0}
    clips = {
        name: [clip._replace(samples=size * clip.samples / np.abs(clip.samples).max())
               for clip in clips["low"]]
        for name, size in scaled.items()
    }  # fmt: skip
    assert score_cloning(Parrot(), clips, ["soft", "loud"], ["a"], level)["cloned"] == 1
    stuck = score_cloning(Parrot(clips["loud"][0]), clips, ["soft", "loud"], ["a"], level)
    assert stuck["cloned"] == 0.5


def test_one_clip_or_one_voice_is_nothing_to_compare(clips):
    with pytest.raises(UserError, match=r"under two clips of \['low'\]"):
        score_cloning(Parrot(), {**clips, "low": clips["low"][:1]}, ["low"], ["a"])
    with pytest.raises(UserError, match="1 voices"):
        score_cloning(Parrot(), {"low": clips["low"]}, ["low"], ["a"])


def test_without_its_package_the_speaker_encoder_says_what_it_needs(clips):
    try:
        import resemblyzer as _  # noqa: F401
    except ImportError:
        assert measure() is PITCH_AND_SPECTRUM
        with pytest.raises(UserError, match=r'pip install -e "\.\[speakers\]"'):
            speaker_embedding(clips["low"][0])
        return
    assert measure() is SPEAKER_ENCODER
