"""Mel augmentation: deterministic by key, alike within a window, silent where told."""

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.models.thinker import AudioInputs
from omnijax.train.augment import augment_answers, augment_audio
from omnijax.train.stages import AugmentConfig

ALL = AugmentConfig(
    warp=0.1, shift=2.0, gain_db=6.0, noise_db=10.0, frequency_masks=1, time_masks=1, time_width=4
)


def clip(seed=0):
    rng = np.random.default_rng(seed)
    mel = rng.normal(size=(2, 3, 20, 32)).astype(np.float32) * 0.3
    lengths = jnp.array([[20, 20, 12], [20, 5, 0]], jnp.int32)
    windows = jnp.array([[1, 1, 2], [1, 2, 0]], jnp.int32)
    return AudioInputs(jnp.asarray(mel), lengths, windows)


def test_without_settings_nothing_changes():
    audio = clip()
    assert augment_audio(jax.random.key(0), audio, AugmentConfig()) is audio


def test_the_same_key_gives_the_same_mel_and_another_key_another():
    first, again, other = (
        augment_audio(jax.random.key(seed), clip(), ALL).mel for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.allclose(first, other)
    assert np.all(np.isfinite(first))


def test_padding_frames_and_unused_chunks_keep_their_values():
    audio = clip()
    changed = augment_audio(jax.random.key(0), audio, ALL)
    padding = np.arange(20) >= np.asarray(audio.lengths)[..., None]
    assert np.array_equal(np.asarray(changed.mel)[padding], np.asarray(audio.mel)[padding])
    assert changed.lengths is audio.lengths and changed.windows is audio.windows


def test_chunks_of_one_window_are_changed_alike_and_other_windows_otherwise():
    flat = clip()._replace(mel=jnp.zeros((2, 3, 20, 32)))
    config = AugmentConfig(gain_db=6.0, silence=-10.0)
    gain = np.asarray(augment_audio(jax.random.key(0), flat, config).mel)[:, :, 0, 0]
    assert gain[0, 0] == gain[0, 1] != gain[0, 2] and gain[1, 0] != gain[0, 0]
    assert np.abs(gain).max() <= 6 / 40  # a mel value is log10(power) / 4


def test_a_shift_moves_a_tone_by_whole_and_broken_bins():
    tone = clip()._replace(mel=jnp.zeros((2, 3, 20, 32)).at[..., 16].set(1.0))
    moved = augment_audio(jax.random.key(3), tone, AugmentConfig(shift=3.0)).mel
    heard = np.asarray(moved)[0, 0, 0]
    assert np.isclose(heard.sum(), 1.0, atol=1e-5) and 1 <= np.count_nonzero(heard > 1e-6) <= 2
    assert 12 < (heard * np.arange(32)).sum() < 20


def test_masks_are_silent_bands_and_spans():
    ones = clip()._replace(mel=jnp.ones((2, 3, 20, 32)), lengths=jnp.full((2, 3), 20))
    bands = AugmentConfig(frequency_masks=1, frequency_width=8, silence=-0.5)
    spans = AugmentConfig(time_masks=1, time_width=8, silence=-0.5)
    for config, axis in ((bands, 2), (spans, 3)):
        masked = np.asarray(augment_audio(jax.random.key(5), ones, config).mel) == -0.5
        assert np.array_equal(masked.any(axis), masked.all(axis))  # whole bins, whole frames
        lines = masked.any(axis).reshape(6, -1)
        assert lines.any() and not lines.all(1).any()
        for line in lines:
            assert line.sum() <= 9 and np.all(np.diff(np.flatnonzero(line)) == 1)


def test_noise_lifts_silence_and_leaves_loud_sound_alone():
    config = AugmentConfig(noise_db=20.0)
    quiet = clip()._replace(mel=jnp.full((2, 3, 20, 32), config.silence))
    loud = clip()._replace(mel=jnp.full((2, 3, 20, 32), 1.0))
    lifted, kept = (augment_audio(jax.random.key(1), x, config).mel[0, 0] for x in (quiet, loud))
    assert float(lifted.mean()) > config.silence and np.allclose(kept, 1.0, atol=0.01)


def test_noise_replaces_its_share_of_the_answers_and_nothing_else():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 50, (4, 400)), jnp.int32)
    answers = np.zeros((4, 400), bool)
    answers[:, 100:300] = True  # positions of the answers' inputs: targets stand one before
    targets = jnp.roll(tokens, -1, 1) + 100
    weights = jnp.asarray(np.roll(answers, -1, 1), jnp.float32)
    noisy = np.asarray(augment_answers(jax.random.key(0), tokens, targets, weights, 0.3))
    changed = noisy != np.asarray(tokens)
    assert not changed[~answers].any()
    assert 0.25 < changed[answers].mean() < 0.35
    assert set(noisy[changed]) <= set(np.asarray(targets)[np.asarray(weights) > 0])


def test_a_frame_is_replaced_whole_by_another_answer_s():
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.integers(0, 50, (2, 90, 4)), jnp.int32)
    targets = jnp.roll(frames, -1, 1) + 100
    said = np.zeros((2, 90), bool)
    said[:, 40:80] = True
    weights = jnp.asarray(np.roll(said, -1, 1), jnp.float32)
    noisy = np.asarray(augment_answers(jax.random.key(0), frames, targets, weights, 0.5))
    changed = noisy != np.asarray(frames)
    assert not changed[~said].any() and (changed.all(-1) == changed.any(-1)).all()
    assert 0.3 < changed[said].mean() < 0.7
    others = {tuple(frame) for frame in np.asarray(targets)[np.asarray(weights) > 0]}
    assert {tuple(frame) for frame in noisy[changed.all(-1)]} <= others


def test_without_noise_the_answers_stay():
    tokens = jnp.arange(8)[None]
    assert augment_answers(jax.random.key(0), tokens, tokens, jnp.ones((1, 8)), 0.0) is tokens
