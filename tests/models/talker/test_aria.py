"""ARIA's schedules are legal, complete and in order; streams predict the very next element."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.models.talker import aria

SIZES = st.tuples(st.integers(0, 40), st.integers(0, 60))
MANY = settings(max_examples=150, deadline=None, derandomize=True)
BEGIN, END, MORE = 90, 91, 92


def every_schedule(text, speech):
    for places in itertools.combinations(range(text + speech), speech):
        schedule = np.zeros(text + speech, bool)
        schedule[list(places)] = True
        yield schedule


def by_the_paper(schedule):
    """The prefix's ratio of speech to text never exceeds the item's."""
    total, text = int(schedule.sum()), int((~schedule).sum())
    for end in range(1, len(schedule) + 1):
        s = int(schedule[:end].sum())
        t = end - s
        if text and s and (t == 0 or Fraction(s, t) > Fraction(total, text)):
            return False
    return True


def counts(schedule):
    return int((~schedule).sum()), int(schedule.sum())


@pytest.mark.parametrize("text", range(5))
@pytest.mark.parametrize("speech", range(6))
def test_legality_in_integers_is_the_papers_ratio(text, speech):
    legal = [aria.is_legal(s) for s in every_schedule(text, speech)]
    assert legal == [by_the_paper(s) for s in every_schedule(text, speech)]
    assert any(legal)
    assert all(legal) == (text == 0 or speech == 0)


@given(SIZES, st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9))
@MANY
def test_every_schedule_that_is_made_is_legal_and_has_the_items_counts(sizes, key, n, m):
    for schedule in (
        aria.earliest(*sizes),
        aria.earliest(*sizes, n),
        aria.random(key, *sizes),
        aria.chunked(*sizes, n, m),
    ):
        assert counts(schedule) == sizes and aria.is_legal(schedule)
    assert counts(aria.fixed_rate(*sizes, n, m)) == sizes


@given(SIZES.filter(all), st.integers(0, 2**32))
@MANY
def test_a_frame_moved_before_its_earliest_place_is_found(sizes, key):
    for schedule in (aria.earliest(*sizes), aria.random(key, *sizes)):
        tight = aria.earliest(*sizes)
        speech, limit = np.cumsum(schedule), np.cumsum(tight)
        for i in np.flatnonzero(~schedule[:-1] & schedule[1:]):
            mutated = schedule.copy()
            mutated[[i, i + 1]] = True, False  # the frame comes before the text it waited for
            assert aria.is_legal(mutated) == (speech[i] + 1 <= limit[i])
    first = aria.earliest(*sizes)
    for i in np.flatnonzero(~first[:-1] & first[1:]):
        mutated = first.copy()
        mutated[[i, i + 1]] = True, False
        assert not aria.is_legal(mutated)


@pytest.mark.parametrize("text, speech", itertools.product(range(5), range(5)))
def test_earliest_is_ahead_of_every_legal_schedule_at_every_position(text, speech):
    first = np.cumsum(aria.earliest(text, speech))
    for schedule in filter(aria.is_legal, every_schedule(text, speech)):
        assert (np.cumsum(schedule) <= first).all()


@pytest.mark.parametrize("lead", [0, 1, 3, 50])
def test_a_lead_is_so_many_more_text_tokens_before_every_frame(lead):
    text, speech = 12, 40
    schedule = aria.earliest(text, speech, lead)
    before = np.cumsum(~schedule)[schedule]
    needed = np.cumsum(~aria.earliest(text, speech))[aria.earliest(text, speech)]
    assert before.tolist() == np.minimum(needed + lead, text).tolist()


@pytest.mark.parametrize("text, speech", [(1, 3), (2, 3), (3, 3), (3, 2), (0, 2), (2, 0), (0, 0)])
def test_random_reaches_every_legal_schedule(text, speech):
    rng = np.random.default_rng(0)
    met = {aria.random(rng, text, speech).tobytes() for _ in range(1500)}
    legal = {s.tobytes() for s in every_schedule(text, speech) if aria.is_legal(s)}
    assert met == legal


def test_random_repeats_with_its_key():
    one, two, other = (aria.random(key, 30, 60) for key in (1, 1, 2))
    assert (one == two).all() and (one != other).any()


def test_chunked_takes_four_and_four_and_runs_freely_after_the_last_text_token():
    speech = aria.chunked(6, 20)
    assert speech.tolist() == [False] * 4 + [True] * 4 + [False] * 2 + [True] * 16
    # Less than a frame a token: four frames for four tokens would be more than the item's share.
    assert aria.chunked(12, 6).tolist() == ([False] * 4 + [True] * 2) * 3
    assert aria.fixed_rate(12, 6, 4, 4).tolist() == (
        [False] * 4 + [True] * 4 + [False] * 4 + [True] * 2 + [False] * 4
    )


@given(SIZES, st.integers(0, 2**32), st.booleans())
@MANY
def test_interleaving_loses_and_reorders_nothing_and_predicts_the_next_element(sizes, key, asks):
    text = np.arange(sizes[0]) + 7
    codes = 100 + np.arange(sizes[1] * 3).reshape(-1, 3)
    schedule = aria.random(key, *sizes)
    stream = aria.interleave(
        text, codes, schedule, begin=BEGIN, end=END, ask=MORE if asks else None
    )
    assert len(stream.tokens) == sum(sizes) + 1
    assert stream.tokens[0] == -1 and stream.codes[0].tolist() == [BEGIN, -1, -1]
    np.testing.assert_array_equal(stream.tokens[stream.tokens >= 0], text)
    np.testing.assert_array_equal(stream.codes[1:][stream.codes[1:, 0] >= 0], codes)
    np.testing.assert_array_equal(stream.tokens[1:] >= 0, stream.codes[1:, 0] < 0)
    for i, speaks in enumerate(schedule):  # position i predicts what position i + 1 reads
        if speaks:
            assert stream.kinds[i] == aria.FRAME
            np.testing.assert_array_equal(stream.targets[i], stream.codes[i + 1])
        else:
            assert stream.kinds[i] == (aria.ASK if asks else aria.NOTHING)
            assert stream.targets[i].tolist() == [MORE * asks, 0, 0]
    assert stream.kinds[-1] == aria.END and stream.targets[-1].tolist() == [END, 0, 0]


def test_a_schedule_of_another_item_is_refused_with_its_counts():
    with pytest.raises(ValueError, match="2 text tokens and 3 frames, the item 2 and 4"):
        aria.interleave(
            np.zeros(2, int), np.zeros((4, 2), int), aria.earliest(2, 3), begin=0, end=1
        )
    with pytest.raises(ValueError, match="text is -1"):
        aria.earliest(-1, 3)
    with pytest.raises(ValueError, match="m is 0"):
        aria.chunked(3, 3, 1, 0)
    with pytest.raises(ValueError, match="lead is -1"):
        aria.earliest(3, 3, -1)
