"""The speakers: espeak-ng variants with a pitch and a rate; two are never heard in training."""

from typing import NamedTuple


class Voice(NamedTuple):
    name: str
    variant: str  # espeak-ng voice variant: m* are men's vocal tracts, f* women's
    pitch: int  # 0..99, espeak's unit
    rate: int  # words a minute
    description: str


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
