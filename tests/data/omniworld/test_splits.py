"""Held out means unseen combinations: shown on the plans alone, over all of train and test."""

import itertools
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld import splits
from omnijax.data.omniworld.drawing import VALUES
from omnijax.data.omniworld.language import LANGUAGES, NUMBERS, fluent, words_for
from omnijax.data.omniworld.splits import Combination
from omnijax.data.omniworld.wordings import QUESTIONS, TOOLS
from omnijax.errors import UserError

TESTS = ("test", "test_voice", "say_test")
MANY = 4000  # test plans, where chance needs many


MOST = 8000  # training plans a test looks at; a slow test looks at all that are stored


def plans(split, size=None):
    return _plans(split, size or min(omniworld.SIZES.get(split, 2000), MOST))


@cache
def _plans(split, size):
    return [omniworld.plan(i, split) for i in range(size)]


def words(plan):
    for message in plan["messages"]:
        content = message["content"]
        items = [{"text": content}] if isinstance(content, str) else content
        for item in items:
            yield from item.get("text", "").lower().replace("?", " ").replace(".", " ").split()
    yield from plan["meta"].get("transcript", "").split()


@pytest.mark.parametrize("split", splits.TRAIN_SPLITS)
def test_no_training_example_holds_a_held_out_combination(split):
    found = {c for plan in plans(split) for c in splits.combinations(plan["meta"])}
    assert len(found) > 80
    assert not [c for c in found if splits.is_held_out(c)]


@pytest.mark.slow
def test_no_stored_training_example_holds_a_held_out_combination():
    for i in range(omniworld.SIZES["train"]):
        found = splits.combinations(omniworld.plan(i, "train")["meta"])
        assert not any(map(splits.is_held_out, found)), i


@pytest.mark.parametrize("split", TESTS)
def test_every_test_example_asks_about_a_combination_never_met_in_training(split):
    trained = {
        c for s in ("train", "say") for p in plans(s) for c in splits.combinations(p["meta"])
    }
    for plan in plans(split):
        unseen = splits.asked_combinations(plan["meta"]) - trained
        assert any(map(splits.is_held_out, unseen)), plan


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_truth_names_every_combination_that_the_text_and_the_media_hold(split):
    """Read anew from what is drawn, played and said, not from what the rule looks at."""
    for plan in plans(split, 3000 if split == "train" else None):
        known = splits.combinations(plan["meta"])
        for item in plan["media"]:
            for thing in item.get("objects", ()):
                assert Combination("shape x colour", thing["shape"], thing["colour"]) in known
                if "place" in thing:
                    assert Combination("shape x place", thing["shape"], thing["place"]) in known
                    assert Combination("colour x place", thing["colour"], thing["place"]) in known
            for event in item.get("sounds", ()):
                if "motion" in event:
                    pair = Combination("motion x sound", event["motion"], event["sound"])
                    assert pair in known
            for a, b in itertools.pairwise(item.get("sounds", ())):
                assert Combination("sound x next sound", a["sound"], b["sound"]) in known
        text = " ".join(words(plan))
        for shape, colour in itertools.product(splits.SHAPES, splits.COLOURS):
            if f"{colour} {shape}" in text:
                assert Combination("shape x colour", shape, colour) in known, plan
        if plan["meta"].get("language", "en") == "en":
            for motion, sound in itertools.product(splits.MOTIONS, splits.SOUNDS):
                if f"{motion} with the {sound}" in text or f"{motion} with a {sound}" in text:
                    assert Combination("motion x sound", motion, sound) in known, plan


def test_the_further_questions_of_a_conversation_are_asked_as_training_may_ask_them():
    """Each is found again among the wordings by its text."""
    asked = Counter()
    for plan in plans("train", 3000):
        if plan["task"].startswith("tool"):
            continue
        for message in plan["messages"][2:]:
            if message["role"] != "user":
                continue
            (item,) = message["content"]
            text = item["text"].rstrip(".?")
            found = [
                Combination(f"wording x subject: {group}", index, subject)
                for group, (slot, wordings) in QUESTIONS.items()
                for index, wording in enumerate(wordings)
                for subject, value in enumerate(VALUES[slot])
                if fluent(wording.format(**{slot: value})).rstrip(".?") == text
            ]
            assert found and not any(map(splits.is_held_out, found)), item
            asked[found[0].family] += 1
    assert set(asked) == {f"wording x subject: {group}" for group in QUESTIONS}


def test_the_further_answers_of_a_conversation_are_true_of_what_it_shows():
    told = Counter()
    for plan in plans("train", 3000):
        if plan["task"].startswith(("tool", "transcribe")):
            continue
        meta, turns = plan["meta"], plan["messages"][2:]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            said, truth = question["content"][0]["text"], answer["content"]
            if plan["task"] == "sound_time":
                (event,) = [e for e in meta["events"] if e["sound"] in said]
                assert truth == f"{event['time']:.1f} seconds"
            else:
                assert truth in answers_to(said, meta["objects"]), (said, meta["objects"])
            told[plan["task"]] += 1
    assert set(told) == {"picture_question_written", "picture_question_spoken", "text_question",
                         "describe", "sound_time"}  # fmt: skip


def test_each_request_of_a_conversation_is_answered_by_its_call_of_what_is_offered():
    further = Counter()
    for plan in plans("train", 3000):
        if not plan["task"].startswith("tool"):
            continue
        offered = {tool["function"]["name"] for tool in plan["tools"]}
        turns = plan["messages"]
        asks = [n for n, message in enumerate(turns) if message["role"] == "user"]
        for number, n in enumerate(asks):
            (item,) = turns[n]["content"]
            said = item.get("text") or plan["media"][item["audio"]]["text"]
            (call,) = turns[n + 1]["tool_calls"]
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            assert name in offered
            values = {key: NUMBERS[value - 1] if isinstance(value, int) else value
                      for key, value in arguments.items()}  # fmt: skip
            wordings = [fluent(words.format(**values)) for words in TOOLS[name][2]]
            assert said.rstrip(".") in wordings
            if number:
                assert turns[n - 1]["role"] == "assistant"  # the one before is done
                further[plan["task"]] += 1
    assert set(further) == {"tool_call", "tool_call_written"}


def answers_to(question, objects):
    """By the words of the question alone: what it names, and what it asks for."""
    heard = set(question.replace("?", "").replace(".", "").split())
    named = [o for o in objects if {o["shape"], o["colour"]} & heard]
    if "many" in heard or "number" in heard or question.startswith("count"):
        shapes = [o for o in objects if o["shape"][:4] in question]
        return [NUMBERS[len(shapes) - 1]]
    if "where" in heard or "in which place" in question or "name the place" in question:
        assert len(named) == 1
        return [named[0]["place"]]
    if "colour" in heard:
        assert len(named) == 1
        return [named[0]["colour"]]
    if "shape" in heard:
        assert len(named) == 1
        return [named[0]["shape"]]
    place = question.replace("?", "").replace(".", "").split("at the ")[-1]
    place = place.removesuffix(" there is what")
    return [f"{o['colour']} {o['shape']}" for o in objects if o["place"] == place]


def test_words_in_no_order_hold_no_held_out_pair_even_apart():
    """Read from the words alone, in all languages; the order tells nothing."""
    names = {
        (language, kind): {
            words_for(language, kind, value, rng): value
            for rng in (Last(), First())
            for value in values
        }
        for language in LANGUAGES
        for kind, values in (("shape", splits.SHAPES), ("colour", splits.COLOURS))
    }
    firsts = Counter()
    for plan in plans("words"):
        meta = plan["meta"]
        said = meta["answer"].split()
        shapes = [names[meta["language"], "shape"].get(word) for word in said]
        colours = [names[meta["language"], "colour"].get(word) for word in said]
        for shape, colour in itertools.product(filter(None, shapes), filter(None, colours)):
            assert not splits.is_held_out(Combination("shape x colour", shape, colour)), said
            order = [s or c for s, c in zip(shapes, colours, strict=True) if s or c]
            firsts[order[0] == shape] += 1
    assert 0.4 < firsts[True] / firsts.total() < 0.6 and firsts.total() > 300


class First:
    def integers(self, n):
        return 0


class Last:
    def integers(self, n):
        return n - 1


def test_only_training_goes_on_after_the_first_answer():
    for split in ("validation", "test"):
        for plan in plans(split):
            if not plan["task"].startswith("tool"):
                assert [m["role"] for m in plan["messages"]] == ["user", "assistant"]


def test_every_word_shape_colour_place_motion_sound_and_answer_occurs_in_training():
    trained = {word for plan in plans("train") for word in words(plan)}
    asked = {word for split in TESTS[:2] for plan in plans(split) for word in words(plan)}
    assert asked <= trained
    seen = defaultdict(set)
    for plan in plans("train"):
        for first in splits.combinations(plan["meta"]):
            seen[first.family] |= {first.first, first.second}
    for family, (firsts, seconds, _, _) in splits.RULES.items():
        assert seen[family] == {*firsts, *seconds}


@pytest.mark.parametrize("family", list(splits.RULES))
def test_each_value_keeps_most_of_its_partners_and_loses_some(family):
    firsts, seconds, _, _ = splits.RULES[family]
    held = [(a, b) for a in firsts for b in seconds
            if splits.is_held_out(Combination(family, a, b))]  # fmt: skip
    assert 0.1 < len(held) / (len(firsts) * len(seconds)) < 0.2
    for side, values in enumerate((firsts, seconds)):
        lost = Counter(pair[side] for pair in held)
        assert {lost[value] for value in values} <= {0, 1, 2}
        assert sum(lost[value] > 0 for value in values) >= len(values) - 1


def test_no_test_sentence_is_spoken_in_training():
    spoken = {p["meta"]["transcript"] for p in plans("train") if p["task"] == "transcribe"}
    for split in ("test", "test_voice"):
        sentences = {p["meta"]["transcript"] for p in plans(split) if p["task"] == "transcribe"}
        assert len(sentences) > 100
        assert not sentences & spoken


def test_unseen_voices_speak_only_in_the_split_of_unseen_voices():
    voices = {
        split: {plan["meta"]["voice"] for plan in plans(split) if "voice" in plan["meta"]}
        for split in omniworld.SPLITS
    }
    unseen = voices.pop("test_voice")
    assert len(unseen) >= 1 and len(voices["train"]) >= 8
    assert not unseen & set().union(*voices.values())


def test_the_splits_are_different_examples_of_every_task():
    for split in ("train", "validation", "test"):
        assert {plan["task"] for plan in plans(split)} == set(omniworld.MIXTURE)
    texts = {split: {str(plan["media"]) for plan in plans(split) if plan["media"]}
             for split in ("train", "validation", "test")}  # fmt: skip
    for a, b in itertools.combinations(texts, 2):
        assert not texts[a] & texts[b]


@pytest.mark.parametrize("task", ["picture_question_written", "picture_question_spoken",
                                  "text_question"])  # fmt: skip
@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_balanced_so_that_words_alone_do_not_tell(task, split):
    many = plans(split, MANY if split == "test" else None)
    answers = defaultdict(Counter)
    for plan in many:
        if plan["task"] == task and plan["meta"]["kind"] != "what_at":
            answers[plan["meta"]["kind"]][plan["meta"]["answer"]] += 1
    for counts in answers.values():
        expected = counts.total() / len(counts)
        spread = sum((n - expected) ** 2 for n in counts.values()) / expected  # chi-square
        assert spread < len(counts) + 4 * np.sqrt(2 * len(counts)), counts
    assert omniworld.chance(task, many) < 0.3


def test_the_training_prior_of_a_subject_is_no_better_than_of_its_kind():
    """Knowing which shape is asked tells next to nothing of its colour, and so on."""
    counts = defaultdict(Counter)
    for plan in plans("train"):
        if plan["task"].startswith("picture"):
            meta = plan["meta"]
            counts[meta["kind"], meta["wording"]["subject"]][meta["answer"]] += 1
    right = total = 0
    for plan in plans("test", MANY):
        if plan["task"].startswith("picture"):
            meta = plan["meta"]
            guess, _ = counts[meta["kind"], meta["wording"]["subject"]].most_common(1)[0]
            right, total = right + (guess == meta["answer"]), total + 1
    assert right / total < 0.25


def test_in_a_clip_with_an_asked_sound_what_moves_does_not_tell_when_it_sounds():
    gaps = []
    for plan in plans("train"):
        if plan["task"] == "sound_time" and plan["meta"]["kind"] == "video":
            moves = [m["time"] for m in plan["media"][0]["motions"]]
            gaps.append(min(abs(m - plan["meta"]["seconds"]) for m in moves))
    assert len(gaps) > 200
    assert np.mean(gaps) > 0.3


def test_sounds_and_motions_are_chosen_independently():
    pairs = Counter((e["motion"], e["sound"]) for p in plans("train") if p["task"] == "caption"
                    for e in p["meta"]["events"])  # fmt: skip
    allowed = [(m, s) for m in splits.MOTIONS for s in splits.SOUNDS
               if not splits.is_held_out(Combination("motion x sound", m, s))]  # fmt: skip
    assert set(pairs) == set(allowed)
    assert max(pairs.values()) < 2 * pairs.total() / len(allowed)


@pytest.mark.parametrize("split", ["train", "test"])
def test_events_are_on_a_grid_apart_and_leave_time_to_be_seen(split):
    for plan in plans(split, 3000 if split == "train" else None):
        meta = plan["meta"]
        if plan["task"] in ("caption", "sound_time"):
            times = [event["time"] for event in meta["events"]]
            assert 1 <= len(times) <= 3
            assert all(abs(t * 10 - round(t * 10)) < 1e-9 for t in times)
            assert all(b - a >= 0.6 - 1e-9 for a, b in itertools.pairwise(times))
            assert times[0] >= 0.1 and times[-1] <= meta["duration"] - 0.99
            assert 2 <= meta["duration"] <= 4
            assert len({event["sound"] for event in meta["events"]}) == len(times)


def test_the_mixture_is_exact_in_every_block():
    for block in range(3):
        tasks = Counter(omniworld.task_of(block * 100 + i, "train") for i in range(100))
        assert tasks == omniworld.MIXTURE


def test_chance_levels_are_low_where_the_modality_is_missing():
    test = plans("test", MANY)
    assert omniworld.chance("transcribe", test) > 0.7
    assert omniworld.chance("sound_time", test) > 0.45
    assert omniworld.chance("caption", test) < 0.02
    assert omniworld.chance("caption", test, without="audio") < 0.2
    assert omniworld.chance("caption", test, without="video") < 0.05
    assert omniworld.chance("tool_call", test) < 0.05
    assert omniworld.chance("picture_question_spoken", test, without="audio") < 0.3
    with pytest.raises(UserError, match="no example of task 'say'"):
        omniworld.chance("say", test)


def test_bad_splits_and_indices_are_named():
    with pytest.raises(UserError, match="split 'dev' is none of train"):
        omniworld.plan(0, "dev")
    with pytest.raises(UserError, match="index -1"):
        omniworld.plan(-1, "train")


def test_texts_for_a_tokenizer_have_all_kinds():
    texts = list(omniworld.corpus_texts(400))
    for part in ("<0.", "seconds", '"name": ', "étoile", "grüne", '"parameters"'):
        assert any(part in text for text in texts), part
