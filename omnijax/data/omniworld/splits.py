"""Which combinations are held out: one modular rule a family, checkable without rendering.

Every example's ``meta`` names what it shows or says: ``objects`` (shape, colour, place), ``events``
(object, motion, sound), ``wording`` (group, wording, subject; ``more_wordings`` those of further
turns) and ``asked``, the indices of the objects and events that the question is about. From these
alone:

    train, validation, say, words, recall_*  contain no held-out combination anywhere
    test, test_voice, say_test               ask about at least one held-out combination

Every single word, shape, colour, place, motion and sound occurs in training.
"""

from typing import NamedTuple

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "cyan")
PLACES = (
    "top left", "top", "top right",
    "left", "middle", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
MOTIONS = (
    "jumps", "spins", "grows", "shrinks", "moves left", "moves right", "moves up", "moves down",
)  # fmt: skip
SOUNDS = ("bell", "drum", "whistle", "click", "buzz", "splash", "horn", "chirp")
WORDINGS = 6

RECALL = ("recall_scenes", "recall_pictures", "recall_sounds", "recall_clips")
TRAIN_SPLITS = ("train", "validation", "say", "words", *RECALL)
TEST_SPLITS = ("test", "test_voice", "say_test")
SPLITS = (*TRAIN_SPLITS, *TEST_SPLITS)


class Combination(NamedTuple):
    family: str
    first: str | int
    second: str | int


# family: (values of the first, values of the second, modulus, remainder): a combination is held out
# if the two indices add up to the remainder, so that both sides lose the same share of partners.
RULES = {
    "shape x colour": (SHAPES, COLOURS, 6, 0),  # 8 of 48
    "shape x place": (SHAPES, PLACES, 6, 3),  # 9 of 54
    "colour x place": (COLOURS, PLACES, 8, 5),  # 9 of 72
    "motion x sound": (MOTIONS, SOUNDS, 8, 2),  # 8 of 64
    "sound x next sound": (SOUNDS, SOUNDS, 7, 4),  # 9 of 64
}


def is_held_out(combination: Combination) -> bool:
    """Whether a combination belongs to the test splits; wordings count by index, 1 subject in 6."""
    family, first, second = combination
    if family not in RULES:  # "wording x subject: <group>", both by index
        return (int(first) + int(second)) % WORDINGS == WORDINGS - 1
    firsts, seconds, modulus, remainder = RULES[family]
    return (firsts.index(first) + seconds.index(second)) % modulus == remainder


def combinations(meta: dict) -> set[Combination]:
    """Every combination that an example shows, says or asks, from its ``meta``."""
    events = meta.get("events", ())
    found = _of_objects(meta.get("objects", ())) | _of_events(events) | _of_wording(meta)
    return found | {
        Combination("sound x next sound", a["sound"], b["sound"])
        for a, b in zip(events, events[1:], strict=False)
    }


def asked_combinations(meta: dict) -> set[Combination]:
    """The combinations that the answer turns on, or that word the question."""
    asked, events = meta["asked"], meta.get("events", ())
    objects = [meta["objects"][i] for i in asked.get("objects", ())]
    found = _of_objects(objects) | _of_wording(meta)
    chosen = asked.get("events", ())
    found |= _of_events([events[i] for i in chosen])
    return found | {
        Combination("sound x next sound", a["sound"], b["sound"])
        for i, (a, b) in enumerate(zip(events, events[1:], strict=False))
        if i in chosen or i + 1 in chosen
    }


def belongs(meta: dict, split: str) -> bool:
    """Whether an example may stand in a split."""
    if split in TRAIN_SPLITS:
        return not any(map(is_held_out, combinations(meta)))
    return any(map(is_held_out, asked_combinations(meta)))


def _of_objects(objects) -> set[Combination]:
    pairs = (("shape", "colour"), ("shape", "place"), ("colour", "place"))
    return {
        Combination(f"{a} x {b}", thing[a], thing[b])
        for thing in objects
        for a, b in pairs
        if thing.get(a) is not None and thing.get(b) is not None
    }


def _of_events(events) -> set[Combination]:
    return {
        Combination("motion x sound", event["motion"], event["sound"])
        for event in events
        if event.get("motion") is not None and event.get("sound") is not None
    }


def _of_wording(meta: dict) -> set[Combination]:
    wordings = [meta["wording"]] if meta.get("wording") else []
    return {
        Combination(f"wording x subject: {wording['group']}", wording["index"], wording["subject"])
        for wording in (*wordings, *meta.get("more_wordings", ()))
    }
