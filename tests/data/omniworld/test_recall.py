"""What practises looking up can be looked up; of scenes, it can be known from nothing else."""

import functools
from collections import Counter

import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld.language import NUMBERS
from omnijax.data.omniworld.pictures import KINDS, told
from omnijax.data.omniworld.splits import MOTIONS, SOUNDS
from omnijax.data.omniworld.tasks import PRACTICE
from omnijax.errors import UserError

SEEN = 200
SCENES = ("recall_scenes", "recall_pictures")
BRIEFLY = "{colour} {shape} {place}."


@functools.cache
def plans(task):
    return [omniworld.plan(i, task) for i in range(SEEN)]


def turns(plan):
    """(question, answer) of each turn, in words."""

    def words(message):
        content = message["content"]
        return content if isinstance(content, str) else content[-1].get("text")

    texts = [words(message) for message in plan["messages"]]
    texts[0] = plan["meta"].get("transcript", texts[0])
    return list(zip(texts[::2], texts[1::2], strict=True))


def scenes(task):
    """The objects of each scene, its media, and its turns without what tells the scene."""
    for plan in plans(task):
        objects, ((first, answer), *others) = plan["meta"]["objects"], turns(plan)
        if task == "recall_scenes":
            brief = " ".join(BRIEFLY.format(**thing) for thing in objects)
            facts = next(facts for facts in (told(objects), brief) if first.startswith(facts))
            first = first.removeprefix(facts + " ")
        yield objects, plan["media"], [(first, answer), *others]


def names(question):
    """Shapes and colours in a question, or its place: "left" is not what "top left" names."""
    words = question.rstrip("?.").replace("crosses", "cross").split()
    place = question.rstrip("?.").rpartition("at the ")[2].removesuffix(" there is what")
    return (
        {place} if "at the" in question else {*words} | {word.removesuffix("s") for word in words}
    )


@pytest.mark.parametrize("task", SCENES)
def test_the_objects_that_a_question_names_answer_it_alone(task):
    for objects, media, asked in scenes(task):
        assert len(asked) == 12
        shown = [item["objects"] for item in media if item["kind"] == "picture"]
        assert shown == ([] if task == "recall_scenes" else [objects])
        for question, said in asked:
            named = [thing for thing in objects if {*thing.values()} & names(question)]
            if said in NUMBERS:
                assert said == NUMBERS[len(named) - 1], question
            else:
                (thing,) = named
                assert said in {*thing.values(), f"{thing['colour']} {thing['shape']}"}
                assert said not in names(question)


@pytest.mark.parametrize("task", SCENES)
def test_scenes_are_of_all_sizes_and_every_kind_of_question(task):
    sizes, counts, kinds = Counter(), Counter(), Counter()
    for plan in plans(task):
        sizes[len(plan["meta"]["objects"])] += 1
        kinds.update(w["group"] for w in plan["meta"]["more_wordings"])
        shapes = {thing["shape"] for thing in plan["meta"]["objects"]}
        counted = any(w["group"] == "how_many" for w in plan["meta"]["more_wordings"])
        assert not counted or len(shapes) <= 2
        counts.update(said for _, said in turns(plan) if said in NUMBERS)
    assert min(sizes[n] for n in (2, 3, 4, 5)) > SEEN / 6
    assert set(kinds) == set(KINDS) and min(kinds.values()) > SEEN
    common = min(counts[number] for number in ("one", "two", "three"))
    assert common > 0.15 * sum(counts.values())


def test_half_of_the_scenes_are_told_briefly_and_half_of_the_pictures_asked_about_by_voice():
    briefly = sum(not turns(plan)[0][0].startswith("there is") for plan in plans("recall_scenes"))
    assert 0.4 < briefly / SEEN < 0.6
    for plan in plans("recall_pictures"):
        kinds = [item["type"] for item in plan["messages"][0]["content"]]
        said = [item["text"] for item in plan["media"] if item["kind"] == "speech"]
        assert kinds == ["image", "audio"] if said else ["image", "text"]
        assert said == [plan["meta"][name] for name in ("transcript",) if name in plan["meta"]]
    by_voice = sum(len(plan["media"]) == 2 for plan in plans("recall_pictures"))
    assert 0.4 < by_voice / SEEN < 0.6


def test_every_sound_is_asked_for_once_and_its_time_is_the_answer():
    for plan in plans("recall_sounds"):
        events = plan["meta"]["events"]
        (track,) = plan["media"]
        assert track["kind"] == "sounds" and track["sounds"] == events
        assert plan["messages"][0]["content"][0] == {"type": "audio", "audio": 0}
        times = {event["sound"]: f"{event['time']:.1f} seconds" for event in events}
        asked = []
        for question, said in turns(plan):
            (sound,) = times.keys() & {*question.rstrip("?.").split()}
            assert said == times[sound], question
            asked.append(sound)
        assert sorted(asked) == sorted(times)


@pytest.mark.parametrize("task, most", [("recall_sounds", 4), ("recall_clips", 5)])
def test_two_to_four_sounds_and_two_to_five_events_of_every_motion(task, most):
    sizes, seen = Counter(), Counter()
    for plan in plans(task):
        events = plan["meta"]["events"]
        sizes[len(events)] += 1
        seen.update(e[part] for e in events for part in ("sound", "motion") if part in e)
    assert set(sizes) == {*range(2, most + 1)} and min(sizes.values()) > SEEN / 6
    assert min(seen[sound] for sound in SOUNDS) > SEEN / 4
    if task == "recall_clips":
        assert min(seen[motion] for motion in MOTIONS) > SEEN / 4


def test_the_caption_of_a_practice_clip_has_a_line_for_every_event():
    for plan in plans("recall_clips"):
        meta, (clip,) = plan["meta"], plan["media"]
        assert clip["motions"] == clip["sounds"] == meta["events"]
        ((_, caption),) = turns(plan)
        for line, event in zip(caption.split("\n"), meta["events"], strict=True):
            thing = meta["objects"][event["object"]]
            assert line == (
                f"<{event['time']:.1f} seconds> the {thing['colour']} {thing['shape']} "
                f"{event['motion']} with a {event['sound']}"
            )


@pytest.mark.parametrize("task", PRACTICE)
def test_practice_makes_no_test(task):
    assert omniworld.live("train", tasks=(task,))[3]["task"] == task
    with pytest.raises(UserError, match=f"{task} is a source of its own, for training"):
        omniworld.live("test", tasks=(task,))
