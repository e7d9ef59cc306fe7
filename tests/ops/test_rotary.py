"""Rotary positions: what turns, by how much, and that only differences count."""

import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.ops import apply_rotary, mrope_angles, rotary_angles, rotary_angles_2d


def make(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_pairs_turn_like_complex_numbers_and_the_rest_passes():
    x, positions = make(2, 7, 3, 20), jnp.asarray(np.arange(14).reshape(2, 7) * 5)
    out = np.asarray(apply_rotary(x, rotary_angles(positions, 8, 1e4)))
    frequencies = 1e4 ** (-np.arange(4) / 4)
    turn = np.exp(1j * np.asarray(positions)[..., None, None] * frequencies)
    complex_ = (np.asarray(x)[..., :4] + 1j * np.asarray(x)[..., 4:8]) * turn
    np.testing.assert_allclose(out[..., :4], complex_.real, atol=1e-5)
    np.testing.assert_allclose(out[..., 4:8], complex_.imag, atol=1e-5)
    np.testing.assert_array_equal(out[..., 8:], x[..., 8:])


def test_scores_depend_on_the_difference_of_positions_alone():
    q, k = make(1, 1, 1, 16), make(1, 1, 1, 16, seed=1)

    def score(i, j):
        turn = lambda x, at: apply_rotary(x, rotary_angles(jnp.array([[at]]), 16))  # noqa: E731
        return float(jnp.sum(turn(q, i) * turn(k, j)))

    np.testing.assert_allclose(score(9, 4), score(1005, 1000), atol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


@pytest.mark.parametrize(
    ("sections", "rows", "columns"),
    [
        ((11, 11, 10), range(1, 32, 3), range(2, 30, 3)),
        ((24, 20, 20), range(1, 60, 3), range(2, 60, 3)),
        ((2, 2, 2), (1, 4), (2, 5)),
    ],
)
def test_interleaved_sections_give_each_frequency_its_axis(sections, rows, columns):
    half = sum(sections)
    axis = np.zeros(half, int)
    axis[list(rows)], axis[list(columns)] = 1, 2
    positions = jnp.asarray(np.random.default_rng(0).integers(0, 999, (3, 2, 5)))
    angles = mrope_angles(positions, 2 * half, 1e7, sections)
    plain = np.asarray(rotary_angles(positions, 2 * half, 1e7))
    for i in range(half):
        np.testing.assert_array_equal(angles[..., i], plain[axis[i], ..., i])


def test_sections_in_a_row_stand_one_after_the_other():
    positions = jnp.asarray(np.random.default_rng(0).integers(0, 999, (3, 2, 5)))
    angles = mrope_angles(positions, 20, 1e6, (4, 3, 3), interleaved=False)
    plain = np.asarray(rotary_angles(positions, 20, 1e6))
    for i, axis in enumerate([0] * 4 + [1] * 3 + [2] * 3):
        np.testing.assert_array_equal(angles[..., i], plain[axis, ..., i])


def test_text_turns_as_if_there_were_one_axis():
    row = jnp.asarray(np.arange(12).reshape(2, 6))
    angles = mrope_angles(jnp.stack([row] * 3), 12, 1e4, (2, 2, 2))
    np.testing.assert_array_equal(angles, rotary_angles(row, 12, 1e4))


def test_a_patch_turns_half_its_frequencies_by_row_and_half_by_column():
    angles = rotary_angles_2d(jnp.array([[[3, 0], [0, 5]]]), 16)
    half = rotary_angles(jnp.array([3, 5]), 8)
    np.testing.assert_array_equal(angles[0, 0], np.concatenate([half[0], np.zeros(4)]))
    np.testing.assert_array_equal(angles[0, 1], np.concatenate([np.zeros(4), half[1]]))


def test_angles_are_float32_and_the_dtype_of_x_stays():
    positions = jnp.arange(250_000, 250_008)[None]
    angles = rotary_angles(positions, 8, 1e7)
    assert angles.dtype == jnp.float32
    np.testing.assert_array_equal(angles[0, :, 0], np.arange(250_000, 250_008))
    assert apply_rotary(make(1, 8, 2, 8).astype(jnp.bfloat16), angles).dtype == jnp.bfloat16


def test_bad_sections_and_odd_dims_are_named():
    with pytest.raises(UserError, match=r"\(3, 2, 2\).*sum to 6"):
        mrope_angles(jnp.zeros((3, 1, 1), jnp.int32), 12, 1e4, (3, 2, 2))
    for sections in ((0, 4, 4), (1, 2, 1), (5, 2, -1)):
        positions, half = jnp.zeros((3, 1, 1), jnp.int32), sum(sections)
        with pytest.raises(UserError, match="mrope sections are"):
            mrope_angles(positions, 2 * half, 1e4, sections)
    mrope_angles(positions, 16, 1e4, (0, 4, 4), interleaved=False)
    with pytest.raises(UserError, match="rotary dim is 7"):
        rotary_angles(jnp.zeros((1, 1), jnp.int32), 7)
