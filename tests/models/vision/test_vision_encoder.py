import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models.vision import VisionEncoder
from omnijax.models.vision.encoder import axis_weights

GOLDEN_DIR = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN_DIR))
import encoder_cases as cases  # noqa: E402

GOLDEN = np.load(GOLDEN_DIR / "encoders.npz")
MODEL = VisionEncoder(cases.VISION)
APPLY = jax.jit(MODEL.apply, static_argnames="block_patches")


def params_of(config=cases.VISION):
    return cases.random_params(VisionEncoder(config), *cases.patch_row("images", config))


@pytest.mark.parametrize("name", cases.VISION_GRIDS)
@pytest.mark.parametrize("kind", ["vision", "deepstack"])
def test_tokens_equal_the_released_class(kind, name):
    config = cases.VISION if kind == "vision" else cases.VISION_DEEPSTACK
    row = cases.patch_row(name, config)
    features, valid, deepstack = jax.jit(VisionEncoder(config).apply)(params_of(config), *row)
    assert valid.all() and len(deepstack) == len(config.deepstack_layers)
    for i, tokens in enumerate([features, *deepstack]):
        np.testing.assert_allclose(tokens[0], GOLDEN[f"{kind}_{name}_{i}"], atol=1e-4)


def test_images_packed_in_a_row_equal_each_alone_and_padded():
    params = params_of()
    patches, coords, grids, frames = cases.patch_row("images")
    packed, _, _ = APPLY(params, patches, coords, grids, frames)
    for image in np.unique(frames):
        inside = frames[0] == image
        alone = [x[:, inside] for x in (patches, coords, grids, frames)]
        features, valid, _ = APPLY(params, *alone)
        padded = [jnp.pad(x, [(0, 0), (0, 8)] + [(0, 0)] * (x.ndim - 2)) for x in alone]
        padded[0] = padded[0].at[:, -8:].set(1e3)
        more, valid, _ = APPLY(params, *padded)
        tokens = packed[:, inside[::4]]
        assert valid.sum() == tokens.shape[1]
        np.testing.assert_allclose(features, tokens, atol=1e-4)
        np.testing.assert_allclose(more[valid], tokens[0], atol=1e-4)


def test_frames_in_blocks_equal_frames_by_mask():
    params = params_of()
    patches, coords, grids, frames = (x[:, :48] for x in cases.patch_row("video"))
    whole, _, _ = APPLY(params, patches, coords, grids, frames)
    for block in (16, 32):
        blocks, _, _ = APPLY(params, patches, coords, grids, frames, block_patches=block)
        np.testing.assert_allclose(whole, blocks, atol=1e-4)


def test_a_frame_depends_on_no_other():
    params = params_of()
    patches, *places = cases.patch_row("video")
    inside = places[2][0] == 2
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(APPLY(params, x, *places)[0][:, inside[::4]])))(
        patches
    )
    assert np.abs(gradient[:, ~inside]).max() == 0
    assert (np.abs(gradient[:, inside]).sum(-1) > 0).all()


def test_every_parameter_gets_a_gradient():
    config = cases.VISION_DEEPSTACK
    row = cases.patch_row("images", config)

    def loss(params):
        features, _, deepstack = jax.jit(VisionEncoder(config).apply)(params, *row)
        return sum(jnp.sum(jnp.sin(x)) for x in [features, *deepstack])

    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(params_of(config))
    ):
        assert np.abs(leaf).max() > 0, path


def test_a_grid_of_the_table_s_own_size_reads_the_table_itself():
    place = jnp.arange(5)[None]
    np.testing.assert_allclose(axis_weights(place, jnp.full((1, 5), 5), 5)[0], np.eye(5))


def test_interpolation_weights_sum_to_one_at_every_size():
    for size in (1, 2, 3, 7, 48, 100):
        weights = axis_weights(jnp.arange(size)[None], jnp.full((1, size), size), 48)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-4)


def test_layers_scanned_equal_layers_unrolled_and_recomputed():
    for base in (cases.VISION_DEEPSTACK,):
        row, params = cases.patch_row("images", base), params_of(base)
        expected = jax.jit(VisionEncoder(base).apply)(params, *row)
        for change in ({"scan_layers": False}, {"remat": True}):
            model = VisionEncoder(dataclasses.replace(base, **change))
            other = jax.jit(model.apply)(params, *row)
            for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)
