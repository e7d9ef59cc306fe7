"""A voice's source: at the pitch that is said, as loud as its envelope, without a seam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.models.codec import Code2WavConfig, HarmonicsConfig, nano
from omnijax.models.codec.source import HarmonicSource

pytestmark = pytest.mark.usefixtures("quick_compile")

RATE, HOP, WIDTH = 24_000, 240, 4
CONFIG = HarmonicsConfig(count=30, bands=20)
SOURCE = HarmonicSource(CONFIG, HOP)


@pytest.fixture(scope="module")
def params():
    tree = SOURCE.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)))["params"]
    loud = tree["envelope"] | {"bias": jnp.full((CONFIG.bands,), -4.0)}
    return {"params": tree | {"envelope": loud}}


@jax.jit
def run(params, x, state=None, pitch=None):
    (samples, said), state = SOURCE.apply(params, x, state, pitch)
    return samples, said, state


def octaves(*hertz):
    return jnp.log2(jnp.asarray(hertz, jnp.float32) / CONFIG.lowest)[None]


def sizes_at(samples, hertz):
    """Amplitudes of a whole second at whole hertz."""
    return 2 / RATE * np.abs(np.fft.rfft(samples))[np.asarray(hertz)]


def by_definition(tree, x, pitch):
    """Sample after sample in float64: an oscillator for each row, a sine for each harmonic."""
    envelope = np.float64(x) @ np.float64(tree["envelope"]["kernel"]) + tree["envelope"]["bias"]
    out, phase, before = [], 0.0, np.zeros(CONFIG.count)
    for step, octave in zip(envelope, pitch, strict=True):
        hertz = CONFIG.lowest * 2 ** (round(float(octave) * CONFIG.grid) / CONFIG.grid)
        harmonics = hertz * np.arange(1, CONFIG.count + 1)
        heard = harmonics <= CONFIG.top
        mels = np.log1p(harmonics / 700) / np.log1p(CONFIG.top / 700) * (CONFIG.bands - 1)
        sizes = heard * np.exp(np.interp(mels, np.arange(CONFIG.bands), step))
        for i in range(1, HOP + 1):
            phase += hertz / RATE
            now = before * heard + (sizes - before * heard) * i / HOP
            out.append(np.sum(now * np.sin(2 * np.pi * phase * np.arange(1, CONFIG.count + 1))))
        before = sizes
    return np.array(out)


def test_it_equals_an_oscillator_in_double_precision(params):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(0.3 * rng.standard_normal((WIDTH, CONFIG.bands)), jnp.float32)
    tree = params["params"]
    tree = tree | {"envelope": tree["envelope"] | {"kernel": kernel}}
    x = jnp.asarray(rng.standard_normal((2, 12, WIDTH)), jnp.float32)
    pitch = jnp.asarray(rng.uniform(0.2, 2.7, (2, 12)), jnp.float32)  # jumps at every step
    ours = run({"params": tree}, x, None, pitch)[0]
    for row in range(2):
        expected = by_definition(tree, np.asarray(x[row]), np.asarray(pitch[row]))
        assert expected.std() > 0.02
        np.testing.assert_allclose(ours[row], expected, atol=1e-5)


def test_harmonics_of_the_pitch_sound_and_nothing_else(params):
    # 260 Hz is two octaves over the lowest: on the grid, so that every harmonic is a whole hertz.
    second = jnp.zeros((1, 101, WIDTH))
    samples = run(params, second, None, octaves(*[260.0] * 101))[0][0, HOP:]
    harmonics = 260 * np.arange(1, 31)
    np.testing.assert_allclose(sizes_at(samples, harmonics), np.exp(-4.0), rtol=1e-3)
    others = np.setdiff1d(np.arange(RATE // 2), harmonics)
    assert sizes_at(samples, others).max() < 1e-4


def test_no_harmonic_lies_over_the_top(params):
    samples = run(params, jnp.zeros((1, 101, WIDTH)), None, octaves(*[390.0] * 101))[0][0, HOP:]
    power = np.square(np.abs(np.fft.rfft(samples * np.hanning(RATE))))
    assert power[8100:].sum() < 1e-6 * power.sum()  # 30 * 390 Hz would be 11.7 kHz
    assert power[7000:8000].sum() > 1e-3 * power.sum()


def test_a_harmonic_that_a_jump_puts_over_the_top_is_silent_at_once(params):
    samples = run(params, jnp.zeros((1, 2, WIDTH)), None, octaves(150.0, 440.0))[0][0, HOP:]
    power = np.square(np.abs(np.fft.rfft(samples * np.hanning(HOP), 2400)))
    assert power[900:].sum() < 1e-3 * power.sum()  # 9 kHz and more


def test_a_steep_envelope_near_the_top_has_a_finite_gradient(params):
    tree = params["params"]
    steep = jnp.full((CONFIG.bands,), -13.0).at[-1].set(-5.0)
    shaped = tree | {"envelope": tree["envelope"] | {"bias": steep}}

    def loud(tree):
        return jnp.sum(jnp.square(run({"params": tree}, jnp.zeros((1, 2, WIDTH)), None,
                                      octaves(449.0, 449.0))[0]))  # fmt: skip

    grads = jax.grad(loud)(shaped)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_an_envelope_keeps_its_place_when_the_pitch_moves(params):
    peak = 8  # a band
    bias = jnp.full((CONFIG.bands,), -9.0).at[peak].set(-3.0)
    tree = params["params"]
    shaped = {"params": tree | {"envelope": tree["envelope"] | {"bias": bias}}}
    hertz = 700 * np.expm1(peak / (CONFIG.bands - 1) * np.log1p(CONFIG.top / 700))
    for pitch in (65.0, 130.0, 260.0):
        samples = run(shaped, jnp.zeros((1, 101, WIDTH)), None, octaves(*[pitch] * 101))[0]
        loudest = np.argmax(np.abs(np.fft.rfft(samples[0, HOP:])))
        assert abs(loudest - hertz) <= pitch / 2 + 1


def test_a_change_of_pitch_or_of_loudness_leaves_no_seam(params):
    x = jax.random.normal(jax.random.key(1), (1, 40, WIDTH))
    tree = params["params"]
    kernel = 0.5 * jax.random.normal(jax.random.key(2), (WIDTH, CONFIG.bands))
    moving = {"params": tree | {"envelope": tree["envelope"] | {"kernel": kernel}}}
    pitch = 2 + jax.random.uniform(jax.random.key(3), (1, 40), minval=-0.3, maxval=0.3)
    samples = np.asarray(run(moving, x, None, pitch)[0][0])
    steps = np.abs(np.diff(samples)).reshape(-1)
    at_seams = steps[HOP - 1 :: HOP]
    inside = np.delete(steps, np.arange(HOP - 1, len(steps), HOP))
    assert len(at_seams) == 39 and at_seams.max() <= inside.max()


def test_a_minute_in_pieces_is_in_phase_with_the_minute_at_once(params):
    steps = 60 * RATE // HOP
    x = jax.random.normal(jax.random.key(1), (1, steps, WIDTH))
    # On the grid: what is said lies near a half often enough that two ways of it may part.
    said = np.round(run(params, x)[1] * CONFIG.grid) / CONFIG.grid
    assert said.std() > 0.1  # the pitch moves
    pitch = jnp.asarray(said)
    whole, state, out = run(params, x, None, pitch)[0], None, []
    for first in range(0, steps, 100):
        part = slice(first, first + 100)
        samples, _, state = run(params, x[:, part], state, pitch[:, part])
        out.append(samples)
    np.testing.assert_allclose(jnp.concatenate(out, 1), whole, atol=1e-5)


def test_a_pitch_that_is_given_counts_where_it_is_finite(params):
    x = jax.random.normal(jax.random.key(1), (1, 4, WIDTH))
    given = jnp.array([[1.0, jnp.nan, 2.0, jnp.nan]])
    ours, said, _ = run(params, x, None, given)
    same = run(params, x, None, jnp.where(jnp.isfinite(given), given, said))[0]
    np.testing.assert_array_equal(ours, same)
    assert np.abs(ours - run(params, x)[0]).max() > 1e-3


def test_only_the_pitch_that_is_said_is_told_of_the_pitch(params):
    x = jax.random.normal(jax.random.key(1), (1, 4, WIDTH))
    sound, said = (
        jax.grad(lambda p, i=i: jnp.sum(jnp.square(SOURCE.apply({"params": p}, x)[0][i])))(
            params["params"]
        )
        for i in (0, 1)
    )
    assert np.any(sound["envelope"]["kernel"]) and not np.any(sound["pitch"]["kernel"])
    assert np.any(said["pitch"]["kernel"]) and not np.any(said["envelope"]["kernel"])


def test_sizes_that_make_no_source_are_refused():
    with pytest.raises(UserError, match="lowest < highest <= top"):
        HarmonicsConfig(lowest=500, highest=450)
    with pytest.raises(UserError, match="12000"):
        HarmonicsConfig(top=13_000)
    with pytest.raises(UserError, match="bands is 1, it must be at least 2"):
        HarmonicsConfig(bands=1)
    with pytest.raises(UserError, match="count is 0, it must be at least 1"):
        HarmonicsConfig(count=0)
    transformer = nano().code2wav.transformer
    with pytest.raises(UserError, match="trim is 'both': harmonics keep time"):
        Code2WavConfig(transformer=transformer, trim="both", harmonics=CONFIG)
