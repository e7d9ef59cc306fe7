"""Practice in looking up: few facts and many questions about them, or many events in one clip.

A question about a scene has one answer of a word or two, half of which a guesser gets right, and
costs forty tokens with its scene. Here one scene, sound track or clip teaches many times;
experiments/README.md says what nano gains by it.
"""

from omnijax.data.omniworld.clips import caption, sound_time
from omnijax.data.omniworld.drawing import until_it_belongs
from omnijax.data.omniworld.pictures import KINDS, ask_by, turns_about
from omnijax.data.omniworld.scenes import answer_about
from omnijax.data.omniworld.splits import COLOURS, PLACES, SHAPES

ASKED = 12  # questions about a scene


def scenes(rng, split: str) -> dict:
    """Two to five objects told in words, and what may be asked of them."""
    return _drawn(rng, split, "text")


def pictures(rng, split: str) -> dict:
    """A picture of two to five objects and what may be asked of them, half of it first by voice."""
    return _drawn(rng, split, "spoken" if rng.random() < 0.5 else "written")


def _drawn(rng, split: str, form: str) -> dict:
    # Drawn once: the more there is, the more often the split rule has another one drawn.
    count = int(rng.integers(2, 6))
    return until_it_belongs(split, lambda: _scene(rng, split, count, form))


def _scene(rng, split: str, count: int, form: str) -> dict:
    """Objects, and questions of every kind that have one answer."""
    shapes, colours, places = (
        [values[i] for i in rng.permutation(len(values))[:count]]
        for values in (SHAPES, COLOURS, PLACES)
    )
    kinds = KINDS
    if rng.random() < 0.5:
        shapes = [shapes[int(i)] for i in rng.integers(0, 2, count)]
    else:  # all shapes differ: there would be one of each
        kinds = [kind for kind in KINDS if kind != "how_many"]
    objects = [
        {"shape": shape, "colour": colour, "place": place}
        for shape, colour, place in zip(shapes, colours, places, strict=True)
    ]
    every = [(kind, thing) for kind in kinds for thing in objects
             if answer_about(kind, thing, objects) is not None]  # fmt: skip
    order = []
    while len(order) < ASKED:
        order += rng.permutation(len(every)).tolist()
    messages, wordings = turns_about(rng, [every[i] for i in order[:ASKED]], objects)
    meta = {"objects": objects, "asked": {}, "more_wordings": wordings}
    meta["answer"] = messages[1]["content"]
    words = messages[0]["content"][0]["text"].rstrip("?.")
    facts = _briefly(objects) if form == "text" and rng.random() >= 0.5 else ""
    picture = {"kind": "picture", "objects": objects}
    messages[0], media, heard = ask_by(rng, split, form, words, picture, facts)
    meta |= heard
    return {"messages": messages, "media": media, "meta": meta}


def _briefly(objects: list[dict]) -> str:
    """As ``told``, but a place follows its shape at once, within a GDN layer's convolution."""
    return " ".join(f"{o['colour']} {o['shape']} {o['place']}." for o in objects)


def sounds(rng, split: str) -> dict:
    """Two to four sounds, and when each comes: of five in 3.5 s the order alone tells the times."""
    return sound_time(rng, split, count=int(rng.integers(2, 5)))


def clips(rng, split: str) -> dict:
    """A clip of two to five events with its caption: many, since the video costs more tokens."""
    return caption(rng, split, count=int(rng.integers(2, 6)))
