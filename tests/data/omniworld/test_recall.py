"""What practises looking up can be looked up, and in no other way be known."""

from collections import Counter, defaultdict

import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld.pictures import KINDS, told
from omnijax.data.omniworld.tasks import PRACTICE
from omnijax.errors import UserError

SEEN = 400


def turns(plan):
    """(question, answer) of each turn, in words."""

    def words(message):
        content = message["content"]
        return content if isinstance(content, str) else content[-1]["text"]

    texts = [words(message) for message in plan["messages"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def lists(task):
    """The pairs of each list of words, and its turns."""
    for i in range(SEEN):
        plan = omniworld.plan(i, task)
        yield dict(tuple(thing.values()) for thing in plan["meta"]["objects"]), turns(plan)


@pytest.mark.parametrize("task", ["recall_again", "recall_asked"])
def test_no_word_stands_twice_in_a_list_and_its_partner_differs_from_list_to_list(task):
    partners = defaultdict(set)
    for pairs, ((question, _), *_) in lists(task):
        assert len({*pairs, *pairs.values()}) == 2 * len(pairs)
        assert all(a in question and b in question for a, b in pairs.items())
        for a, b in pairs.items():
            partners[a].add(b)
    assert len(partners) == 31 and min(map(len, partners.values())) > 8


def test_pairs_are_told_again_whole_and_in_other_orders():
    changed = 0
    for pairs, ((question, answer),) in lists("recall_again"):
        assert question == "again: " + " ".join(f"{a} {b}" for a, b in pairs.items())
        said = answer.split()
        assert [pairs[word] for word in said[::2]] == said[1::2]
        assert {*said[::2]} == {*pairs} and len(said) >= 48
        changed += list(pairs) != said[: 2 * len(pairs) : 2]
    assert changed > 0.9 * SEEN


def test_pairs_are_asked_for_one_by_one():
    for pairs, ((question, answer), *others) in lists("recall_asked"):
        *listed, word = question.split()
        assert listed == " ".join(f"{a} {b}" for a, b in pairs.items()).split()
        every = [(word, answer), *others]
        assert all(pairs[word.removesuffix("?")] == answer for word, answer in every)
        assert {word.removesuffix("?") for word, _ in every} == {*pairs} and len(every) >= 12


def test_a_scene_is_told_and_answers_every_question():
    sizes, kinds = Counter(), Counter()
    for i in range(SEEN):
        plan = omniworld.plan(i, "recall_scenes")
        objects = plan["meta"]["objects"]
        sizes[len(objects)] += 1
        (first, answer), *others = turns(plan)
        assert first.startswith(told(objects) + " ") and not plan["media"]
        for question, said in ((first.removeprefix(told(objects) + " "), answer), *others):
            (thing,) = [o for o in objects if {*o.values()} & names(question)]
            assert said in {*thing.values(), f"{thing['colour']} {thing['shape']}", "one"}
            assert said not in names(question)
        kinds.update(w["group"] for w in plan["meta"]["more_wordings"])
    assert min(sizes[n] for n in (2, 3, 4, 5)) > SEEN / 6
    assert set(kinds) == set(KINDS) and min(kinds.values()) > SEEN


def names(question):
    """Shapes and colours in a question, and its place: "left" is not what "top left" names."""
    words = question.rstrip("?.").replace("crosses", "cross").split()
    place = question.rstrip("?.").rpartition("at the ")[2].removesuffix(" there is what")
    return (
        {place} if "at the" in question else {*words} | {word.removesuffix("s") for word in words}
    )


@pytest.mark.parametrize("task", PRACTICE)
def test_practice_makes_no_test(task):
    assert omniworld.live("train", tasks=(task,))[3]["task"] == task
    with pytest.raises(UserError, match=f"{task} is a source of its own, for training"):
        omniworld.live("test", tasks=(task,))
