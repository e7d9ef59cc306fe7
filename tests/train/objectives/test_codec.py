"""The codec's objective: losses apart, each side its own gradients, codebooks moved by `after`."""

import dataclasses
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.data.crops import CodecBatch
from omnijax.errors import UserError
from omnijax.models.codec import Codec, EnvelopeConfig, HarmonicsConfig, PeriodicityConfig
from omnijax.models.codec.discriminators import DiscriminatorConfig, Discriminators
from omnijax.models.codec.losses import MelLossConfig
from omnijax.sharding import flatten
from omnijax.train.objectives.codec import (
    DECODER,
    ENCODER,
    GENERATOR,
    JUDGES,
    PITCH,
    CodecLossConfig,
    codec_objective,
    faded,
    reconstruct,
    valid_frames,
)
from omnijax.train.stages import OptimizerConfig
from omnijax.train.state import init_state, make_train_step, optimizer_of, split_params

sys.path.insert(0, str(Path(__file__).parents[2] / "models" / "codec"))
import tiny_codec as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")

ROWS, FRAMES, FRAME = 2, 16, 24


def small():
    """One rate on each side: what is compiled here is the whole of a training step."""
    config = tiny.config()
    one = dataclasses.replace(config.encoder.transformer, layers=1)
    encoder = dataclasses.replace(config.encoder, strides=(12,), transformer=one)
    one = dataclasses.replace(config.code2wav.transformer, layers=1)
    code2wav = dataclasses.replace(
        config.code2wav, upsample=(2,), rates=(12,), channels=8, transformer=one
    )
    return Codec(dataclasses.replace(config, encoder=encoder, code2wav=code2wav))


CODEC = small()
JUDGE = DiscriminatorConfig(
    periods=(2,), period_channels=(2, 3), windows=(32,), spectrum_channels=(2,), time_stride=2
)
# Least squares: within its margins the hinge's gradient of a score's bias is exactly zero.
LOSS = CodecLossConfig(
    kind="least_squares",
    pitch=2.0,
    periodicity=3.0,
    mel_scales=MelLossConfig(windows=(64, 128), bins=(8, 12)),
    periods=PeriodicityConfig(steps=2, lags=4, window=64, pool=2, lowest=800, highest=3000),
)
OF_SOUND = {"mel", "commitment", "pitch", "periodicity"}
NAMES = OF_SOUND | {"distillation", "adversarial", "features"}


class Teacher(nn.Module):
    """A speech encoder: (features, which are valid)."""

    @nn.compact
    def __call__(self, features):
        return nn.Dense(5)(features), jnp.ones(features.shape[:2], bool)


@pytest.fixture(scope="module")
def batch():
    t = np.arange(FRAMES * FRAME) / 24_000
    tones = [0.3 * np.sin(2 * np.pi * hertz * t) for hertz in (900, 2500)]
    heard = (jax.random.normal(jax.random.key(5), (ROWS, 4, 5)),)
    lengths = jnp.array([FRAMES * FRAME, 10 * FRAME - 3], jnp.int32)
    samples = jnp.asarray(np.stack(tones), jnp.float32)
    return CodecBatch(samples * (jnp.arange(FRAMES * FRAME) < lengths[:, None]), lengths, heard)


@pytest.fixture(scope="module")
def objective(batch):
    judges = Discriminators(JUDGE)
    return codec_objective(CODEC, batch, LOSS, judges=judges, teacher=Teacher())


@pytest.fixture(scope="module")
def params(objective):
    return jax.jit(objective.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def looked(objective, params, batch):
    """(losses, quantised, gradients of the generator's total, gradients of the judges' loss)."""

    @jax.jit
    def run(params):
        def sides(params):
            losses = objective.loss(params, batch, jax.random.key(2))
            metrics = losses.metrics
            return (metrics["generator"], metrics["discriminator"]), losses

        _, pull, losses = jax.vjp(sides, params, has_aux=True)
        one, none = jnp.ones(()), jnp.zeros(())
        by_generator, by_judges = pull((one, none))[0], pull((none, one))[0]
        return losses, losses.carry, by_generator, by_judges

    return run(params)


def test_each_loss_is_reported_apart_and_their_weighted_sum_is_the_generators(looked):
    losses = looked[0]
    metrics = {name: float(value) / ROWS for name, value in losses.metrics.items()}
    assert metrics.keys() >= NAMES | {"generator", "discriminator", "codebook_use"}
    expected = sum(getattr(LOSS, name) * metrics[name] for name in NAMES)
    assert metrics["generator"] == pytest.approx(expected, rel=1e-5)
    total = metrics["generator"] + metrics["discriminator"]
    assert float(losses.total) / ROWS == pytest.approx(total, rel=1e-5)
    assert float(losses.weight) == ROWS


def test_neither_side_gets_a_gradient_of_the_others_loss(looked):
    by_generator, by_judges = map(flatten, looked[2:])
    for path in by_generator:
        judge = path.startswith("judges/")
        assert np.any(by_generator[path]) == (not judge and not constant(path)), path
        assert np.any(by_judges[path]) == judge, path


def constant(path):
    return path.startswith(("codebook_usage", "audio/")) or path.endswith("/codebooks")


def test_every_parameter_that_the_stage_trains_gets_a_gradient_and_the_codebooks_none(looked):
    grads = jax.tree.map(jnp.add, *looked[2:])  # the stage's loss is the sum of both
    trained, frozen = split_params(grads, (*GENERATOR, PITCH, *JUDGES))
    silent = [path for path, grad in flatten(trained).items() if not np.any(grad)]
    assert not silent
    assert {path for path in flatten(frozen)} == {
        "codec/quantiser/codebooks",
        "codebook_usage",
        "audio/Dense_0/kernel",
        "audio/Dense_0/bias",
    }


def test_frames_past_a_clips_length_move_no_code(looked, batch):
    used = np.asarray(looked[1].used)
    valid = np.asarray(valid_frames(batch.lengths, FRAMES, FRAME))
    assert valid.sum(1).tolist() == [16, 10]
    assert not used[:, ~valid].any()
    np.testing.assert_array_equal(used[0], valid)  # the semantic codebook is never dropped


@pytest.mark.slow
def test_steps_lower_the_mel_loss_and_the_codebooks_follow_their_inputs(objective, params, batch):
    config = OptimizerConfig(learning_rate=3e-3, warmup_steps=1, clip=1.0, weight_decay=0.0)
    optimizer = optimizer_of(objective, config, 45)
    trains = (*GENERATOR, PITCH, *JUDGES)
    first = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    state = init_state(jax.tree.map(jnp.copy, params), trains, optimizer, seed=0)
    step = make_train_step(objective, trains, optimizer, config, steps=45)
    seen = []
    for _ in range(45):
        state, metrics = step(state, batch)
        seen.append({name: float(value) for name, value in metrics.items()})
    assert all(np.isfinite(list(m.values())).all() for m in seen)
    assert seen[-1]["mel"] < 0.7 * seen[0]["mel"]
    now = flatten(state.params)
    still = [path for path, leaf in now.items() if np.array_equal(leaf, first[path])]
    assert all(path.startswith("audio/") for path in still) and int(state.step) == 45
    assert np.all(now["codebook_usage"] > 0)


def test_without_judges_and_teacher_the_losses_of_sound_remain(batch):
    objective = codec_objective(CODEC, batch, LOSS)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    assert objective.optimizer is None
    losses = jax.eval_shape(lambda p: objective.loss(p, batch, None), params)
    assert set(params) == {"codec", "codebook_usage", "pitch"}
    assert losses.metrics.keys() & NAMES == OF_SOUND


def test_a_voices_colour_is_asked_of_the_codes_and_of_what_is_decoded(batch):
    only = dict.fromkeys(("mel", "commitment", "pitch", "periodicity"), 0.0)
    steps = {"envelopes": EnvelopeConfig(steps=2, bins=4)}
    colour = dataclasses.replace(LOSS, timbre=2.0, **only, **steps)

    def asked(loss, moves=(), **parts):
        """The loss's timbre; all parameters that match `moves` get a gradient of it."""
        objective = codec_objective(CODEC, batch, loss, **parts)
        params = jax.jit(objective.init)(jax.random.key(0))
        of = lambda p: objective.loss(p, batch, None).metrics["timbre"] / ROWS  # noqa: E731
        if not moves:
            return float(jax.jit(of)(params))
        timbre, grads = jax.jit(jax.value_and_grad(of))(params)
        trained, _ = split_params(grads, moves)
        assert not [path for path, leaf in flatten(trained).items() if not np.any(leaf)]
        return float(timbre)

    told = dataclasses.replace(colour, envelope=1.0)
    decoded = asked(colour, DECODER, encoded=False)
    codes = asked(told, ENCODER, decoded=False)
    assert min(decoded, codes) > 0.01
    assert asked(told) == pytest.approx(decoded + codes, rel=1e-4)


def test_code2wav_alone_trains_on_codes_that_stay(batch):
    loss = dataclasses.replace(LOSS, pitch=0.0)
    objective = codec_objective(CODEC, batch, loss, encoded=False)
    assert objective.after is None
    params = objective.init(jax.random.key(0))
    # No draw: neither codebooks nor clips are left out, whatever the key.
    grads = [
        jax.jit(jax.grad(lambda p, k=key: objective.loss(p, batch, k).total))(params)
        for key in (None, jax.random.key(1))
    ]
    jax.tree.map(np.testing.assert_array_equal, *grads)
    trained, _ = split_params(grads[0], DECODER)
    assert all(np.any(leaf) for leaf in flatten(trained).values())
    for head in ("envelope", "pitch"):
        with pytest.raises(UserError, match="Code2Wav alone has nothing to learn from"):
            codec_objective(CODEC, batch, dataclasses.replace(loss, **{head: 1.0}), encoded=False)
    with pytest.raises(UserError, match="CodecLossConfig.periodicity is 3.0"):
        codec_objective(CODEC, batch, dataclasses.replace(LOSS, envelope=1.0), decoded=False)


def test_code2wav_alone_trains_among_judges_on_codes_that_stay(batch):
    loss = dataclasses.replace(LOSS, pitch=0.0)
    objective = codec_objective(CODEC, batch, loss, judges=Discriminators(JUDGE), encoded=False)
    assert objective.after is None
    params = objective.init(jax.random.key(0))
    grads = jax.jit(jax.grad(lambda p: objective.loss(p, batch, None).total))(params)
    trained, _ = split_params(grads, (*DECODER, *JUDGES))
    assert {path.split("/")[0] for path in flatten(trained)} == {"codec", "judges"}
    assert not [path for path, leaf in flatten(trained).items() if not np.any(leaf)]


@pytest.fixture(scope="module")
def voiced(batch):
    """Of Code2Wav alone, with a source for the batch's tones of 900 and 2,500 Hz."""
    harmonics = HarmonicsConfig(count=2, bands=3, lowest=800, highest=3000, top=6000)
    code2wav = dataclasses.replace(CODEC.config.code2wav, harmonics=harmonics)
    codec = Codec(dataclasses.replace(CODEC.config, code2wav=code2wav))

    loss = dataclasses.replace(LOSS, pitch=0.0)
    return codec_objective(codec, batch, loss, encoded=False)


def with_pitch(params, bias):
    code2wav = params["codec"]["code2wav"]
    pitch = code2wav["source"]["pitch"] | {"bias": jnp.full((1,), bias)}
    code2wav = code2wav | {"source": code2wav["source"] | {"pitch": pitch}}
    return params | {"codec": params["codec"] | {"code2wav": code2wav}}


def test_a_voice_comes_and_goes_within_a_step():
    mask = faded(jnp.array([[False, True, True, False]]), 8)
    np.testing.assert_allclose(mask[0], [0, 0, 0.5, 1, 1, 1, 0.5, 0])


def test_every_parameter_of_a_source_gets_a_gradient(batch, voiced):
    params = voiced.init(jax.random.key(0))
    grads = jax.jit(jax.grad(lambda p: voiced.loss(p, batch, None).total))(params)
    trained, _ = split_params(grads, DECODER)
    assert not [path for path, leaf in flatten(trained).items() if not np.any(leaf)]


def test_a_source_sounds_at_the_true_pitch_whatever_it_says_and_is_told_how_far_off(
    batch, voiced, monkeypatch
):
    params = voiced.init(jax.random.key(0))

    def measured(params):
        return {k: float(v) for k, v in voiced.loss(params, batch, None).metrics.items()}

    near, far = measured(params), measured(with_pitch(params, 9.0))
    assert far["contour"] > near["contour"] + 5 * ROWS  # octaves
    assert far["voice"] == pytest.approx(near["voice"], rel=0.02)
    # Left to itself it is out of tune.
    left = lambda codec, *rest: reconstruct(codec, *rest[:-1], None)  # noqa: E731
    monkeypatch.setattr("omnijax.train.objectives.codec.reconstruct", left)
    assert measured(with_pitch(params, 9.0))["voice"] > 1.2 * near["voice"]


def test_a_codec_that_cannot_train_and_a_negative_weight_are_refused(batch):
    with pytest.raises(UserError, match="its lookup 'table'"):
        codec_objective(Codec(tiny.config(lookup="table")), batch)
    with pytest.raises(UserError, match="mel is -1, it must not be negative"):
        CodecLossConfig(mel=-1)
