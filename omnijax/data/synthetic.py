"""Small tasks that tell mixers of tokens apart: what is remembered, for how long, how exactly.

Each row is drawn anew from a generator; nothing is stored. A model reads ``tokens`` and, at each
place where ``levels`` is not -1, should predict ``targets`` at that same place. The level says how
hard that place is (``Task.levels`` names it). The published tasks are multi-query associative
recall (arXiv 2312.04927), copying, needles in noise and parity; rows are our own choice [C].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError

VOCAB = 64
BLANK, MARK = 0, 1
KEYS = np.arange(2, 34)
VALUES = np.arange(34, 64)
MIN_LENGTH = 32

KEY_COUNTS = (4, 8, 16, 32)
REGISTERS = 8
WRITES_AGO = (4, 8, 16)
NEEDLES = 4
EVENTS = 6
TIME_BINS = 8
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")


class Rows(NamedTuple):
    """int32 [B, T] each; a place whose level is -1 is not scored, and its target says nothing."""

    tokens: np.ndarray
    targets: np.ndarray
    levels: np.ndarray


class Task(NamedTuple):
    """draw: (generator, length) -> one row's tokens, targets, levels. chance: of a blind guess."""

    about: str
    levels: tuple[str, ...]
    chance: float
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    vocab: int = VOCAB


def _empty(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens, targets = np.full((2, length), BLANK, np.int32)
    return tokens, targets, np.full(length, -1, np.int32)


def _quarter(place, length: int):
    return 4 * place // length


def _body(length: int) -> int:
    """Where a row's questions begin: its last quarter."""
    return 2 * (3 * length // 8)


def _ask(rng, things: int, places: int) -> np.ndarray:
    """Which of so many things each place asks for: all of them, and again until it is full."""
    again = rng.integers(things, size=max(places - things, 0))
    return rng.permutation(np.concatenate([rng.permutation(things), again]))[:places]


def _recall(rng, length):
    """k1 v1 k2 v2 ..., then keys only, each at least once: the value of each is asked."""
    tokens, targets, levels = _empty(length)
    level = int(rng.integers(sum(4 * count <= length for count in KEY_COUNTS)))
    count = KEY_COUNTS[level]
    keys, values = rng.permutation(KEYS)[:count], rng.choice(VALUES, count)
    tokens[0 : 2 * count : 2], tokens[1 : 2 * count : 2] = keys, values
    asked = _ask(rng, count, length - 2 * count)
    tokens[2 * count :], targets[2 * count :] = keys[asked], values[asked]
    levels[2 * count :] = level
    return tokens, targets, levels


def _registers(rng, length):
    """register, value, register, value ...: each later write replaces. Then registers are asked."""
    tokens, targets, levels = _empty(length)
    names = rng.permutation(KEYS)[:REGISTERS]
    end = _body(length)
    writes = end // 2
    # The first writes name every register once, so that each question has an answer.
    which = np.concatenate([np.arange(REGISTERS), rng.integers(REGISTERS, size=writes)])[:writes]
    values = rng.choice(VALUES, writes)
    tokens[0:end:2], tokens[1:end:2] = names[which], values
    last = np.array([np.flatnonzero(which == register)[-1] for register in range(REGISTERS)])
    asked = _ask(rng, REGISTERS, length - end)
    tokens[end:], targets[end:] = names[asked], values[last[asked]]
    levels[end:] = np.digitize(writes - 1 - last[asked], WRITES_AGO)
    return tokens, targets, levels


def _parity(rng, length):
    """Zeros and ones; at every place, whether the ones so far are odd in number."""
    bits = rng.integers(2, size=length)
    odd = np.cumsum(bits) % 2
    places = np.arange(length)
    return KEYS[bits], VALUES[odd], _quarter(places, length)


def _copy(rng, length):
    """A string, a mark, the string again: each of its tokens is asked one place before it."""
    tokens, targets, levels = _empty(length)
    longest = (length - 1) // 2
    count = int(rng.integers(1, longest + 1))
    string = rng.choice(VALUES, count)
    tokens[:count], tokens[count], tokens[count + 1 : 2 * count + 1] = string, MARK, string
    places = count + np.arange(count)
    targets[places], levels[places] = string, _quarter(count - 1, longest)
    return tokens, targets, levels


def _needle(rng, length):
    """Noise with a few marked values in it: key, value. Then the keys are asked."""
    tokens, targets, levels = _empty(length)
    end = _body(length)
    tokens[:end] = rng.choice(VALUES, end)
    places = 2 * rng.permutation(end // 2)[:NEEDLES]
    keys, values = rng.permutation(KEYS)[:NEEDLES], rng.choice(VALUES, NEEDLES)
    tokens[places], tokens[places + 1] = keys, values
    asked = _ask(rng, NEEDLES, length - end)
    tokens[end:], targets[end:] = keys[asked], values[asked]
    levels[end:] = _quarter(places[asked], end)
    return tokens, targets, levels


def _when(rng, length):
    """A long clip, a token a frame: some things happen. Then things are named: in which eighth?"""
    tokens, targets, levels = _empty(length)
    end = _body(length)
    tokens[:end] = rng.choice(VALUES[:4], end)  # what the clip is like when nothing happens
    places, things = rng.permutation(end)[:EVENTS], rng.permutation(KEYS)[:EVENTS]
    tokens[places] = things
    asked = _ask(rng, EVENTS, length - end)
    tokens[end:], targets[end:] = things[asked], VALUES[TIME_BINS * places[asked] // end]
    levels[end:] = _quarter(places[asked], end)
    return tokens, targets, levels


_BLIND = 1 / len(VALUES)
TASKS = {
    "recall": Task(
        "multi-query associative recall: pairs, then keys alone",
        tuple(f"{count} keys" for count in KEY_COUNTS),
        _BLIND,
        _recall,
    ),
    "registers": Task(
        "state tracking: the last value written to each of 8 registers; level: how long ago",
        ("under 4 writes ago", "4 to 7", "8 to 15", "16 and more"),
        _BLIND,
        _registers,
    ),
    "parity": Task(
        "state tracking: running parity of bits; level: place in the row", QUARTERS, 0.5, _parity
    ),
    "copy": Task(
        "copying a string; level: its length, as a share of the longest", QUARTERS, _BLIND, _copy
    ),
    "needle": Task("needles in noise; level: depth in the row", QUARTERS, _BLIND, _needle),
    "when": Task(
        "long-clip event recall: the eighth of the clip in which a thing happened; level: when",
        QUARTERS,
        1 / TIME_BINS,
        _when,
    ),
}


def sample(task: Task, rng: np.random.Generator, rows: int, length: int) -> Rows:
    """``rows`` new rows of ``length`` tokens.

    Raises:
      UserError: a length too short for the tasks' parts.
    """
    if length < MIN_LENGTH:
        raise UserError(f"length is {length}, the tasks need at least {MIN_LENGTH} tokens")
    drawn = [task.draw(rng, length) for _ in range(rows)]
    return Rows(*(np.stack(column).astype(np.int32) for column in zip(*drawn, strict=True)))
