"""The codec's losses and judges: what each measures, and that it can tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.models.codec import EnvelopeConfig, PeriodicityConfig
from omnijax.models.codec.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    Judgement,
    PeriodJudge,
    spectrogram,
)
from omnijax.models.codec.losses import (
    MelLossConfig,
    adversarial_loss,
    discriminator_loss,
    distillation_loss,
    feature_loss,
    mel_loss,
    periodicity_loss,
    pitch_loss,
    pitch_of,
    timbre_loss,
)
from omnijax.models.codec.spectrum import envelope, periodicity

pytestmark = pytest.mark.usefixtures("quick_compile")

MEL = MelLossConfig(windows=(64, 128), bins=(8, 12))
JUDGES = DiscriminatorConfig(
    periods=(2, 3), period_channels=(2, 3), windows=(32,), spectrum_channels=(2, 3), time_stride=2
)


@pytest.fixture(scope="module")
def samples():
    return 0.1 * jax.random.normal(jax.random.key(0), (2, 400))


def test_the_mel_loss_is_zero_for_equal_sound_and_ten_decibels_are_one(samples):
    run = jax.jit(lambda a, b: mel_loss(a, b, MEL))
    assert float(run(samples, samples)) < 1e-6  # the two sides are rounded apart when compiled
    # Power times ten is one in log10, at every bin of every scale.
    np.testing.assert_allclose(run(samples * 10**0.5, samples), 1.0, rtol=1e-4)


def test_the_mel_loss_hears_pitch_but_hardly_phase():
    t = np.arange(2400) / 24_000
    tone = lambda hertz, phase: jnp.asarray(  # noqa: E731
        0.3 * np.sin(2 * np.pi * hertz * t + phase), jnp.float32
    )[None]
    scales = MelLossConfig(windows=(512,), bins=(40,))
    run = jax.jit(lambda a, b: mel_loss(a, b, scales))
    shifted = float(run(tone(1000, 1.0), tone(1000, 0.0)))
    higher = float(run(tone(2000, 0.0), tone(1000, 0.0)))
    assert higher > 5 * shifted


def test_the_mel_loss_has_a_finite_gradient_at_silence():
    silence = jnp.zeros((1, 400))
    grad = jax.jit(jax.grad(lambda x: mel_loss(x, 0.1 + silence, MEL)))(silence)
    assert np.isfinite(grad).all()


def test_a_clip_shorter_than_the_largest_window_is_refused():
    with pytest.raises(ValueError, match="100 samples are fewer than the largest window of 128"):
        mel_loss(jnp.zeros((1, 100)), jnp.zeros((1, 100)), MEL)


# A clip of 6 frames of two steps of three bins: quiet, loud, loud, …
STEPS = EnvelopeConfig(steps=2, bins=3)
LOUD = np.arange(12) % 3 > 0
TRUE = np.where(LOUD, -1.0, -5.0)[None, :, None] + np.array([0.3, 0.0, -0.3])


def timbre_apart(said, true=TRUE):
    frames = [jnp.asarray(x, jnp.float32).reshape(1, 6, 6) for x in (said, true)]
    return float(timbre_loss(*frames, STEPS))


def test_the_timbre_loss_is_of_the_mean_spectrum_alone_and_of_what_is_loud():
    assert timbre_apart(TRUE) == 0
    # A colour that lasts: off by 0.5 and -0.2 in two bins of three.
    assert timbre_apart(TRUE + [0.5, 0.0, -0.2]) == pytest.approx(0.7 / 3, rel=1e-5)
    # As far off in every step, but now above and now below.
    about = np.where(np.cumsum(LOUD) % 2, 0.5, -0.5)[None, :, None]
    assert timbre_apart(TRUE + about) == pytest.approx(0, abs=1e-6)
    # Silence has no colour.
    assert timbre_apart(TRUE + np.where(LOUD, 0.0, 2.0)[None, :, None]) == pytest.approx(0)


def test_an_envelope_has_whole_steps_in_a_frame():
    with pytest.raises(UserError, match="EnvelopeConfig.steps is 7: a frame of 1920 samples"):
        envelope(jnp.zeros((1, 3840)), 1920, EnvelopeConfig(steps=7))


@pytest.mark.parametrize("frames", [10, 12, 20])
def test_the_timbre_loss_of_silence_is_nothing(frames):
    config = EnvelopeConfig()
    silence = jnp.zeros((1, frames * FRAME))
    true = envelope(silence, FRAME, config)
    run = jax.value_and_grad(lambda x: timbre_loss(envelope(x, FRAME, config), true, config))
    value, grad = jax.jit(run)(silence)
    assert value == 0 and np.isfinite(grad).all()


def test_the_timbre_loss_hears_a_filter_and_hardly_which_noise_it_colours():
    config = EnvelopeConfig()
    noise, again = 0.1 * jax.random.normal(jax.random.key(0), (2, 1, 12 * FRAME))
    brighter = noise - 0.5 * jnp.pad(noise, ((0, 0), (1, 0)))[:, :-1]
    spectra = [envelope(x, FRAME, config) for x in (noise, again, brighter)]
    same, other = (float(timbre_loss(x, spectra[0], config)) for x in spectra[1:])
    assert other > 5 * same


def judged(*scores):
    return [Judgement(jnp.asarray(s), (jnp.asarray(s),)) for s in scores]


def test_adversarial_losses_are_the_published_ones():
    real, fake = judged([[2.0, 0.5]]), judged([[-2.0, 0.0]])
    # hinge: max(0, 1 - D(x)) + max(0, 1 + D(y)); least squares: (1 - D(x))^2 + D(y)^2
    np.testing.assert_allclose(discriminator_loss(real, fake), 0.25 + 0.5)
    np.testing.assert_allclose(discriminator_loss(real, fake, "least_squares"), 0.625 + 2.0)
    np.testing.assert_allclose(adversarial_loss(fake), 1.0)
    np.testing.assert_allclose(adversarial_loss(fake, "least_squares"), 5.0)
    undecided = judged([[0.0]])
    np.testing.assert_allclose(discriminator_loss(undecided, undecided), 2.0)
    with pytest.raises(UserError, match="adversarial is 'wasserstein'"):
        adversarial_loss(fake, "wasserstein")


def test_feature_matching_compares_every_layer_relative_to_its_size():
    real = [Judgement(jnp.zeros(1), (jnp.full((3,), 2.0), jnp.full((2,), 100.0)))]
    fake = [Judgement(jnp.zeros(1), (jnp.full((3,), 3.0), jnp.full((2,), 110.0)))]
    np.testing.assert_allclose(feature_loss(real, fake), (0.5 + 0.1) / 2, rtol=1e-5)
    assert float(feature_loss(real, real)) == 0


FRAME = 1920


def voice(hertz, frames=4, phase=0):
    """Harmonics of a pitch, each softer than the one below; phase: the seed of theirs."""
    t = np.arange(frames * FRAME) / 24_000
    phases = np.random.default_rng(phase).uniform(0, 2 * np.pi, 11)
    waves = [np.sin(2 * np.pi * hertz * k * t + phases[k - 1]) / k for k in range(1, 12)]
    return jnp.asarray(0.1 * np.sum(waves, 0), jnp.float32)[None]


NOISE = 0.1 * jax.random.normal(jax.random.key(0), voice(90).shape)


@pytest.mark.parametrize("hertz", [80, 95, 110, 150, 170, 190, 230, 300])
def test_a_sound_is_most_like_itself_a_period_earlier(hertz):
    config = PeriodicityConfig()
    alike = periodicity(voice(hertz), FRAME)[0, 2:].reshape(-1, config.lags)
    lags = np.geomspace(1 / config.highest, 1 / config.lowest, config.lags)
    assert np.all(alike.max(-1) > 0.85)  # lags are 5 % apart
    # A period or, lower than that, several.
    periods = lags[alike.argmax(-1)] * hertz
    np.testing.assert_allclose(periods / np.round(periods), 1, atol=0.04)


def test_noise_and_silence_have_no_period():
    assert np.abs(periodicity(NOISE, FRAME)).max() < 0.4
    np.testing.assert_array_equal(periodicity(0 * NOISE, FRAME), 0)


def cost(sound, of):
    return float(periodicity_loss(periodicity(sound, FRAME), of))


def test_a_pitch_a_little_off_costs_less_than_a_whisper_and_one_far_off_more():
    low = voice(90)
    assert cost(low, low) == 0
    near = [cost(voice(90 * 2 ** (n / 12)), low) for n in (1, 2)]
    assert 0 < near[0] < near[1] < cost(NOISE, low) < cost(voice(150), low)


def test_the_phase_of_a_pitch_is_hardly_heard():
    # From the third frame on no window has the sound's beginning in it.
    ours, theirs, other = (
        periodicity(sound, FRAME)[:, 2:] for sound in (voice(90), voice(90, phase=1), voice(95))
    )
    assert np.abs(ours - theirs).mean() < 0.02 * np.abs(ours - other).mean()


def test_silence_has_a_finite_gradient_and_what_is_nearly_silent_one_that_moves_it():
    low = voice(90)
    grad = jax.jit(jax.grad(lambda x: periodicity_loss(periodicity(x, FRAME), low)))
    assert np.isfinite(grad(0 * low)).all()
    assert np.any(grad(1e-3 * NOISE))


def test_a_frame_s_periodicity_depends_on_nothing_after_it():
    sound, changed = voice(100), voice(100).at[:, 2 * FRAME :].set(0.3)
    np.testing.assert_array_equal(
        periodicity(sound, FRAME)[:, :2], periodicity(changed, FRAME)[:, :2]
    )


@pytest.mark.parametrize(
    "fields, named",
    [
        ({"window": 512}, "window is 512: two periods of 65.0 Hz are 738 samples"),
        ({"window": 2050}, "window is 2050, not a multiple of pool 8"),
        ({"lowest": 500}, "highest is 450.0: it must lie between lowest, 500"),
        ({"pool": 32}, "highest is 450.0: .* half the averaged samples' rate, 375"),
        ({"noise": 0.0}, "noise is 0.0, it must be positive"),
    ],
)
def test_periodicity_is_checked(fields, named):
    with pytest.raises(UserError, match=named):
        PeriodicityConfig(**fields)


def test_a_frame_that_the_steps_do_not_fit_is_refused():
    with pytest.raises(UserError, match="a frame of 100 samples is no multiple"):
        periodicity(jnp.zeros((1, 400)), 100)
    with pytest.raises(UserError, match="window is 1024, a step has 1920 samples"):
        periodicity(jnp.zeros((1, FRAME)), FRAME, PeriodicityConfig(steps=1, window=1024))


def test_distillation_is_zero_for_parallel_features_at_any_rate_and_two_for_opposite_ones():
    valid = jnp.ones((1, 4), bool)
    teacher = jax.random.normal(jax.random.key(1), (1, 2, 3))
    # Two features for four frames: the outer frames lie on them, the inner ones between.
    mixed = jnp.stack(
        [
            teacher[:, 0],
            0.75 * teacher[:, 0] + 0.25 * teacher[:, 1],
            0.25 * teacher[:, 0] + 0.75 * teacher[:, 1],
            teacher[:, 1],
        ],
        1,
    )
    np.testing.assert_allclose(distillation_loss(7 * mixed, teacher, valid), 0, atol=1e-5)
    np.testing.assert_allclose(distillation_loss(-mixed, teacher, valid), 2, atol=1e-5)
    half = jnp.concatenate([mixed[:, :2], -mixed[:, 2:]], 1)
    kept = jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(distillation_loss(half, teacher, kept), 0, atol=1e-5)
    grad = jax.grad(lambda t: distillation_loss(half, t, valid))(teacher)
    assert not np.any(grad)


def test_a_period_judge_never_mixes_the_phases_of_its_period(samples):
    judge = PeriodJudge(JUDGES, 3)
    params = jax.jit(judge.init)(jax.random.key(0), samples)
    # 400 samples fill 34 blocks of 12 with 8 in front; phase 0 has every third sample.
    changed = samples.at[:, 1::3].add(1.0)  # (8 + 1) % 3 == 0
    run = jax.jit(lambda x: judge.apply(params, x).scores)
    different = np.abs(np.asarray(run(changed) - run(samples))).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(different, [True, False, False])


def test_the_spectrogram_of_white_noise_has_the_same_size_in_every_window():
    noise = jax.random.normal(jax.random.key(2), (1, 20_000))
    for window in (64, 256):
        power = float(jnp.mean(jnp.sum(jnp.square(spectrogram(noise, window)), -1)))
        assert power == pytest.approx(1.0, rel=0.1)


def test_every_judge_learns_to_tell_noise_from_a_tone():
    model, key = Discriminators(JUDGES), jax.random.key(3)
    t = jnp.arange(400) / 24_000
    phases = jax.random.uniform(key, (4, 1), maxval=6.0)
    real = 0.3 * jnp.sin(2 * jnp.pi * 1500 * t + phases)
    fake = 0.2 * jax.random.normal(key, (4, 400))
    params = jax.jit(model.init)(key, real)

    def loss(params):
        return discriminator_loss(model.apply(params, real), model.apply(params, fake))

    @jax.jit
    def step(params):
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * jnp.sign(g), params, grads), value

    first = float(loss(params))
    for _ in range(200):
        params, value = step(params)
    assert first > 1.5 and float(value) < 0.3
    judges = zip(model.apply(params, real), model.apply(params, fake), strict=True)
    assert all(float(a.scores.mean()) > float(b.scores.mean()) + 0.5 for a, b in judges)


def test_wrong_sizes_of_losses_and_judges_are_named():
    with pytest.raises(UserError, match="bins has 1 entries, windows has 2"):
        MelLossConfig(windows=(64, 128), bins=(8,))
    with pytest.raises(UserError, match=r"windows is \(66,\), each must be a multiple of 4"):
        MelLossConfig(windows=(66,), bins=(8,))
    with pytest.raises(UserError, match="each must be a multiple of 16"):
        DiscriminatorConfig(windows=(40,))


@pytest.mark.parametrize("hertz", [70, 90, 133, 190, 230, 300, 420])
def test_a_pitch_is_found_within_half_a_semitone_and_none_in_noise_or_silence(hertz):
    config = PeriodicityConfig(lags=80)
    found = pitch_of(voice(hertz, 6), FRAME, config)[0]
    assert found.shape == (24,)
    # In the first steps and the last the window holds no whole sound.
    np.testing.assert_allclose(found[4:-4], np.log2(hertz), atol=0.5 / 12)
    for sound in (NOISE, 0 * NOISE):
        assert np.isnan(pitch_of(sound, FRAME, config)).all()


@pytest.mark.parametrize("hertz", [30, 45, 55])
def test_a_hum_below_the_range_is_no_pitch(hertz):
    t = np.arange(6 * FRAME) / 24_000
    hum = jnp.asarray(0.3 * np.sin(2 * np.pi * hertz * t), jnp.float32)[None]
    assert np.isnan(pitch_of(hum, FRAME, PeriodicityConfig(lags=80))[0, 4:-4]).all()


def test_a_pitch_is_that_of_the_middle_of_its_step():
    before, after = voice(110, 4), voice(160, 4)
    found = pitch_of(jnp.concatenate([before, after], 1), FRAME, PeriodicityConfig(lags=80))[0]
    near = np.where(np.abs(found - np.log2(160)) < np.abs(found - np.log2(110)), 160, 110)
    changes = np.flatnonzero(np.diff(near[2:-2])) + 3
    assert changes.tolist() == [16]  # the first step after the change, of 16 before it


def test_steps_without_a_pitch_count_for_nothing():
    true = jnp.array([[1.0, jnp.nan, 2.0]])
    value, grad = jax.value_and_grad(pitch_loss)(jnp.array([[1.5, 9.0, 2.0]]), true)
    assert float(value) == 0.25
    np.testing.assert_array_equal(grad[0, :2], [0.5, 0])
    assert float(pitch_loss(true[:, 1:2], true[:, 1:2])) == 0
