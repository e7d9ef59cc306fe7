"""Lists of facts, written, and many questions about them: practice in looking up.

A question about a scene has one answer of a word or two, half of which a guesser gets right, and
costs forty tokens with its scene. Here facts are few, questions many, and what answers them can be
known from nothing else. Order matters: nano learns `again` in some 250 steps, then `asked` in as
many; both at once it has not begun to learn after 450. README says what scenes gain by it.
"""

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.drawing import (
    VALUES,
    assistant_turn,
    text_item,
    trained_wording,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.pictures import KINDS, told
from omnijax.data.omniworld.scenes import answer_about
from omnijax.data.omniworld.wordings import QUESTIONS

PLAIN = ("shape", "colour", "sound", "number")  # whose words are single tokens of nano
TOLD_AGAIN = 24  # pairs in an answer, at least
ASKED = 12  # questions about a list, at least


def again(rng, split: str) -> dict:
    """Bare words in twos, told again and again in other orders."""
    return _drawn(rng, split, _again, 3, 8)


def asked(rng, split: str) -> dict:
    """Bare words in twos, asked for one by one."""
    return _drawn(rng, split, _asked, 3, 8)


def scenes(rng, split: str) -> dict:
    """Two to five objects as a question about a text tells them, and what may be asked of them."""
    return _drawn(rng, split, _scene, 2, 5)


def _drawn(rng, split: str, draw, least: int, most: int) -> dict:
    # Drawn once: the more there is, the more often the split rule has another one drawn.
    count = int(rng.integers(least, most + 1))
    return until_it_belongs(split, lambda: draw(rng, count))


def _again(rng, count: int) -> dict:
    """drum two bell red: bell red drum two drum two bell red ..."""
    things = _things(rng, count)
    listed = [" ".join(thing.values()) for thing in things]
    turn = f"again: {' '.join(listed)}", " ".join(_shuffled(rng, listed, TOLD_AGAIN))
    return _plan("", [turn], things)


def _asked(rng, count: int) -> dict:
    """drum two bell red bell? red. drum? two. ..."""
    things = _things(rng, count)
    twos = [list(thing.values()) for thing in things]
    turns = [(f"{a}?", b) for a, b in _shuffled(rng, twos, ASKED)]
    return _plan(" ".join(f"{a} {b}" for a, b in twos), turns, things)


def _scene(rng, count: int) -> dict:
    """Objects that differ in everything, and questions of every kind about each."""
    kinds = ("shape", "colour", "place")
    columns = [[VALUES[kind][i] for i in rng.permutation(len(VALUES[kind]))[:count]]
               for kind in kinds]  # fmt: skip
    objects = [dict(zip(kinds, row, strict=True)) for row in zip(*columns, strict=True)]
    turns, wordings = [], []
    every = [(kind, thing) for kind in KINDS for thing in objects]
    for kind, thing in _shuffled(rng, every, ASKED)[:ASKED]:
        slot, texts = QUESTIONS[kind]
        wording = trained_wording(rng, kind, VALUES[slot].index(thing[slot]))
        words = lang.fluent(texts[wording["index"]].format(**thing))
        turns.append((lang.written(words), answer_about(kind, thing, objects)))
        wordings.append(wording)
    plan = _plan(told(objects), turns, objects)
    plan["meta"]["more_wordings"] = wordings
    return plan


def _things(rng, count: int) -> list[dict]:
    """So many things of two kinds each, no word twice."""
    words = [(slot, word) for slot in PLAIN for word in VALUES[slot]]
    while True:
        drawn = [words[i] for i in rng.permutation(len(words))[: 2 * count]]
        things = [dict(two) for two in zip(drawn[::2], drawn[1::2], strict=True)]
        if all(len(thing) == 2 for thing in things):  # no two sounds
            return things


def _shuffled(rng, listed: list, least: int) -> list:
    """All of them in some order, and again in another until there are enough."""
    out = []
    while len(out) < least:
        out += [listed[i] for i in rng.permutation(len(listed))]
    return out


def _plan(facts: str, turns: list[tuple[str, str]], things: list[dict]) -> dict:
    messages = []
    for question, answer in turns:
        text = question if messages else f"{facts} {question}".strip()
        messages += [user_turn(text_item(text)), assistant_turn(answer)]
    return {
        "messages": messages,
        "media": [],
        "meta": {
            "objects": things,
            "events": [thing for thing in things if "sound" in thing],
            "asked": {},
            "answer": turns[0][1],
        },
    }
