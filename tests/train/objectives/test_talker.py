"""The Talker's objective: each kind of loss is the mean over its own targets, and adds up."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models.talker import Talker, aria, presets
from omnijax.models.talker.dual_track import shown_dual_track_row
from omnijax.models.talker.prompt import Marks, Voice, answer_row, collate_talker, spoken_text
from omnijax.train.objectives.talker import choose_frames, talker_objective

pytestmark = pytest.mark.usefixtures("quick_compile")

TINY = presets.tiny()
CONFIG = dataclasses.replace(  # one layer each, quick to compile
    TINY,
    decoder=dataclasses.replace(TINY.decoder, layers=1, pattern=("full",)),
    mtp=dataclasses.replace(TINY.mtp, layers=1),
)
MODEL = Talker(CONFIG)
MARKS = Marks((1, 2, 3), (1, 4, 3), (5, 3))
ROUTER = {"router_balance": 0.5, "router_z": 0.25}


@functools.cache
def batch(asks=True):
    rng = np.random.default_rng(0)
    rows = []
    for text, frames in ((3, 6), (2, 9)):
        codes = rng.integers(0, 16, (frames, 4))
        text = spoken_text(CONFIG, rng.integers(6, 60, text))
        schedule = aria.random(rng, len(text), frames)
        rows.append([answer_row(CONFIG, MARKS, text, codes, schedule, asks=asks)])
    return jax.tree.map(jnp.asarray, collate_talker(CONFIG, rows, max_tokens=24))


@functools.cache
def losses():
    """(parameters, all losses, with three frames of a row for the MTP, hidden states)"""
    full = talker_objective(MODEL, batch(), residual_weight=0.7, asks=True, **ROUTER)
    few = talker_objective(MODEL, batch(), residual_weight=0.7, mtp_frames=3, **ROUTER)

    @jax.jit
    def value(key):
        params = full.init(jax.random.key(1))
        hidden = MODEL.apply({"params": params}, batch().inputs).hidden
        return params, full.loss(params, batch(), None), few.loss(params, batch(), key), hidden

    return value(jax.random.key(2))


def mean_loss(logits, targets):
    return -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(len(targets)), targets])


def test_each_kind_is_the_mean_over_its_own_targets():
    params, found, _, hidden = losses()
    logits = MODEL.apply({"params": params}, hidden, method=Talker.logits)
    means = {name: float(value / found.weight) for name, value in found.metrics.items()}
    kinds = {"semantic": (aria.FRAME, 15), "end": (aria.END, 2), "request": (aria.ASK, 7)}
    for name, (kind, count) in kinds.items():
        at = np.asarray(batch().kinds == kind)
        assert at.sum() == count
        expected = mean_loss(logits[at], np.asarray(batch().targets)[at][:, 0])
        assert means[name] == pytest.approx(expected, rel=1e-5)
    at = np.asarray(batch().kinds == aria.FRAME)
    codes = batch().targets[at]
    residual = MODEL.apply({"params": params}, hidden[at], codes, method=Talker.residual_logits)
    each = [mean_loss(residual[:, i], np.asarray(codes[:, i + 1])) for i in range(3)]
    assert [means[f"residual_{i + 1}"] for i in range(3)] == pytest.approx(each, rel=1e-5)
    assert means["residual"] == pytest.approx(np.mean(each), rel=1e-5)
    assert means["codec_chance"] == pytest.approx(math.log(32))
    assert means["residual_chance"] == pytest.approx(math.log(16))


def test_the_loss_is_the_sum_of_what_is_reported():
    _, found, _, _ = losses()
    means = {name: float(value / found.weight) for name, value in found.metrics.items()}
    assert float(found.weight) == 24
    expected = 15 * means["semantic"] + 2 * means["end"] + 7 * means["request"]
    expected += 0.7 * 15 * means["residual"]
    expected += 24 * (0.5 * means["router_balance"] + 0.25 * means["router_z"])
    assert float(found.total) == pytest.approx(expected, rel=1e-5)


def test_a_talker_that_asks_for_nothing_reports_no_requests():
    _, full, few, _ = losses()
    assert set(full.metrics) - set(few.metrics) == {"request"}
    assert not (batch(asks=False).kinds == aria.ASK).any()


def test_some_frames_for_the_mtp_change_its_loss_and_no_other():
    _, full, few, _ = losses()
    for name in ("semantic", "end", "router_z"):
        assert float(few.metrics[name]) == pytest.approx(float(full.metrics[name]), rel=1e-5)
    assert abs(float(few.metrics["residual"] - full.metrics["residual"])) > 1e-3


def test_frame_noise_is_of_training_alone():
    params, _, few, _ = losses()
    noisy = talker_objective(MODEL, batch(), residual_weight=0.7, frame_noise=0.9, **ROUTER)
    value = jax.jit(noisy.loss)
    plain, noised = (value(params, batch(), key) for key in (None, jax.random.key(2)))
    assert float(plain.metrics["semantic"]) == pytest.approx(float(few.metrics["semantic"]))
    assert abs(float(noised.metrics["semantic"] - plain.metrics["semantic"])) > 1e-3
    assert float(noised.weight) == float(plain.weight)


class Listening:
    """A Talker of whom it is known what it read."""

    config = CONFIG

    def apply(self, variables, *inputs, method=None):
        if method is None:
            self.read = inputs[0]
            width = self.read.tokens.shape
            return SimpleNamespace(hidden=jnp.zeros((*width, 4)), aux=SimpleNamespace(balance=None))
        outputs = {"logits": (CONFIG.codec_vocab_size,), "residual_logits": (3, 16)}[method]
        return jnp.zeros((*inputs[0].shape[:-1], *outputs))


@pytest.mark.parametrize("form", ["aria", "dual_track"])
def test_frame_noise_is_of_frames_that_were_said_and_of_nothing_else(form):
    rng = np.random.default_rng(0)
    documents = []
    for text, frames in ((9, 14), (7, 12), (8, 10)):
        codes, shown = rng.integers(0, 16, (frames, 4)), Voice((), rng.integers(0, 16, (5, 4)))
        text = rng.integers(6, 60, text)
        if form == "dual_track":
            row = shown_dual_track_row(CONFIG, MARKS, text, codes, voice=shown)
        else:
            text = spoken_text(CONFIG, text)
            schedule = aria.random(rng, len(text), frames)
            row = answer_row(CONFIG, MARKS, text, codes, schedule, voice=shown, asks=True)
        documents.append(row)
    packed = jax.tree.map(jnp.asarray, collate_talker(CONFIG, [documents], max_tokens=160))
    model = Listening()
    noisy = talker_objective(model, packed, frame_noise=0.5, asks=form == "aria")
    noisy.loss({}, packed, jax.random.key(0))
    changed = np.asarray(model.read.codes != packed.inputs.codes).any(-1)
    said = np.pad(np.asarray(packed.kinds == aria.FRAME), ((0, 0), (1, 0)))[:, :-1]
    assert said.sum() == 36 and not changed[~said].any()
    assert 0.3 < changed[said].mean() < 0.7
    for name in ("tokens", "media", "positions", "segment_ids"):
        np.testing.assert_array_equal(getattr(model.read, name), getattr(packed.inputs, name))


def test_chosen_frames_are_frames_each_once_and_every_one_in_time():
    rng = np.random.default_rng(3)
    frames = jnp.asarray(rng.random((3, 12)) < [[0.6], [0.2], [0.0]])
    met = np.zeros((3, 12), int)
    draw = jax.jit(choose_frames, static_argnums=1)
    for seed in range(60):
        places, valid = map(np.asarray, draw(frames, 4, jax.random.key(seed)))
        for row in range(3):
            own = places[row, valid[row]]
            assert len(set(own)) == len(own) == min(4, int(frames[row].sum()))
            assert np.asarray(frames)[row, own].all()
            met[row, own] += 1
    assert ((met > 0) == np.asarray(frames)).all()
    places, valid = choose_frames(frames, 4, None)
    assert places.shape == (3, 12) and (valid == frames).all()
