"""The synthetic tasks have the answers they claim: solvers that follow their text get all right."""

import numpy as np
import pytest

from omnijax.data.synthetic import KEYS, MARK, TASKS, VALUES, sample
from omnijax.errors import UserError


def asked(levels):
    return np.flatnonzero(levels >= 0)


def last_after(tokens, place, length):
    """The token after the last earlier occurrence, in the first ``length``, of what is asked."""
    before = np.flatnonzero(tokens[: min(place, length)] == tokens[place])
    return tokens[before[-1] + 1]


def recall(tokens, places):
    return [last_after(tokens, place, places[0]) for place in places]


def registers(tokens, places):
    return [last_after(tokens, place, places[0]) for place in places]


def parity(tokens, places):
    return [VALUES[np.sum(tokens[: place + 1] == KEYS[1]) % 2] for place in places]


def copy(tokens, places):
    (mark,) = np.flatnonzero(tokens == MARK)
    return [tokens[place - mark] for place in places]


def needle(tokens, places):
    return [last_after(tokens, place, places[0]) for place in places]


def when(tokens, places):
    frames = places[0]
    return [VALUES[8 * np.flatnonzero(tokens[:frames] == tokens[p])[0] // frames] for p in places]


SOLVERS = {f.__name__: f for f in (recall, registers, parity, copy, needle, when)}


@pytest.mark.parametrize("length", [32, 128, 256])
@pytest.mark.parametrize("name", TASKS)
def test_a_reader_of_the_row_so_far_answers_every_question(name, length):
    task = TASKS[name]
    rows = sample(task, np.random.default_rng(1), 40, length)
    seen = set()
    for tokens, targets, levels in zip(*rows, strict=True):
        assert tokens.shape == targets.shape == levels.shape == (length,)
        assert 0 <= tokens.min() and tokens.max() < task.vocab
        places = asked(levels)
        assert len(places)
        assert list(targets[places]) == SOLVERS[name](tokens, places)
        seen |= set(levels[places])
    assert seen <= set(range(len(task.levels)))
    if length >= 256:
        assert seen == set(range(len(task.levels)))


@pytest.mark.parametrize("name", TASKS)
def test_chance_is_what_a_constant_answer_gets(name):
    task = TASKS[name]
    rows = sample(task, np.random.default_rng(2), 400, 64)
    _, counts = np.unique(rows.targets[rows.levels >= 0], return_counts=True)
    assert abs(counts.max() / counts.sum() - task.chance) < 0.03


def test_the_same_seed_draws_the_same_rows_and_another_seed_others():
    first, again, other = (
        sample(TASKS["recall"], np.random.default_rng(seed), 4, 64) for seed in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.tokens != other.tokens).any()


@pytest.mark.parametrize("name", ["recall", "registers", "needle", "when"])
def test_no_question_shows_an_answer(name):
    rows = sample(TASKS[name], np.random.default_rng(0), 20, 96)
    for tokens, _, levels in zip(*rows, strict=True):
        assert (levels[asked(levels)[0] :] >= 0).all()
        assert set(tokens[levels >= 0]) <= set(KEYS)


def test_a_row_too_short_is_refused():
    with pytest.raises(UserError, match="length is 16, the tasks need at least 32"):
        sample(TASKS["copy"], np.random.default_rng(0), 1, 16)
