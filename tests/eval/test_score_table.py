import json

import pytest

from omnijax.data import omniworld
from omnijax.eval import score_table
from omnijax.eval.score_table import LINES, Noisy, Row
from omnijax.generate.text import TextGenerator
from omnijax.media import nano_processor
from omnijax.text import nano_tokenizer

# The world below answers in the model's place.
NOISY = Noisy(0.96, 0.97, 50, True)
MODEL = (object.__new__(TextGenerator), nano_tokenizer(), nano_processor())


def test_a_row_says_whether_its_aim_is_met():
    row = Row("transcribe", "WER", 0.04, 0.05, True, 0.97, {"audio": NOISY}, 50, {})
    assert row.cells() == (
        "transcribe", "WER", "0.040", "0.05", "yes", "0.970", "audio 0.960 (0.970)", "50",
    )  # fmt: skip
    assert row._replace(met=False).cells()[4] == "no"
    bare = row._replace(aim=None, met=None, noise={}).cells()
    assert bare[3:5] == ("", "") and bare[6] == ""


def test_a_task_solved_without_what_it_needs_is_a_shortcut_and_luck_is_none():
    assert not NOISY.shortcut
    assert not Noisy(0.281, 0.234, 64, False).shortcut  # 18 of 64 right beside 15
    assert Noisy(0.41, 0.234, 64, False).shortcut and not Noisy(0.0, 0.234, 64, False).shortcut
    assert Noisy(0.40, 0.97, 64, True).shortcut and not Noisy(1.2, 0.97, 64, True).shortcut
    assert Noisy(0.05, 0.0, 64, False).shortcut and not Noisy(0.03, 0.0, 64, False).shortcut
    # Where chance errs by more than one a word, or by seconds, it is no share.
    assert not Noisy(0.95, 1.1, 64, True).shortcut and Noisy(0.8, 1.1, 64, True).shortcut
    row = Row("t", "exact", 1.0, None, None, 0.2, {"audio": NOISY}, 64, {})
    assert row.shortcuts == [] and "SHORTCUT" not in row.cells()[6]
    row = row._replace(noise={"audio": NOISY, "image": Noisy(0.9, 0.2, 64, False)})
    assert row.shortcuts == ["image"]
    assert row.cells()[6] == "audio 0.960 (0.970), image 0.900 (0.200) SHORTCUT"


def test_parts_stand_in_one_line_each():
    row = Row("t", "WER", 0.1, None, None, 1.0, {}, 3, {"language": {"de": (0.5, 1), "en": (0, 2)}})
    assert row.part_cells() == [("t", "language", "de 0.500 (1), en 0.000 (2)")]


def test_every_aim_of_the_issue_has_a_line_and_every_task_that_answers_in_text_too():
    assert {line.task for line in LINES} == set(omniworld.MIXTURE) - {"tool_call_written"}
    assert [line.aim for line in LINES] == [0.05, 0.15, 0.95, 0.90, None, 0.3, 0.8, 0.95, None]


@pytest.fixture
def world(monkeypatch):
    """Held-out plans without media, answered by whoever stands in ``world.answers``."""

    class World:
        answers = staticmethod(lambda examples: [""] * len(examples))

    def live(split, tasks):
        plans = [omniworld.plan(i, split) for i in range(150)]
        return [{**p, "chat": {"plan": p}} for p in plans if p["task"] in tasks]

    def answer(generator, tokenizer, processor, chats, *, max_new_tokens):
        return World.answers([chat["plan"] for chat in chats])

    def with_noise(chat, modality, rng):
        return {"plan": {**chat["plan"], "meta": {"answer": f"no {modality}"}}}

    monkeypatch.setattr(score_table.omniworld, "live", live)
    monkeypatch.setattr(score_table, "answer", answer)
    monkeypatch.setattr(score_table, "with_noise", with_noise)
    lines = [line for line in LINES if line.task in ("picture_question_spoken", "transcribe")]
    monkeypatch.setattr(score_table, "LINES", lines)
    return World


def test_true_answers_meet_every_aim_and_noise_is_scored_beside_its_chance(world):
    world.answers = staticmethod(lambda plans: [plan["meta"]["answer"] for plan in plans])
    rows = score_table.evaluate(*MODEL, limit=3, noise_limit=2)
    assert [row.met for row in rows] == [True] * 3
    assert [row.score for row in rows] == [0.0, 0.0, 1.0]
    assert [row.count for row in rows] == [3] * 3
    assert set(rows[2].noise) == {"image", "audio"}
    assert rows[2].noise["image"].score == rows[2].noise["audio"].score == 0.0
    plans = [p for p in (omniworld.plan(i, "test") for i in range(150))
             if p["task"] == "picture_question_spoken"][:3]  # fmt: skip
    by_sight = omniworld.chance("picture_question_spoken", plans, without="audio")
    assert rows[2].noise["image"].chance == rows[2].chance
    assert rows[2].noise["audio"].chance == by_sight != rows[2].chance
    json.dumps([row._asdict() for row in rows])


def test_parts_are_scored_alone_and_what_all_share_is_no_part(world):
    def says_nothing_of_two(plans):
        return ["" if len(plan["meta"]["objects"]) == 2 else plan["meta"]["answer"]
                for plan in plans]  # fmt: skip

    world.answers = staticmethod(says_nothing_of_two)
    row = score_table.evaluate(*MODEL, noise=False)[2]
    assert row.title == "picture, spoken question"
    assert {*row.parts} == {"kind", "objects"}
    scores = {count: score for count, (score, _) in row.parts["objects"].items()}
    assert scores == {"1": 1.0, "2": 0.0, "3": 1.0}
    for found in row.parts.values():
        assert sum(n for _, n in found.values()) == row.count
        assert sum(score * n for score, n in found.values()) / row.count == pytest.approx(row.score)


def test_wrong_answers_miss_every_aim(world):
    told = []
    rows = score_table.evaluate(*MODEL, limit=2, noise=False, progress=told.append)
    assert [row.met for row in rows] == [False] * 3
    assert told == [" | ".join(row.cells()) for row in rows]
    assert not any(row.noise for row in rows)


def test_on_validation_the_lines_of_the_test_split_are_scored_and_the_voices_unseen_are_not(world):
    asked = []
    world.answers = staticmethod(lambda plans: asked.extend(plans) or [""] * len(plans))
    rows = score_table.evaluate(*MODEL, split="validation", limit=2, noise=False)
    assert [row.title for row in rows] == ["transcribe, voices seen", "picture, spoken question"]
    assert {plan["meta"]["split"] for plan in asked} == {"validation"}
