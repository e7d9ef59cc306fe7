"""Sounds and clips: when a sound comes, and what happens with a time for each event."""

import numpy as np

from omnijax.data.omniworld.drawing import (
    assistant_turn,
    draw_wording,
    text_item,
    trained_wording,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.splits import COLOURS, MOTIONS, SHAPES, SOUNDS
from omnijax.data.omniworld.wordings import CAPTION_PROMPTS, QUESTIONS

MIN_GAP = 6  # tenths of a second between two events


def _times(rng, count: int, duration: float | None = None) -> tuple[list[float], float]:
    """Event times on a 0.1 s grid, at least 0.6 s apart, and the clip's length (2-4 s)."""
    length = int(rng.integers(4, 9)) * 5 if duration is None else round(duration * 10)
    count = min(count, (length - 11) // MIN_GAP + 1)
    slack = length - 10 - MIN_GAP * (count - 1)  # after the last event a second is left to see it
    offsets = np.sort(rng.integers(1, slack + 1, count))
    return [round((int(o) + MIN_GAP * i) / 10, 1) for i, o in enumerate(offsets)], length / 10


def _draw_sounds(rng, count: int) -> tuple[list[dict], float]:
    """Different sounds with their times, as many as there is time for, and the clip's length."""
    times, duration = _times(rng, count)
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


def sound_time(rng, split: str, count: int | None = None) -> dict:
    """When one of the sounds (one to three, or ``count``) came, of sound alone or of a clip.

    In training most go on to ask for the other sounds; ``count`` of them are all asked for, and
    are sound alone.
    """
    with_picture = count is None and rng.random() < 0.3

    def draw():
        events, duration = _draw_sounds(rng, count or int(rng.integers(1, 4)))
        if count and len(events) < count:
            return None
        objects, clip = [], {"kind": "sounds", "sounds": events, "duration": duration}
        if with_picture:
            # What moves does so at times of its own: seeing it does not tell when it sounds.
            times, _ = _times(rng, int(rng.integers(1, 4)), duration)
            objects, motions = _movers(rng, [{"time": time} for time in times])
            clip |= {"kind": "clip", "objects": objects, "motions": motions}
        asked = int(rng.integers(len(events)))
        event = events[asked]
        wording = draw_wording(rng, "sound_time", SOUNDS.index(event["sound"]))
        kind = "video" if with_picture else "audio"
        question, answer = _ask_and_tell(event, wording)
        meta = {
            "objects": objects,
            "events": events,
            "duration": duration,
            "asked": {"objects": [], "events": [asked]},
            "wording": wording,
            "kind": kind,
            "question": question,
            "answer": answer,
            "seconds": event["time"],
            "heard": "\n".join(f"<{e['time']:.1f} seconds> {e['sound']}" for e in events),
        }
        messages = [user_turn({"type": kind, kind: 0}, text_item(question)), assistant_turn(answer)]
        if count or split == "train" and rng.random() < 0.9:
            meta["more_wordings"] = []
            for other in rng.permutation([i for i in range(len(events)) if i != asked]).tolist():
                wording = trained_wording(rng, "sound_time", SOUNDS.index(events[other]["sound"]))
                question, answer = _ask_and_tell(events[other], wording)
                messages += [user_turn(text_item(question)), assistant_turn(answer)]
                meta["more_wordings"].append(wording)
        return {"messages": messages, "media": [clip], "meta": meta}

    return until_it_belongs(split, draw)


def _ask_and_tell(event: dict, wording: dict) -> tuple[str, str]:
    """When a sound comes: the question in a wording of "sound_time", and its answer."""
    question = QUESTIONS["sound_time"][1][wording["index"]].format(sound=event["sound"])
    return question, f"{event['time']:.1f} seconds"


def caption(rng, split: str, count: int | None = None) -> dict:
    """Every event of a clip (one to three, or ``count``): when, who, how and with what sound."""

    def draw():
        sounds, duration = _draw_sounds(rng, count or int(rng.integers(1, 4)))
        if count and len(sounds) < count:
            return None
        objects, tied = _movers(rng, sounds)
        clip = {"kind": "clip", "objects": objects, "motions": tied, "sounds": tied,
                "duration": duration}  # fmt: skip
        meta = {"objects": objects, "events": tied, "duration": duration}
        told, seen = [], []
        for event in tied:
            thing = meta["objects"][event["object"]]
            act = f"the {thing['colour']} {thing['shape']} {event['motion']}"
            seen.append(f"{act}.")
            told.append(f"<{event['time']:.1f} seconds> {act} with a {event['sound']}")
        acting = sorted({event["object"] for event in tied})
        answer = "\n".join(told)
        meta |= {"asked": {"objects": acting, "events": list(range(len(told)))},
                 "answer": answer, "description": " ".join(seen)}  # fmt: skip
        prompt = pick(rng, CAPTION_PROMPTS)
        return {
            "messages": [
                user_turn({"type": "video", "video": 0}, text_item(prompt)),
                assistant_turn(answer),
            ],
            "media": [clip],
            "meta": meta,
        }

    return until_it_belongs(split, draw)
