"""What is drawn, played and spoken is what the plan says, and always the same."""

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld import media, sounds, speech, splits, world
from omnijax.data.omniworld.language import TEMPLATES, sentence
from omnijax.data.omniworld.voices import ACCENTS, BY_NAME


def digest(index, split="train"):
    plan = omniworld.plan(index, split)
    data = [media.encode(media.render(item)) for item in plan["media"]]
    return hashlib.sha256(b"".join([json.dumps(plan).encode(), *data])).hexdigest()


def one_of_each_task():
    found = {}
    for index in range(60):
        found.setdefault(omniworld.task_of(index, "train"), index)
    return sorted(found.values())


def test_an_example_has_the_same_bytes_in_any_order_and_in_another_process():
    indices = one_of_each_task()
    forth = [digest(i) for i in indices]
    back = [digest(i) for i in reversed(indices)][::-1]
    script = f"from test_media import digest; print(*[digest(i) for i in {indices[::-1]}])"
    env = {"PYTHONPATH": ":".join([__file__.rsplit("/", 1)[0], *sys.path])}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert forth == back
    assert run.stdout.split()[::-1] == forth, run.stderr


def test_another_seed_is_another_world():
    assert omniworld.plan(3, "train", seed=0) != omniworld.plan(3, "train", seed=1)


@pytest.mark.parametrize("split", omniworld.SPLITS)
def test_a_medium_is_drawn_by_none_of_the_numbers_that_its_plan_was_drawn_by(split, monkeypatch):
    """Else what is drawn first of a picture, its background, would tell what is asked about it."""
    seeds, make = [], np.random.default_rng

    def noted(seed):
        seeds.append(seed)
        return make(seed)

    monkeypatch.setattr(np.random, "default_rng", noted)
    for index in range(100):
        seeds.clear()
        made = omniworld.plan(index, split)
        seeds += [item["seed"] for item in made["media"]]
        first = [tuple(make(seed).random(2)) for seed in seeds]
        assert len(first) > len(made["media"]) and len({*first}) == len(first)


@pytest.mark.parametrize("index", one_of_each_task())
def test_stored_bytes_give_back_what_was_rendered(index):
    for item in omniworld.plan(index)["media"]:
        made = media.render(item)
        read = media.decode(media.encode(made))
        for a, b in zip(_arrays(made), _arrays(read), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def _arrays(value):
    if isinstance(value, np.ndarray):
        return [value]
    if hasattr(value, "frames"):
        assert value.duration == pytest.approx(len(value.frames) / 8)
        return [value.frames, value.times, value.audio.samples]
    return [value.samples]


@pytest.mark.parametrize("shape", splits.SHAPES)
@pytest.mark.parametrize("colour", splits.COLOURS)
def test_a_thing_is_drawn_in_its_cell_and_colour(shape, colour):
    rng = np.random.default_rng(0)
    for row, column in itertools.product(range(3), range(3)):
        place = splits.PLACES[3 * row + column]
        image = world.picture([{"shape": shape, "colour": colour, "place": place}], rng)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        near = np.abs(image.astype(int) - world.RGB[colour]).max(-1) < 60
        y, x = np.argwhere(near).mean(0)
        assert (y // 32, x // 32) == (row, column)
        nearest = min(
            world.RGB,
            key=lambda name: np.abs(np.median(image[near], 0) - world.RGB[name]).sum(),
        )
        assert nearest == colour


def test_shapes_differ_by_more_than_their_size():
    """At equal radius, any two silhouettes differ in a fifth of the smaller one's pixels."""
    masks = {}
    for shape in splits.SHAPES:
        canvas = np.zeros((40, 40, 3))
        world._paint(canvas, shape, np.full(3, 255.0), 20, 20, 12, 1.0)
        masks[shape] = canvas[..., 0] > 127
    for a, b in itertools.combinations(masks.values(), 2):
        assert (a ^ b).sum() > 0.2 * min(a.sum(), b.sum())


def _track(motion, time=1.0, duration=3.0):
    thing, event = {"shape": "square", "colour": "red"}, {"motion": motion, "object": 0}
    rng = np.random.default_rng(3)
    frames, times = world.clip_frames([thing], [event | {"time": time}], duration, rng)
    assert frames.shape == (24, 64, 64, 3)
    red = np.abs(frames.astype(int) - world.RGB["red"]).max(-1) < 90
    rows = [np.argwhere(mask) for mask in red]
    centre = np.array([r.mean(0) for r in rows])
    width = np.array([np.ptp(r[:, 1]) + 1 for r in rows])
    return times, centre[:, 0], centre[:, 1], width, red.sum((1, 2))


@pytest.mark.parametrize("motion", splits.MOTIONS)
def test_nothing_moves_before_its_time_and_then_it_moves_as_named(motion):
    times, y, x, width, area = _track(motion)
    before, during, after = times <= 1.0, (times > 1.1) & (times < 1.4), times > 1.6
    for track in (y, x, width, area):
        assert np.ptp(track[before]) <= 1
    dy, dx = y[after].mean() - y[before].mean(), x[after].mean() - x[before].mean()
    growth = area[after].mean() / area[before].mean()
    expected = {
        "moves left": (0, -world.MOTION_SHIFT, 1), "moves right": (0, world.MOTION_SHIFT, 1),
        "moves up": (-world.MOTION_SHIFT, 0, 1), "moves down": (world.MOTION_SHIFT, 0, 1),
        "grows": (0, 0, 2.25), "shrinks": (0, 0, 0.3), "jumps": (0, 0, 1), "spins": (0, 0, 1),
    }[motion]  # fmt: skip
    np.testing.assert_allclose([dy, dx, growth], expected, atol=1.0, rtol=0.15)
    if motion == "jumps":
        assert y[during].min() < y[before].mean() - 10
    if motion == "spins":
        assert width[during].min() < 0.5 * width[before].mean()


@pytest.mark.parametrize("motion", ["jumps", "spins"])
@pytest.mark.parametrize("tenth", range(10, 15))
def test_a_motion_that_passes_is_seen_at_four_frames_a_second(motion, tenth):
    _, y, _, width, _ = _track(motion, time=tenth / 10)
    y, width = y[::2], width[::2]
    assert np.ptp(y) > 10 or width.min() < 0.5 * width.max()


def test_things_stay_inside_the_clip_and_apart():
    for index in range(600):
        plan = omniworld.plan(index)
        if plan["task"] != "caption":
            continue
        item = plan["media"][0]
        times = np.arange(round(item["duration"] * 8)) / 8
        rng = np.random.default_rng(index)
        paths = [world._path([e for e in item["motions"] if e["object"] == i], times)
                 for i in range(len(item["objects"]))]  # fmt: skip
        homes, radii = world._homes(paths, rng)
        spots = [h + p[:, :2] for h, p in zip(homes, paths, strict=True)]
        sizes = [r * p[:, 2] for r, p in zip(radii, paths, strict=True)]
        for spot, size in zip(spots, sizes, strict=True):
            assert (spot - size[:, None] > -1).all() and (spot + size[:, None] < 65).all()
        assert radii.min() > 5
        if len(spots) == 2:
            gap = np.linalg.norm(spots[0] - spots[1], axis=1) - sizes[0] - sizes[1]
            assert gap.min() > 0, plan["id"]


@pytest.mark.parametrize("name", splits.SOUNDS)
def test_a_sound_begins_at_its_time_and_ends_before_the_next_may_come(name):
    event = {"time": 1.0, "sound": name}
    track = sounds.sound_track([event], 3.0, np.random.default_rng(0))
    assert len(track) == 48_000
    loud = np.flatnonzero(np.abs(track) > 0.05) / 16_000
    assert 1.0 <= loud[0] < 1.05
    assert loud[-1] < 1.5
    assert np.abs(track).max() <= 1


def test_sounds_are_told_apart_by_a_simple_listener():
    """Nearest mean of coarse log spectra over time, from other renderings: all right."""

    def features(name, rng):
        wave = sounds.event_sound(name, rng).reshape(4, -1)
        power = np.abs(np.fft.rfft(wave)) ** 2
        edges = np.geomspace(1, power.shape[1], 25).astype(int)
        bands = [power[:, a : max(a + 1, b)].mean(1) for a, b in itertools.pairwise(edges)]
        return np.log(np.array(bands) + 1e-3).ravel()

    rng = np.random.default_rng(0)
    means = {name: np.mean([features(name, rng) for _ in range(5)], 0) for name in splits.SOUNDS}
    for name in splits.SOUNDS:
        for _ in range(5):
            heard = features(name, rng)
            assert name == min(means, key=lambda other: np.abs(heard - means[other]).sum())


@pytest.mark.parametrize("voice", list(BY_NAME))
@pytest.mark.parametrize("language", list(TEMPLATES))
def test_every_voice_speaks_every_language_for_one_to_three_and_a_half_seconds(voice, language):
    slots = {"shape": "triangle", "colour": "yellow", "place": "bottom right", "name": "felix"}
    slots |= {"sound": "whistle", "motion": "moves right", "number": "seven", "sound2": "splash"}
    slots |= {"shape2": "triangle", "colour2": "purple"}
    for template in (0, 3):
        text = sentence(language, template, slots)
        for accent in ACCENTS[language]:
            samples = speech.speak(text, voice, accent, np.random.default_rng(0))
            assert 16_000 <= len(samples) <= 3.6 * 16_000
            assert 0.3 < np.abs(samples).max() <= 1


def test_voices_sound_different_and_words_do_too():
    heard = {}
    for voice in BY_NAME:
        for text in ("the red star", "the blue ring"):
            heard[voice, text] = speech.speak(text, voice, "en-us", np.random.default_rng(0))
    for a, b in itertools.combinations(heard.values(), 2):
        assert len(a) != len(b) or not np.array_equal(a, b)


def test_a_long_path_to_the_speech_data_works(monkeypatch, tmp_path):
    import espeakng_loader

    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    wave, _ = speech.synthesise("red", "en", 150, 50)
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: deep / "espeak-ng-data")
    again, rate = speech.synthesise("red", "en", 150, 50)
    assert rate == 22_050
    np.testing.assert_array_equal(wave, again)
