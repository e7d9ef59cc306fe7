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

VOCAB = 128
BLANK, MARK = 0, 1
KEYS = np.arange(2, 65)
VALUES = np.arange(65, 128)
MIN_LENGTH = 32

KEY_COUNTS = (4, 8, 16, 32, 64)
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


def _recall(rng, length):
    """k1 v1 k2 v2 ... then, scattered among blanks, each key once: its value is asked there."""
    tokens, targets, levels = _empty(length)
    level = rng.integers(sum(3 * count <= length for count in KEY_COUNTS))
    count = min(KEY_COUNTS[level], len(KEYS))
    keys, values = rng.permutation(KEYS)[:count], rng.choice(VALUES, count)
    tokens[0 : 2 * count : 2], tokens[1 : 2 * count : 2] = keys, values
    places = 2 * count + rng.permutation(length - 2 * count)[:count]
    tokens[places], targets[places], levels[places] = keys, values, level
    return tokens, targets, levels


def _registers(rng, length):
    """register, value, register, value ...: each later write replaces; at the end all are asked."""
    tokens, targets, levels = _empty(length)
    names = rng.permutation(KEYS)[:REGISTERS]
    writes = (length - REGISTERS) // 2
    # The first writes name every register once, so that each question has an answer.
    which = np.concatenate([np.arange(REGISTERS), rng.integers(REGISTERS, size=writes)])[:writes]
    values = rng.choice(VALUES, writes)
    tokens[0 : 2 * writes : 2], tokens[1 : 2 * writes : 2] = names[which], values
    places = length - REGISTERS + rng.permutation(REGISTERS)
    for register, place in enumerate(places):
        written = np.flatnonzero(which == register)
        tokens[place], targets[place] = names[register], values[written[-1]]
        levels[place] = np.digitize(writes - 1 - written[-1], WRITES_AGO)
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
    """Noise of values with a few marked ones in it: key, value. At the end the keys are asked."""
    tokens, targets, levels = _empty(length)
    noise = length - NEEDLES
    tokens[:noise] = rng.choice(VALUES, noise)
    places = 2 * rng.permutation(noise // 2)[:NEEDLES]
    keys, values = rng.permutation(KEYS)[:NEEDLES], rng.choice(VALUES, NEEDLES)
    tokens[places], tokens[places + 1] = keys, values
    tokens[noise:], targets[noise:], levels[noise:] = keys, values, _quarter(places, noise)
    return tokens, targets, levels


def _when(rng, length):
    """A long clip, a token a frame: some things happen. Then each is named: in which eighth?"""
    tokens, targets, levels = _empty(length)
    frames = length - EVENTS
    tokens[:frames] = rng.choice(VALUES[:8], frames)  # what the clip is like when nothing happens
    places, things = rng.permutation(frames)[:EVENTS], rng.permutation(KEYS)[:EVENTS]
    tokens[places], tokens[frames:] = things, things
    targets[frames:] = VALUES[TIME_BINS * places // frames]
    levels[frames:] = _quarter(places, frames)
    return tokens, targets, levels


_BLIND = 1 / len(VALUES)
TASKS = {
    "recall": Task(
        "multi-query associative recall: pairs, then each key once",
        tuple(f"{min(count, len(KEYS))} keys" for count in KEY_COUNTS),
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
