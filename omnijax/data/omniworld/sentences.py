"""Sentences in four languages: to be written down, or said in a given voice."""

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.drawing import (
    VALUES,
    assistant_turn,
    spoken,
    text_item,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.splits import SOUNDS
from omnijax.data.omniworld.voices import VOICES
from omnijax.data.omniworld.wordings import SAY_PROMPTS, TRANSCRIBE_PROMPTS

SLOTS = ("shape", "colour", "place", "motion", "sound", "number", "name")
LANGUAGE_SHARES = {"en": 0.4, "de": 0.2, "es": 0.2, "fr": 0.2}
# Of words in no order: English is heard in every task, the others in transcripts alone.
WORDS_SHARES = {"en": 0.1, "de": 0.3, "es": 0.3, "fr": 0.3}


def _sentence(rng, language: str) -> tuple[str, dict]:
    """A sentence and the part of ``meta`` that says which combinations it holds."""
    template = int(rng.integers(len(lang.TEMPLATES[language])))
    needed, subject = lang.needed_slots(language, template)
    if "shape" in needed or "colour" in needed:
        needed |= {"shape", "colour"}
    if "shape2" in needed:
        needed |= {"colour2"}
    slots = {name: pick(rng, VALUES[name.rstrip("2")]) for name in sorted(needed)}
    if slots.get("sound2") == slots.get("sound") and "sound2" in slots:
        slots["sound2"] = SOUNDS[(SOUNDS.index(slots["sound"]) + 1) % len(SOUNDS)]
    text = lang.sentence(language, template, slots)
    said = lang.TEMPLATES[language][template]
    objects = [
        {"shape": slots["shape" + n], "colour": slots["colour" + n],
         "place": slots.get("place") if n == "" else None}
        for n in ("", "2")
        if "shape" + n in slots and (n == "2" or "{o" in said or "{c}" in said)
    ]  # fmt: skip
    if "shape" in slots and not objects:
        objects = [{"shape": slots["shape"], "place": slots.get("place")}]
    sounds = [slots[n] for n in ("sound", "sound2") if n in slots]
    events = [{"sound": sound, "motion": slots.get("motion")} for sound in sounds]
    meta = {
        "objects": objects,
        "events": events,
        "asked": {"objects": list(range(len(objects))), "events": list(range(len(events)))},
        "wording": {
            "group": f"sentence {language}",
            "index": template,
            "subject": VALUES[subject].index(slots[subject]),
        },
        "language": language,
        "answer": text,
    }
    return text, meta


def _language(rng, shares: dict[str, float] = LANGUAGE_SHARES) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def transcribe(rng, split: str) -> dict:
    """A sentence, spoken, to be written down."""
    language = _language(rng)

    def draw():
        text, meta = _sentence(rng, language)
        speech = spoken(rng, text, language, split)
        return {
            "messages": [
                user_turn({"type": "audio", "audio": 0}, text_item(pick(rng, TRANSCRIBE_PROMPTS))),
                assistant_turn(text),
            ],
            "media": [speech],
            "meta": meta | {"voice": speech["voice"], "transcript": text},
        }

    return until_it_belongs(split, draw)


def words(rng, split: str) -> dict:
    """Words in no order, spoken, to be written down: none can be guessed from the others."""
    language = _language(rng, WORDS_SHARES)

    def draw():
        slots = {slot: pick(rng, VALUES[slot]) for slot in SLOTS}
        chosen = [SLOTS[i] for i in rng.permutation(len(SLOTS))[: int(rng.integers(2, 6))]]
        said = [lang.words_for(language, slot, slots[slot], rng) for slot in chosen]
        said += [pick(rng, lang.small_words(language)) for _ in range(int(rng.integers(0, 3)))]
        text = " ".join(said[i] for i in rng.permutation(len(said)))
        speech = spoken(rng, text, language, split)
        held = {slot: slots[slot] for slot in chosen}
        thing = {key: held[key] for key in ("shape", "colour", "place") if key in held}
        event = {key: held[key] for key in ("motion", "sound") if key in held}
        return {
            "messages": [
                user_turn({"type": "audio", "audio": 0}, text_item(pick(rng, TRANSCRIBE_PROMPTS))),
                assistant_turn(text),
            ],
            "media": [speech],
            "meta": {
                "objects": [thing],
                "events": [event],
                "asked": {"objects": [0], "events": [0]},
                "language": language,
                "answer": text,
                "voice": speech["voice"],
                "transcript": text,
            },
        }

    return until_it_belongs(split, draw)


def say(rng, split: str) -> dict:
    """A sentence, written, to be said in the voice that is described."""
    language = _language(rng)

    def draw():
        text, meta = _sentence(rng, language)
        speech = spoken(rng, text, language, split) | {"sample_rate": 24_000, "hiss": False}
        voice = next(v for v in VOICES if v.name == speech["voice"])
        prompt = pick(rng, SAY_PROMPTS).format(voice=voice.description, text=text)
        return {
            "messages": [user_turn(text_item(prompt)), assistant_turn(text)],
            "media": [speech],
            "meta": meta | {"voice": voice.name, "voice_description": voice.description},
        }

    return until_it_belongs(split, draw)
