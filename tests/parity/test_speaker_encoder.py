"""The released speaker encoder tells OmniWorld's voices apart: what cloning is measured with."""

import numpy as np
import pytest

from omnijax.data.omniworld.speech import speak
from omnijax.data.omniworld.voices import BY_NAME, UNSEEN_VOICES
from omnijax.errors import UserError
from omnijax.eval.voices import SPEAKER_ENCODER, measure, speaker_embedding
from omnijax.media import Audio

pytestmark = pytest.mark.parity
RATE = 24_000
SENTENCES = (
    "the red circle moves to the left of the blue square",
    "there are two green triangles at the bottom of the picture",
    "a bell rings while the yellow star turns around",
)


def said(voice: str, n: int) -> Audio:
    rng = np.random.default_rng([5, n])
    samples = speak(SENTENCES[n], voice, "en-us", rng, RATE, hiss=False)
    return Audio(samples.astype(np.float32), RATE)


def test_it_is_the_measure_where_it_is_installed():
    assert measure() is SPEAKER_ENCODER


def test_a_new_voice_is_nearest_to_what_else_it_says():
    prints = {
        name: [speaker_embedding(said(name, n)) for n in range(len(SENTENCES))] for name in BY_NAME
    }
    for voice in UNSEEN_VOICES:
        for n, clip in enumerate(prints[voice.name]):
            own = prints[voice.name]
            others = {**prints, voice.name: own[:n] + own[n + 1 :]}
            there = SPEAKER_ENCODER.distances(clip, others)
            assert min(there, key=there.get) == voice.name


@pytest.mark.parametrize(
    "samples",
    [np.zeros(RATE), np.zeros(10), 1e-3 * np.random.default_rng(0).standard_normal(RATE)],
    ids=["silence", "too short", "noise"],
)
def test_what_has_no_voice_is_refused(samples):
    with pytest.raises(UserError, match="of the clip are voice"):
        speaker_embedding(Audio(samples.astype(np.float32), RATE))
