"""The speakers: espeak-ng variants with a pitch and a rate; two are never heard in training.

Beside the ten of training there are `DRAWN` that are made of numbers, each with formants of its
own, so that a codec and a Talker meet more voices than they could learn by heart.
"""

import functools
import hashlib
import math
from typing import NamedTuple

import numpy as np

# What the frequency, height and width of each of a variant's formants are multiplied by.
Formants = tuple[tuple[float, float, float], ...]


class Voice(NamedTuple):
    name: str
    variant: str  # of espeak-ng's voices: a vocal tract and how it sounds
    pitch: int  # 0..99, espeak's unit
    rate: int  # words a minute
    description: str
    stretch: float = 1.0  # of all frequencies: under 1 a longer vocal tract and a lower pitch
    formants: Formants = ()


VOICES = (
    Voice("anna", "f1", 55, 150, "a calm woman"),
    Voice("ben", "m1", 45, 150, "a calm man"),
    Voice("clara", "f3", 62, 175, "a quick woman"),
    Voice("david", "m3", 35, 175, "a quick man"),
    Voice("emma", "f4", 70, 160, "a bright woman"),
    Voice("felix", "m4", 60, 160, "a bright man"),
    Voice("greta", "f5", 40, 140, "a slow woman"),
    Voice("hugo", "m7", 30, 140, "a slow man"),
    Voice("ida", "f2", 48, 165, "a soft woman"),
    Voice("jonas", "m2", 50, 165, "a soft man"),
)
UNSEEN_VOICES = (
    Voice("kira", "Annie", 52, 155, "a new woman"),
    Voice("liam", "m6", 42, 155, "a new man"),
)
ACCENTS = {"en": ("en-us", "en"), "de": ("de",), "es": ("es",), "fr": ("fr",)}
BY_NAME = {voice.name: voice for voice in (*VOICES, *UNSEEN_VOICES)}
DRAWN = 2000
# espeak-ng's variants with their median F0 in Hz at a pitch of 50 (English, by pYIN); not those
# that clip much, or are no voice (whisper, robots).
_WOMEN = {
    "f1": 181, "f2": 197, "f3": 214, "f4": 181, "f5": 207, "Alicia": 253, "Andrea": 247,
    "anika": 275, "aunty": 172, "belinda": 230, "grandma": 203, "linda": 230, "shelby": 182,
    "steph": 185,
}  # fmt: skip
_MEN = {
    "m1": 94, "m2": 101, "m3": 105, "m4": 94, "m5": 104, "m6": 102, "m7": 107, "m8": 86,
    "Alex": 104, "Andy": 96, "Denis": 100, "Diogo": 106, "Henrique": 110, "Hugo": 111, "Lee": 96,
    "Mario": 107, "Michael": 107, "Mike": 91, "Nguyen": 152, "boris": 103, "ian": 83, "john": 104,
    "kaukovalta": 103, "marcelo": 97, "max": 103, "michel": 106, "miguel": 112, "norbert": 104,
    "pablo": 115, "robert": 97, "sandro": 99, "travis": 103, "victor": 96,
}  # fmt: skip
_PITCH_OCTAVE = 68  # of espeak's pitch
_LOWEST = 79.0  # Hz: an utterance may be a 25th lower, and ends a seventh below; a source has 65
_HEIGHTS = ((92, 115), (180, 235))  # Hz: below low, above high: men, women; a third each
_LEFT_OUT = {voice.variant for voice in UNSEEN_VOICES}
_FORMANTS = 9  # espeak-ng's, from 0 on
# Means and spreads of the logarithms of their factors (frequency, height, width): a little lower in
# all, so that hardly any clips.
_FACTORS = ((0.0, -0.1, 0.0), (0.05, 0.2, 0.12))
_MOST = 0.5  # that a logarithm may be


@functools.cache
def drawn_voice(number: int) -> Voice:
    """One of the `DRAWN`, by its number: another vocal tract, pitch and pace."""
    rng = np.random.default_rng([23, number])
    woman = int(rng.integers(2))
    hertz = {name: f0 for name, f0 in (_MEN, _WOMEN)[woman].items() if name not in _LEFT_OUT}
    variant = list(hertz)[int(rng.integers(len(hertz)))]
    pitch, rate = int(rng.integers(20, 81)), int(rng.integers(135, 186))
    stretch = float(np.exp(rng.uniform(-0.16, 0.16)))
    flat = hertz[variant] * stretch  # F0 at a pitch of 50
    pitch = max(pitch, 50 + math.ceil(_PITCH_OCTAVE * math.log2(_LOWEST / flat)))
    f0 = flat * 2 ** ((pitch - 50) / _PITCH_OCTAVE)
    height = ("low", "", "high")[int(np.digitize(f0, _HEIGHTS[woman]))]
    pace = ("slow", "", "quick")[int(np.digitize(rate, (150, 170)))]
    words = ("a", pace, height, ("man", "woman")[woman])
    factors = np.exp(rng.normal(*_FACTORS, (_FORMANTS, 3)).clip(-_MOST, _MOST))
    formants = tuple(tuple(round(float(factor), 3) for factor in own) for own in factors)
    description = " ".join(filter(None, words))
    return Voice(f"drawn {number}", variant, pitch, rate, description, round(stretch, 3), formants)


def voice_of(name: str) -> Voice:
    """A voice by its name; of a drawn one "drawn" and its number."""
    return BY_NAME[name] if name in BY_NAME else drawn_voice(int(name.removeprefix("drawn ")))


@functools.cache
def fingerprint_of_voices() -> str:
    """Of all voices and accents as they are now: speech made of others is other speech."""
    drawn = [drawn_voice(number) for number in range(DRAWN)]
    return hashlib.sha256(repr((VOICES, UNSEEN_VOICES, ACCENTS, drawn)).encode()).hexdigest()[:16]
