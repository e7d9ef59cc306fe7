import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models.aut import AuT, AuTConfig, token_lengths, window_ids

GOLDEN_DIR = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN_DIR))
import encoder_cases as cases  # noqa: E402

GOLDEN = np.load(GOLDEN_DIR / "encoders.npz")
SMALL = AuTConfig(
    mel_bins=16,
    chunk_frames=40,
    downsample=16,
    conv_channels=(4, 4, 4, 4),
    width=16,
    layers=2,
    heads=2,
    ffn=24,
    out_width=12,
)


MODEL = AuT(SMALL)
APPLY = jax.jit(MODEL.apply, static_argnames="block_chunks")
MEL = jax.random.normal(jax.random.key(0), (2, 4, SMALL.chunk_frames, SMALL.mel_bins))
LENGTHS = jnp.full((2, 4), SMALL.chunk_frames)
WINDOWS = jnp.array([[1, 1, 2, 2]] * 2)
PARAMS = cases.random_params(MODEL, MEL, LENGTHS, WINDOWS)
TOKENS = SMALL.tokens_per_chunk


@pytest.mark.parametrize("name", cases.AUT_CLIPS)
def test_tokens_equal_the_released_class(name):
    clips = cases.mel_clips(name)
    # The released class gives a clip shorter than a chunk to the convolutions at its own length.
    frames = min(cases.AUT.chunk_frames, max(len(clip) for clip in clips))
    rows = cases.mel_rows(clips, frames)
    model = AuT(cases.AUT)
    features, valid = jax.jit(model.apply)(cases.random_params(model, *rows), *rows)
    np.testing.assert_allclose(features[valid], GOLDEN[f"aut_{name}"], atol=1e-4)


def test_windows_in_blocks_equal_windows_by_mask_in_values_and_gradients():
    lengths, windows = LENGTHS.at[0, 3].set(13).at[1, 3].set(0), WINDOWS.at[1, 3].set(0)

    def loss(params, block):
        features, valid = MODEL.apply(params, MEL, lengths, windows, block_chunks=block)
        features = jnp.where(valid[..., None], features, 0)
        return jnp.sum(jnp.sin(features)), features

    run = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    gradients, features = run(PARAMS, None)
    other_gradients, other = run(PARAMS, 2)
    np.testing.assert_allclose(features, other, atol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (gradients, other_gradients)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_blocks_need_not_divide_the_row():
    windows = jnp.array([[1, 1, 1, 2]] * 2)
    whole, _ = APPLY(PARAMS, MEL, LENGTHS, windows)
    blocks, _ = APPLY(PARAMS, MEL, LENGTHS, windows, block_chunks=3)
    np.testing.assert_allclose(whole, blocks, atol=1e-5)


def test_frames_past_the_length_never_reach_a_token():
    lengths = LENGTHS.at[0, 1].set(17).at[1, 3].set(1)
    inside = jnp.arange(SMALL.chunk_frames) < lengths[..., None]
    features, valid = APPLY(PARAMS, MEL, lengths, WINDOWS)
    junk = jnp.where(inside[..., None], MEL, jnp.nan)
    other, _ = APPLY(PARAMS, junk, lengths, WINDOWS)
    np.testing.assert_array_equal(features[valid], other[valid])


def test_every_gradient_is_finite_and_none_is_zero_where_padding_holds_nan():
    lengths, windows = LENGTHS.at[0, 2:].set(0), WINDOWS.at[0, 2:].set(0)

    def loss(params):
        features, valid = MODEL.apply(params, MEL.at[0, 2:].set(jnp.nan), lengths, windows)
        return jnp.sum(jnp.where(valid[..., None], features, 0) ** 2)

    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(PARAMS)):
        assert np.isfinite(leaf).all() and np.abs(leaf).sum() > 0


def test_a_window_depends_on_nothing_outside_it():
    def window_two(mel):
        features, _ = MODEL.apply(PARAMS, mel, LENGTHS, WINDOWS)
        return jnp.sum(jnp.sin(features[0, 2 * TOKENS :]))

    gradient = jax.jit(jax.grad(window_two))(MEL)
    assert np.abs(gradient[0, :2]).max() == 0 and np.abs(gradient[1]).max() == 0
    assert (np.abs(gradient[0, 2:]).sum((-1, -2)) > 0).all()


def test_clips_packed_in_a_row_equal_each_alone():
    lengths = LENGTHS.at[0, 1].set(21)
    packed, valid = APPLY(PARAMS, MEL, lengths, jnp.array([[7, 7, 3, 9]] * 2))
    for part in (slice(0, 2), slice(2, 3), slice(3, 4)):
        none = jnp.zeros_like(WINDOWS)
        windows = none.at[:, part].set(1)
        alone, inside = APPLY(PARAMS, MEL, none.at[:, part].set(lengths[:, part]), windows)
        assert inside.sum() > 0
        np.testing.assert_allclose(packed[inside & valid], alone[inside], atol=1e-5)


def test_a_chunk_gives_a_token_for_each_started_downsample_step():
    for frames in (0, 1, 16, 17, 32, 33, 40):
        _, valid = APPLY(PARAMS, MEL, jnp.full_like(LENGTHS, frames), WINDOWS)
        assert valid.sum() == LENGTHS.size * -(-frames // 16)
        assert token_lengths(jnp.array(frames), 16) == -(-frames // 16)


@pytest.mark.parametrize("change", [{"scan_layers": False}, {"remat": True}])
def test_layers_scanned_equal_layers_unrolled_and_recomputed(change):
    other = AuT(dataclasses.replace(SMALL, **change))
    inputs = (MEL, LENGTHS, WINDOWS)
    shapes = jax.eval_shape(other.init, jax.random.key(0), *inputs)
    assert jax.tree.structure(shapes) == jax.tree.structure(PARAMS)
    expected, _ = APPLY(PARAMS, *inputs)
    np.testing.assert_allclose(jax.jit(other.apply)(PARAMS, *inputs)[0], expected, atol=1e-5)


def test_bfloat16_stays_near_float32():
    half = AuT(dataclasses.replace(SMALL, dtype="bfloat16"))
    expected, valid = APPLY(PARAMS, MEL, LENGTHS, WINDOWS)
    features, _ = jax.jit(half.apply)(PARAMS, MEL, LENGTHS, WINDOWS)
    assert features.dtype == jnp.bfloat16
    error = np.abs(features.astype(jnp.float32) - expected)[valid]
    assert error.mean() < 0.05 * np.abs(expected[valid]).mean()


def test_window_ids_number_windows_from_one():
    assert window_ids(5, 2).tolist() == [1, 1, 2, 2, 3]
    assert window_ids(3, 100).tolist() == [1, 1, 1]
