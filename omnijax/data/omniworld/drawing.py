"""What the makers of plans share: draws until the split rule holds, wordings, voices, messages."""

from collections.abc import Callable

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.splits import (
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SOUNDS,
    WORDINGS,
    Combination,
    belongs,
    is_held_out,
)
from omnijax.data.omniworld.voices import ACCENTS, UNSEEN_VOICES, VOICES
from omnijax.data.omniworld.wordings import UNITS

VALUES = {
    "shape": SHAPES, "colour": COLOURS, "place": PLACES, "sound": SOUNDS, "motion": MOTIONS,
    "name": lang.NAMES, "number": lang.NUMBERS[1:], "times": lang.NUMBERS[1:],
    "amount": lang.NUMBERS[1:], "unit": UNITS,
}  # fmt: skip
_ATTEMPTS = 10_000


def until_it_belongs(split: str, draw: Callable[[], dict]) -> dict:
    for _ in range(_ATTEMPTS):
        made = draw()
        if made is not None and belongs(made["meta"], split):
            return made
    raise RuntimeError(f"no example of split {split!r} in {_ATTEMPTS} draws")


def draw_wording(rng, group: str, subject: int) -> dict:
    return {"group": group, "index": int(rng.integers(WORDINGS)), "subject": subject}


def spoken(rng, text: str, language: str, split: str) -> dict:
    voice = pick(rng, UNSEEN_VOICES if split == "test_voice" else VOICES)
    return {"kind": "speech", "text": text, "language": language, "voice": voice.name,
            "accent": pick(rng, ACCENTS[language])}  # fmt: skip


def user_turn(*items) -> dict:
    return {"role": "user", "content": list(items)}


def text_item(text: str) -> dict:
    return {"type": "text", "text": text}


def assistant_turn(text: str) -> dict:
    return {"role": "assistant", "content": text}


def trained_wording(rng, group: str, subject: int) -> dict:
    """A wording that training may ask of this subject."""
    while True:
        wording = draw_wording(rng, group, subject)
        pair = Combination(f"wording x subject: {group}", wording["index"], subject)
        if not is_held_out(pair):
            return wording
