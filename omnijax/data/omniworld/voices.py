"""The speakers: espeak-ng variants with a pitch and a rate; two are never heard in training.

Beside the ten of training there are `DRAWN` that are made of numbers, so that a codec and a Talker
meet more voices than they could learn by heart.
"""

import functools
from typing import NamedTuple

import numpy as np


class Voice(NamedTuple):
    name: str
    variant: str  # of espeak-ng's voices: a vocal tract and how it sounds
    pitch: int  # 0..99, espeak's unit
    rate: int  # words a minute
    description: str
    stretch: float = 1.0  # of all frequencies: under 1 a longer vocal tract and a lower pitch


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
DRAWN = 400
# espeak-ng's variants, but for those that clip much, or are no voice (whisper, robots).
_WOMEN = tuple(
    "f1 f2 f3 f4 f5 Alicia Andrea anika aunty belinda grandma linda shelby steph".split()
)
_MEN = tuple(
    "m1 m2 m3 m4 m5 m6 m7 m8 Alex Andy Denis Diogo Henrique Hugo Lee Mario Michael Mike Nguyen "
    "boris ian john kaukovalta marcelo max michel miguel norbert pablo robert sandro travis "
    "victor".split()
)
_LEFT_OUT = {voice.variant for voice in UNSEEN_VOICES}


@functools.cache
def drawn_voice(number: int) -> Voice:
    """One of the `DRAWN`, by its number: another vocal tract, pitch and pace."""
    rng = np.random.default_rng([23, number])
    sex = (_MEN, _WOMEN)[int(rng.integers(2))]
    variants = [variant for variant in sex if variant not in _LEFT_OUT]
    variant = variants[int(rng.integers(len(variants)))]
    pitch, rate = int(rng.integers(20, 81)), int(rng.integers(135, 186))
    stretch = float(np.exp(rng.uniform(-0.16, 0.16)))
    height = ("low", "", "high")[int(np.digitize(pitch + 100 * np.log(stretch), (38, 62)))]
    pace = ("slow", "", "quick")[int(np.digitize(rate, (150, 170)))]
    words = ("a", pace, height, "man" if sex is _MEN else "woman")
    return Voice(
        f"drawn {number}", variant, pitch, rate, " ".join(filter(None, words)), round(stretch, 3)
    )


def voice_of(name: str) -> Voice:
    """A voice by its name; of a drawn one "drawn" and its number."""
    return BY_NAME[name] if name in BY_NAME else drawn_voice(int(name.removeprefix("drawn ")))
