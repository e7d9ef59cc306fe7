import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.data import omniworld
from omnijax.errors import UserError
from omnijax.eval import scoring
from omnijax.eval.scoring import Event
from omnijax.text.tools import ToolCall, render_call

CALL = {"name": "play", "arguments": {"sound": "bell", "times": 3}}


def true_answer(plan):
    call = plan["meta"].get("call")
    return render_call(ToolCall(**call)) if call else plan["meta"]["answer"]


@pytest.mark.parametrize("task", list(omniworld.MIXTURE))
def test_true_answers_get_the_best_score_and_empty_ones_the_worst(task):
    plans = [p for p in (omniworld.plan(i, "test") for i in range(300)) if p["task"] == task]
    best = scoring.score(task, plans, [true_answer(plan) for plan in plans])
    worst = scoring.score(task, plans, [""] * len(plans))
    assert best.count == len(plans)
    assert best.value == (0 if best.lower_is_better else 1)
    assert worst.value >= 1 if worst.lower_is_better else worst.value == 0
    assert all(scoring.is_right(task, plan, true_answer(plan)) for plan in plans)
    assert not any(scoring.is_right(task, plan, "") for plan in plans)


def test_word_errors_ignore_case_and_punctuation_and_count_over_all_words():
    assert scoring.word_error_rate(["l'étoile verte"], ["L’étoile, verte!"]) == 0
    assert scoring.word_error_rate(["a b c", "d"], ["a x c", "d"]) == pytest.approx(1 / 4)


def test_a_decimal_point_is_no_punctuation():
    assert scoring.exact_share(["1.4 seconds"], ["14 seconds"]) == 0
    assert scoring.exact_share(["1.4 seconds"], ["1.4 Seconds."]) == 1


def test_an_answer_without_a_time_costs_the_length_of_the_clip():
    assert scoring.mean_seconds_error([1.0, 1.0], ["1.5 seconds", "red"], [3.0, 3.0]) == 1.75
    assert scoring.mean_seconds_error([1.0], ["900 seconds"], [3.0]) == 3.0


def test_captions_are_read_line_by_line():
    text = "<0.6 seconds> the red circle jumps with a bell\nnoise\n<1.8 seconds> The white star " \
           "moves left with a horn."  # fmt: skip
    assert scoring.parse_events(text) == [
        Event(0.6, "red circle", "jumps", "bell"),
        Event(1.8, "white star", "moves left", "horn"),
    ]


def test_one_event_said_twice_is_one_hit_and_one_miss():
    truth = [[Event(1.0, "red circle", "jumps", "bell")]]
    line = "<1.0 seconds> the red circle jumps with a bell"
    assert scoring.event_f1(truth, [line]) == 1
    assert scoring.event_f1(truth, [line + "\n" + line]) == pytest.approx(2 / 3)
    assert scoring.event_f1(truth, [line.replace("1.0", "1.6")]) == 0
    assert scoring.event_f1(truth, [line.replace("bell", "drum")]) == 0
    assert scoring.event_f1(truth, [line + "\nthis is no event"]) == pytest.approx(2 / 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 20), max_size=4), st.lists(st.integers(0, 20), max_size=4))
def test_matching_finds_the_most_pairs(truth, answer):
    best = 0
    pairs = [(i, j) for i, j in itertools.product(range(len(truth)), range(len(answer)))
             if abs(truth[i] - answer[j]) <= 5]  # fmt: skip
    for count in range(1, min(len(truth), len(answer)) + 1):
        for chosen in itertools.combinations(pairs, count):
            if len({i for i, _ in chosen}) == count == len({j for _, j in chosen}):
                best = count
    events = [[Event(t / 10, "red star", "jumps", "bell") for t in ts] for ts in (truth, answer)]
    assert scoring.matches(*events) == best


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "play", "arguments": {"sound": "bell", "times": 4}},
        {"name": "play", "arguments": {"sound": "bell"}},
        {"name": "play", "arguments": {"sound": "bell", "times": 3, "more": 1}},
        {"name": "draw", "arguments": {"sound": "bell", "times": 3}},
    ],
)
def test_a_call_is_right_only_with_its_name_and_exactly_its_arguments(wrong):
    text = render_call(ToolCall(**CALL))
    assert scoring.tool_call_is_right(CALL, text)
    assert not scoring.tool_call_is_right(CALL, text + text)
    assert not scoring.tool_call_is_right(wrong, text)


def test_numbers_are_right_with_their_sign_alone():
    cold = {"name": "play", "arguments": {"level": -5}}
    for level, right in ((-5, True), ("-5", True), (5, False)):
        text = render_call(ToolCall("play", {"level": level}))
        assert scoring.tool_call_is_right(cold, text) == right
    assert scoring.exact_share(["it is -5"], ["It is -5."]) == 1
    assert scoring.exact_share(["it is -5"], ["it is 5"]) == 0
    assert scoring.plain("left-hand - no, 10-15 (-5)") == "left hand no 10 15 -5"
    places = {"name": "play", "arguments": {"at": [-5, 3]}}
    assert not scoring.tool_call_is_right(places, render_call(ToolCall("play", {"at": [5, 3]})))


def test_bad_input_is_named():
    with pytest.raises(UserError, match="1 answers for 2 truths"):
        scoring.exact_share(["a", "b"], ["a"])
    with pytest.raises(UserError, match="no examples of task 'caption'"):
        scoring.score("caption", [], [])


def test_words_left_out_and_words_said_twice_are_told_apart():
    from omnijax.eval.spoken import skips_and_repeats

    truths = ["the red circle rings", "a bell"]
    assert skips_and_repeats(truths, truths) == (0, 0)
    assert skips_and_repeats(truths, ["the circle rings", "a bell"]) == (1 / 6, 0)
    assert skips_and_repeats(truths, ["the red red circle rings", "a bell"]) == (0, 1 / 6)
    assert skips_and_repeats(truths, ["the red blue circle rings", "a bell"]) == (0, 0)
