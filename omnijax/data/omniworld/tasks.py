"""Plans of examples: everything but the pixels and samples, from (index, split, seed) alone.

A plan is JSON: ``messages`` whose media items hold an index into ``media``, the list of what to
draw, play and speak; ``meta`` is the truth for scoring and for the split rule. The answer is drawn
first and uniformly, then the rest is drawn until the split rule holds, so that answers stay
balanced and cannot be guessed from the words of the question.
"""

import functools
import zlib
from collections.abc import Callable

import numpy as np

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.scenes import draw_answer, draw_scene, pick
from omnijax.data.omniworld.splits import (
    COLOURS,
    MOTIONS,
    PLACES,
    SHAPES,
    SOUNDS,
    SPLITS,
    WORDINGS,
    belongs,
)
from omnijax.data.omniworld.voices import ACCENTS, UNSEEN_VOICES, VOICES
from omnijax.data.omniworld.wordings import (
    CAPTION_PROMPTS,
    DESCRIBE_PROMPTS,
    QUESTIONS,
    SAY_PROMPTS,
    TOOLS,
    TRANSCRIBE_PROMPTS,
    UNITS,
    tool_definition,
)
from omnijax.errors import UserError

# Of 100 examples; each block of 100 has exactly these.
MIXTURE = {
    "transcribe": 16,
    "picture_question_written": 10,
    "picture_question_spoken": 10,
    "describe": 15,
    "sound_time": 8,
    "caption": 12,
    "tool_call": 9,
    "text_question": 20,
}
BLOCK = sum(MIXTURE.values())
TASKS = (*MIXTURE, "say")
LANGUAGE_SHARES = {"en": 0.61, "de": 0.13, "es": 0.13, "fr": 0.13}
VALUES = {
    "shape": SHAPES, "colour": COLOURS, "place": PLACES, "sound": SOUNDS, "motion": MOTIONS,
    "name": lang.NAMES, "number": lang.NUMBERS[1:], "times": lang.NUMBERS[1:],
    "amount": lang.NUMBERS[1:], "unit": UNITS,
}  # fmt: skip
MIN_GAP = 6  # tenths of a second between two events
_ATTEMPTS = 10_000


def task_of(index: int, split: str) -> str:
    """The task of an example: the mixture, exactly, in every block of 100."""
    if split in ("say", "say_test"):
        return "say"
    if split == "test_voice":
        return "transcribe"
    block, place = divmod(index, BLOCK)
    return _tasks_of_block(block)[place]


@functools.lru_cache(maxsize=4096)
def _tasks_of_block(block: int) -> tuple[str, ...]:
    pool = [task for task, count in MIXTURE.items() for _ in range(count)]
    order = np.random.default_rng([17, block]).permutation(BLOCK)
    return tuple(pool[place] for place in order.tolist())


def plan(index: int, split: str = "train", seed: int = 0) -> dict:
    """The example without its media, deterministic by (index, split, seed)."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    if index < 0:
        raise UserError(f"index {index} of split {split!r} is below 0")
    task = task_of(index, split)
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    made = _MAKERS[task](rng, split)
    made["meta"] |= {"task": task, "split": split}
    media = [item | {"seed": [seed, zlib.crc32(split.encode()), index, k]}
             for k, item in enumerate(made.get("media", ()))]  # fmt: skip
    return {"id": f"{split}-{index:06d}", "task": task} | made | {"media": media}


def _until_it_belongs(split: str, draw: Callable[[], dict]) -> dict:
    for _ in range(_ATTEMPTS):
        made = draw()
        if made is not None and belongs(made["meta"], split):
            return made
    raise RuntimeError(f"no example of split {split!r} in {_ATTEMPTS} draws")


def _wording(rng, group: str, subject: int) -> dict:
    return {"group": group, "index": int(rng.integers(WORDINGS)), "subject": subject}


def _speech(rng, text: str, language: str, split: str) -> dict:
    voice = pick(rng, UNSEEN_VOICES if split == "test_voice" else VOICES)
    return {"kind": "speech", "text": text, "language": language, "voice": voice.name,
            "accent": pick(rng, ACCENTS[language])}  # fmt: skip


def _user(*items) -> dict:
    return {"role": "user", "content": list(items)}


def _text(text: str) -> dict:
    return {"type": "text", "text": text}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


# transcribe, say ------------------------------------------------------------------------------


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


def _language(rng) -> str:
    return str(rng.choice(list(LANGUAGE_SHARES), p=list(LANGUAGE_SHARES.values())))


def _transcribe(rng, split: str) -> dict:
    language = _language(rng)

    def draw():
        text, meta = _sentence(rng, language)
        speech = _speech(rng, text, language, split)
        return {
            "messages": [
                _user({"type": "audio", "audio": 0}, _text(pick(rng, TRANSCRIBE_PROMPTS))),
                _assistant(text),
            ],
            "media": [speech],
            "meta": meta | {"voice": speech["voice"], "transcript": text},
        }

    return _until_it_belongs(split, draw)


def _say(rng, split: str) -> dict:
    language = _language(rng)

    def draw():
        text, meta = _sentence(rng, language)
        speech = _speech(rng, text, language, split) | {"sample_rate": 24_000, "hiss": False}
        voice = next(v for v in VOICES if v.name == speech["voice"])
        prompt = pick(rng, SAY_PROMPTS).format(voice=voice.description, text=text)
        return {
            "messages": [_user(_text(prompt)), _assistant(text)],
            "media": [speech],
            "meta": meta | {"voice": voice.name, "voice_description": voice.description},
        }

    return _until_it_belongs(split, draw)


# pictures -------------------------------------------------------------------------------------


def _picture_question(rng, split: str, form: str) -> dict:
    kinds = [kind for kind in QUESTIONS if kind != "sound_time"]
    kind = pick(rng, kinds)
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
        wording = _wording(rng, kind, VALUES[slot].index(slots[slot]))
        question = lang.fluent(wordings[wording["index"]].format(**slots))
        meta = {
            "objects": objects,
            "asked": {"objects": list(range(asked))},
            "wording": wording,
            "kind": kind,
            "question": question,
            "answer": answer_text,
        }
        picture = {
            "kind": "picture",
            "objects": [objects[i] for i in rng.permutation(len(objects))],
        }
        if form == "text":
            told = _told(picture["objects"])
            user, media = _user(_text(f"{told} {lang.written(question)}")), []
        elif form == "written":
            user, media = (
                _user({"type": "image", "image": 0}, _text(lang.written(question))),
                [picture],
            )
        else:
            speech = _speech(rng, question, "en", split)
            user = _user({"type": "image", "image": 0}, {"type": "audio", "audio": 1})
            media = [picture, speech]
            meta |= {"voice": speech["voice"], "language": "en", "transcript": question}
        return {"messages": [user, _assistant(answer_text)], "media": media, "meta": meta}

    return _until_it_belongs(split, draw)


def _told(objects: list[dict]) -> str:
    """The objects of a picture in words."""
    return " ".join(
        lang.fluent(f"there is a {o['colour']} {o['shape']} at the {o['place']}.") for o in objects
    )


def _describe(rng, split: str) -> dict:
    count = int(rng.integers(1, 4))

    def draw():
        places = sorted(rng.permutation(len(PLACES))[:count].tolist())  # as one reads
        objects = [
            {"shape": pick(rng, SHAPES), "colour": pick(rng, COLOURS), "place": PLACES[place]}
            for place in places
        ]
        answer = _told(objects)
        meta = {
            "objects": objects,
            "asked": {"objects": list(range(count))},
            "kind": "describe",
            "answer": answer,
            "description": answer,
        }
        prompt = pick(rng, DESCRIBE_PROMPTS)
        return {
            "messages": [_user({"type": "image", "image": 0}, _text(prompt)), _assistant(answer)],
            "media": [{"kind": "picture", "objects": objects}],
            "meta": meta,
        }

    return _until_it_belongs(split, draw)


# clips ----------------------------------------------------------------------------------------


def _times(rng, count: int, duration: float | None = None) -> tuple[list[float], float]:
    """Event times on a 0.1 s grid, at least 0.6 s apart, and the clip's length (2-4 s)."""
    length = int(rng.integers(4, 9)) * 5 if duration is None else round(duration * 10)
    count = min(count, (length - 11) // MIN_GAP + 1)
    slack = length - 10 - MIN_GAP * (count - 1)  # after the last event a second is left to see it
    offsets = np.sort(rng.integers(1, slack + 1, count))
    return [round((int(o) + MIN_GAP * i) / 10, 1) for i, o in enumerate(offsets)], length / 10


def _sounds(rng) -> tuple[list[dict], float]:
    """One to three different sounds with their times, and the clip's length."""
    times, duration = _times(rng, int(rng.integers(1, 4)))
    sounds = [str(s) for s in rng.permutation(SOUNDS)[: len(times)]]
    return [{"time": t, "sound": s} for t, s in zip(times, sounds, strict=True)], duration


def _movers(rng, events: list[dict]) -> tuple[list[dict], list[dict]]:
    """One or two objects, and the events with who moves and how."""
    shapes = [str(s) for s in rng.permutation(SHAPES)[: int(rng.integers(1, 3))]]
    colours = [str(c) for c in rng.permutation(COLOURS)]
    objects = [{"shape": s, "colour": c} for s, c in zip(shapes, colours, strict=False)]
    motions = [str(m) for m in rng.permutation(MOTIONS)]
    return objects, [
        event | {"object": int(rng.integers(len(objects))), "motion": motion}
        for event, motion in zip(events, motions, strict=False)
    ]


def _sound_time(rng, split: str) -> dict:
    with_picture = rng.random() < 0.3

    def draw():
        events, duration = _sounds(rng)
        objects, clip = [], {"kind": "sounds", "sounds": events, "duration": duration}
        if with_picture:
            # What moves does so at times of its own: seeing it does not tell when it sounds.
            times, _ = _times(rng, int(rng.integers(1, 4)), duration)
            objects, motions = _movers(rng, [{"time": time} for time in times])
            clip |= {"kind": "clip", "objects": objects, "motions": motions}
        meta = {"objects": objects, "events": events, "duration": duration}
        asked = int(rng.integers(len(events)))
        event = meta["events"][asked]
        wording = _wording(rng, "sound_time", SOUNDS.index(event["sound"]))
        question = QUESTIONS["sound_time"][1][wording["index"]].format(sound=event["sound"])
        answer = f"{event['time']:.1f} seconds"
        kind = "video" if with_picture else "audio"
        meta |= {"asked": {"objects": [], "events": [asked]}, "wording": wording, "kind": kind,
                 "question": question, "answer": answer, "seconds": event["time"]}  # fmt: skip
        return {
            "messages": [_user({"type": kind, kind: 0}, _text(question)), _assistant(answer)],
            "media": [clip],
            "meta": meta,
        }

    return _until_it_belongs(split, draw)


def _caption(rng, split: str) -> dict:
    def draw():
        sounds, duration = _sounds(rng)
        objects, tied = _movers(rng, sounds)
        clip = {"kind": "clip", "objects": objects, "motions": tied, "sounds": tied,
                "duration": duration}  # fmt: skip
        meta = {"objects": objects, "events": tied, "duration": duration}
        events, seen = [], []
        for event in meta["events"]:
            thing = meta["objects"][event["object"]]
            act = f"the {thing['colour']} {thing['shape']} {event['motion']}"
            seen.append(f"{act}.")
            events.append(f"<{event['time']:.1f} seconds> {act} with a {event['sound']}")
        acting = sorted({event["object"] for event in meta["events"]})
        answer = "\n".join(events)
        meta |= {"asked": {"objects": acting, "events": list(range(len(events)))},
                 "answer": answer, "description": " ".join(seen)}  # fmt: skip
        prompt = pick(rng, CAPTION_PROMPTS)
        return {
            "messages": [_user({"type": "video", "video": 0}, _text(prompt)), _assistant(answer)],
            "media": [clip],
            "meta": meta,
        }

    return _until_it_belongs(split, draw)


# tools ----------------------------------------------------------------------------------------


def _tool_call(rng, split: str) -> dict:
    name = pick(rng, list(TOOLS))
    spoken = rng.random() < 0.7
    _, parameters, requests, closing = TOOLS[name]

    def draw():
        slots = {key: pick(rng, VALUES[key]) for key in parameters}
        subject = parameters[0]
        wording = _wording(rng, f"tool {name}", VALUES[subject].index(slots[subject]))
        request = lang.fluent(requests[wording["index"]].format(**slots))
        arguments = {key: lang.NUMBERS.index(value) + 1 if key in ("times", "amount") else value
                     for key, value in slots.items()}  # fmt: skip
        things = [{key: slots[key] for key in ("shape", "colour", "place") if key in slots}]
        if "shape" not in slots:
            things = []
        others = [str(n) for n in rng.permutation([n for n in TOOLS if n != name])]
        offered = [name, *others[: int(rng.integers(1, 3))]]
        tools = [tool_definition(offered[i]) for i in rng.permutation(len(offered))]
        call = {"name": name, "arguments": arguments}
        messages = [{"role": "assistant", "content": "",
                     "tool_calls": [{"type": "function", "function": call}]}]  # fmt: skip
        if rng.random() < 0.4:
            messages += [{"role": "tool", "content": '{"ok": true}'},
                         _assistant(lang.fluent(closing.format(**slots)))]  # fmt: skip
        meta = {"objects": things, "asked": {"objects": list(range(len(things)))},
                "wording": wording, "call": call, "spoken": bool(spoken), "question": request,
                "answer": ""}  # fmt: skip
        media, item = [], _text(request + ".")
        if spoken:
            media = [_speech(rng, request, "en", split)]
            item = {"type": "audio", "audio": 0}
            meta |= {"voice": media[0]["voice"], "language": "en", "transcript": request}
        return {"messages": [_user(item), *messages], "tools": tools, "media": media, "meta": meta}

    return _until_it_belongs(split, draw)


_MAKERS = {
    "transcribe": _transcribe,
    "picture_question_written": lambda rng, split: _picture_question(rng, split, "written"),
    "picture_question_spoken": lambda rng, split: _picture_question(rng, split, "spoken"),
    "describe": _describe,
    "sound_time": _sound_time,
    "caption": _caption,
    "tool_call": _tool_call,
    "text_question": lambda rng, split: _picture_question(rng, split, "text"),
    "say": _say,
}
