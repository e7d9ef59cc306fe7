"""Sentences of the world in four languages: small vocabularies, agreement by table.

A sentence is made from slots (an object, a motion, a sound, ...), so that the split rule sees the
same combinations in every language. All text is lower-case and without punctuation, as spoken.
"""

import functools
import re

from omnijax.data.omniworld.splits import COLOURS, MOTIONS, PLACES, SHAPES, SOUNDS

LANGUAGES = ("en", "de", "es", "fr")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NAMES = ("anna", "ben", "clara", "david", "emma", "felix")

# Nouns carry their gender; colours their forms by gender.
_SHAPES = {
    "de": ("m kreis", "n quadrat", "n dreieck", "m stern", "n kreuz", "m ring"),
    "es": ("m círculo", "m cuadrado", "m triángulo", "f estrella", "f cruz", "m anillo"),
    "fr": ("m cercle", "m carré", "m triangle", "f étoile", "f croix", "m anneau"),
}
_COLOURS = {
    "de": ("rote", "grüne", "blaue", "gelbe", "violette", "orange", "weiße", "türkise"),
    "es": ("rojo/roja", "verde", "azul", "amarillo/amarilla", "morado/morada", "naranja",
           "blanco/blanca", "celeste"),
    "fr": ("rouge", "vert/verte", "bleu/bleue", "jaune", "violet/violette", "orange",
           "blanc/blanche", "turquoise"),
}  # fmt: skip
_PLACES = {
    "en": tuple(f"at the {place}" for place in PLACES),
    "de": ("oben links", "oben", "oben rechts", "links", "in der mitte", "rechts",
           "unten links", "unten", "unten rechts"),
    "es": ("arriba a la izquierda", "arriba", "arriba a la derecha", "a la izquierda",
           "en el centro", "a la derecha", "abajo a la izquierda", "abajo", "abajo a la derecha"),
    "fr": ("en haut à gauche", "en haut", "en haut à droite", "à gauche", "au milieu", "à droite",
           "en bas à gauche", "en bas", "en bas à droite"),
}  # fmt: skip
_MOTIONS = {
    "en": MOTIONS,
    "de": ("springt", "dreht sich", "wächst", "schrumpft", "geht nach links", "geht nach rechts",
           "geht nach oben", "geht nach unten"),
    "es": ("salta", "gira", "crece", "encoge", "va a la izquierda", "va a la derecha", "sube",
           "baja"),
    "fr": ("saute", "tourne", "grandit", "rétrécit", "va à gauche", "va à droite", "monte",
           "descend"),
}  # fmt: skip
_SOUNDS = {
    "de": ("f glocke", "f trommel", "f pfeife", "m klick", "n summen", "n platschen", "f hupe",
           "n zirpen"),
    "es": ("f campana", "m tambor", "m silbato", "m clic", "m zumbido", "m chapoteo", "f bocina",
           "m trino"),
    "fr": ("f cloche", "m tambour", "m sifflet", "m clic", "m bourdon", "m plouf", "m klaxon",
           "m gazouillis"),
}  # fmt: skip
_NUMBERS = {
    "en": NUMBERS,
    "de": ("ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"),
    "es": ("una", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez"),
    "fr": ("une", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix"),
}
_ARTICLES = {  # nominative; accusative; dative
    "de": {"m": "der den dem", "f": "die die der", "n": "das das dem"},
    "es": {"m": "el el el", "f": "la la la"},
    "fr": {"m": "le le le", "f": "la la la"},
}

# Slots: {o} the object, {oa} it in the accusative, {m} motion, {p} place, {s} {sa} {sd} the sound
# with its article by case, {n} number, {name}, {o2} {s2} a second object or sound, {c} {h} bare
# colour and shape. What stands after "|" is the slot that counts as the sentence's subject.
TEMPLATES = {
    "en": (
        "{o} {m}|shape", "{o} {m} with {s}|shape", "{o} is {p}|shape", "i see {o} {p}|shape",
        "after {s} {o} {m}|sound", "where is {o} now|shape", "today {o} {m} again|shape",
        "{name} looks for {o}|name", "i hear {s} {n} times|sound", "{name} paints {o}|name",
        "please put {o} {p}|shape", "can you hear {s} and {s2}|sound",
        "{name} has {n} {c} {h}s|name", "{s} comes before {s2}|sound",
        "{o} is next to {o2}|shape", "there are {n} {h}s {p}|shape",
    ),
    "de": (
        "{o} {m}|shape", "{o} {m} mit {sd}|shape", "{o} ist {p}|shape", "ich sehe {oa} {p}|shape",
        "nach {sd} kommt {o}|sound", "wo ist {o} jetzt|shape", "heute hören wir {sa}|sound",
        "{name} sucht {oa}|name", "ich höre {sa} {n} mal|sound", "{name} malt {oa}|name",
    ),
    "es": (
        "{o} {m}|shape", "{o} {m} con {s}|shape", "{o} está {p}|shape", "yo veo {o} {p}|shape",
        "después de {s} {o} {m}|sound", "dónde está {o} ahora|shape", "hoy oímos {s}|sound",
        "{name} busca {o}|name", "oigo {s} {n} veces|sound", "{name} pinta {o}|name",
    ),
    "fr": (
        "{o} {m}|shape", "{o} {m} avec {s}|shape", "{o} est {p}|shape", "je vois {o} {p}|shape",
        "après {s} {o} {m}|sound", "où est {o} maintenant|shape", "écoutez bien {s}|sound",
        "{name} cherche {o}|name", "j'entends {s} {n} fois|sound", "{name} peint {o}|name",
    ),
}  # fmt: skip


def sentence(language: str, template: int, slots: dict) -> str:
    """The sentence of a template with its slots filled by world names (``sample_slots``)."""
    pattern = TEMPLATES[language][template].split("|")[0]
    fill = {}
    for suffix in ("", "2"):
        shape, colour = slots.get("shape" + suffix), slots.get("colour" + suffix)
        if shape is not None:
            fill["h"], fill["c"] = shape, colour
            fill["o" + suffix] = noun_phrase(language, shape, colour)
            fill["oa" + suffix] = noun_phrase(language, shape, colour, case=1)
        if slots.get("sound" + suffix) is not None:
            for case, name in enumerate(("s", "sa", "sd")):
                fill[name + suffix] = sound_phrase(language, slots["sound" + suffix], case)
    if slots.get("motion") is not None:
        fill["m"] = _MOTIONS[language][MOTIONS.index(slots["motion"])]
    if slots.get("place") is not None:
        fill["p"] = _PLACES[language][PLACES.index(slots["place"])]
    if slots.get("number") is not None:
        fill["n"] = _NUMBERS[language][NUMBERS.index(slots["number"])]
    fill["name"] = slots.get("name")
    text = pattern.format(**fill)
    return fluent(text) if language == "en" else text.replace(" de el ", " del ")


def words_for(language: str, slot: str, value: str, rng) -> str:
    """What names a value when it stands alone, without an article: "estrella", "roja"."""

    def of(table: dict, values: tuple) -> str:
        return table[language][values.index(value)]

    match slot:
        case "place":
            return of(_PLACES, PLACES)
        case "motion":
            return of(_MOTIONS, MOTIONS)
        case "number":
            return of(_NUMBERS, NUMBERS)
    if language == "en" or slot == "name":
        return value
    if slot == "colour":
        forms = of(_COLOURS, COLOURS).split("/")
        return forms[int(rng.integers(len(forms)))]
    return of(*{"shape": (_SHAPES, SHAPES), "sound": (_SOUNDS, SOUNDS)}[slot]).split()[1]


@functools.cache
def small_words(language: str) -> tuple[str, ...]:
    """What the templates of a language say between their slots, word by word."""
    texts = (re.sub(r"\{\w+\}s?", " ", t.split("|")[0]) for t in TEMPLATES[language])
    return tuple(sorted({word for text in texts for word in text.split()}))


def needed_slots(language: str, template: int) -> tuple[set[str], str]:
    """Which slots a template fills, and which of them is its subject."""
    pattern, subject = TEMPLATES[language][template].split("|")
    names = {
        "{o}": "shape", "{oa}": "shape", "{h}": "shape", "{o2}": "shape2", "{m}": "motion",
        "{p}": "place", "{s}": "sound", "{sa}": "sound", "{sd}": "sound", "{s2}": "sound2",
        "{n}": "number", "{name}": "name", "{c}": "colour",
    }  # fmt: skip
    return {slot for mark, slot in names.items() if mark in pattern}, subject


def noun_phrase(language: str, shape: str, colour: str, case: int = 0) -> str:
    """ "the red circle" in a language; case 0 nominative, 1 accusative, 2 dative."""
    if language == "en":
        return f"the {colour} {shape}"
    gender, noun = _SHAPES[language][SHAPES.index(shape)].split()
    forms = _COLOURS[language][COLOURS.index(colour)].split("/")
    adjective = forms[-1] if gender == "f" else forms[0]
    article = _ARTICLES[language][gender].split()[case]
    if language == "de":
        weak = adjective if case == 0 or (case == 1 and gender != "m") else adjective + "n"
        return f"{article} {weak} {noun}"
    return f"{_elide(language, article, noun)} {adjective}"


def sound_phrase(language: str, sound: str, case: int = 0) -> str:
    """ "the bell" in a language."""
    if language == "en":
        return f"the {sound}"
    gender, noun = _SOUNDS[language][SOUNDS.index(sound)].split()
    return _elide(language, _ARTICLES[language][gender].split()[case], noun)


def fluent(text: str) -> str:
    """English text with "an" before a vowel and the plural of "cross"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text).replace("crosss", "crosses")


def written(question: str) -> str:
    """A spoken question or request as one writes it, with its closing mark."""
    asks = not question.startswith(("tell", "name", "count"))
    return question + ("?" if asks else ".")


def _elide(language: str, article: str, noun: str) -> str:
    if language == "fr" and noun[0] in "aeiouéê":
        return f"l'{noun}"
    return f"{article} {noun}"
