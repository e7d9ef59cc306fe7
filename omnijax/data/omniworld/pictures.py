"""Questions about a picture, written, spoken or about its description, and descriptions."""

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.drawing import (
    VALUES,
    assistant_turn,
    draw_wording,
    spoken,
    text_item,
    trained_wording,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.scenes import answer_about, draw_answer, draw_scene, pick
from omnijax.data.omniworld.splits import COLOURS, PLACES, SHAPES
from omnijax.data.omniworld.wordings import DESCRIBE_PROMPTS, QUESTIONS

KINDS = tuple(kind for kind in QUESTIONS if kind != "sound_time")
# In training most conversations go on about the same picture: answers are what is learned from,
# and a picture, its description and its first question cost more tokens than five more questions.
MORE_QUESTIONS = 6  # at most
GOES_ON = 0.8


def question(rng, split: str, form: str) -> dict:
    """A question about a picture; ``form`` is text (the picture told in words), written or spoken.

    In training most go on with written questions, each with an answer of its own.
    """
    kind = pick(rng, KINDS)
    answer, answer_text = draw_answer(rng, kind)
    size = int(rng.integers(1, 4))

    def draw():
        nonlocal answer, answer_text
        if kind == "what_at":  # both of its words are asked, so some answers live in one split only
            answer, answer_text = draw_answer(rng, kind)
        scene = draw_scene(rng, kind, answer, size)
        if scene is None:
            return None
        objects, slots, asked = scene
        slot, wordings = QUESTIONS[kind]
        wording = draw_wording(rng, kind, VALUES[slot].index(slots[slot]))
        words = lang.fluent(wordings[wording["index"]].format(**slots))
        meta = {
            "objects": objects,
            "asked": {"objects": list(range(asked))},
            "wording": wording,
            "kind": kind,
            "question": words,
            "answer": answer_text,
        }
        picture = {
            "kind": "picture",
            "objects": [objects[i] for i in rng.permutation(len(objects))],
        }
        user, media, heard = ask_by(rng, split, form, words, picture)
        meta |= heard
        messages = [user, assistant_turn(answer_text), *_going_on(rng, split, objects, meta)]
        return {"messages": messages, "media": media, "meta": meta}

    return until_it_belongs(split, draw)


def ask_by(
    rng, split: str, form: str, words: str, picture: dict, facts: str = ""
) -> tuple[dict, list[dict], dict]:
    """The turn that asks ``words`` about a picture, its media, and what ``meta`` learns of a voice.

    form: text (told by ``facts``, else in whole sentences), written or spoken.
    """
    if form == "text":
        facts = facts or told(picture["objects"])
        return user_turn(text_item(f"{facts} {lang.written(words)}")), [], {}
    image = {"type": "image", "image": 0}
    if form == "written":
        return user_turn(image, text_item(lang.written(words))), [picture], {}
    voice = spoken(rng, words, "en", split)
    heard = {"voice": voice["voice"], "language": "en", "transcript": words}
    return user_turn(image, {"type": "audio", "audio": 1}), [picture, voice], heard


def _going_on(rng, split: str, objects: list[dict], meta: dict) -> list[dict]:
    """In training, turns that ask something else of the same picture; ``meta`` learns of them."""
    if split != "train" or rng.random() >= GOES_ON:
        return []
    chosen = rng.permutation(len(KINDS) * len(objects))
    chosen = chosen[: int(rng.integers(1, MORE_QUESTIONS + 1))].tolist()
    asked = [(KINDS[i % len(KINDS)], objects[i // len(KINDS)]) for i in chosen]
    turns, wordings = turns_about(rng, asked, objects)
    meta.setdefault("more_wordings", []).extend(wordings)
    return turns


def turns_about(rng, asked, objects: list[dict]) -> tuple[list[dict], list[dict]]:
    """A written question and its answer for each (kind, object) that has one; their wordings."""
    turns, wordings = [], []
    for kind, thing in asked:
        answer = answer_about(kind, thing, objects)
        if answer is None:
            continue
        slot, texts = QUESTIONS[kind]
        wording = trained_wording(rng, kind, VALUES[slot].index(thing[slot]))
        words = lang.fluent(texts[wording["index"]].format(**thing))
        turns += [user_turn(text_item(lang.written(words))), assistant_turn(answer)]
        wordings.append(wording)
    return turns, wordings


def told(objects: list[dict]) -> str:
    """The objects of a picture in words."""
    return " ".join(
        lang.fluent(f"there is a {o['colour']} {o['shape']} at the {o['place']}.") for o in objects
    )


def describe(rng, split: str) -> dict:
    """Everything in a picture, as one reads."""
    count = int(rng.integers(1, 4))

    def draw():
        places = sorted(rng.permutation(len(PLACES))[:count].tolist())
        objects = [
            {"shape": pick(rng, SHAPES), "colour": pick(rng, COLOURS), "place": PLACES[place]}
            for place in places
        ]
        answer = told(objects)
        meta = {
            "objects": objects,
            "asked": {"objects": list(range(count))},
            "kind": "describe",
            "answer": answer,
            "description": answer,
        }
        prompt = text_item(pick(rng, DESCRIBE_PROMPTS))
        return {
            "messages": [
                user_turn({"type": "image", "image": 0}, prompt),
                assistant_turn(answer),
                *_going_on(rng, split, objects, meta),
            ],
            "media": [{"kind": "picture", "objects": objects}],
            "meta": meta,
        }

    return until_it_belongs(split, draw)
