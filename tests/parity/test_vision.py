"""Vision against Qwen3_5MoeVisionModel and Qwen3OmniMoeVisionEncoder, live, by module and whole."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import encoder_cases as cases  # noqa: E402
import make_encoders as released  # noqa: E402

from omnijax.models.vision import VisionEncoder, qwen3_5, qwen3_omni  # noqa: E402
from omnijax.models.vision.encoder import Merger, axis_weights  # noqa: E402
from omnijax.nn.encoder import EncoderBlock  # noqa: E402
from omnijax.ops import rotary_angles_2d  # noqa: E402

CONFIGS = {"qwen3_5": cases.VISION, "qwen3_omni": cases.VISION_DEEPSTACK}


@pytest.fixture(scope="module", params=CONFIGS)
def both(request):
    """The config, our parameters and the released model."""
    config = CONFIGS[request.param]
    return config, released.vision_params(config)["params"], released.released_vision(config)


def hidden(config, seed, patches=24):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((patches, config.width)).astype(np.float32)


def test_the_patch_embedding_equals_the_released_one(both):
    config, params, theirs = both
    patches = cases.patch_row("images", config)[0][0]
    ours = patches @ params["patch_embed"]["kernel"] + params["patch_embed"]["bias"]
    with torch.no_grad():
        expected = theirs.patch_embed(torch.tensor(patches)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 4, 6), (2, 10, 4), (1, 30, 2), (1, 8, 14)])
def test_interpolated_positions_equal_the_released_ones(both, grid):
    config, params, theirs = both
    cases.VISION_GRIDS["one"] = (grid,)
    _, coords, grids, _ = cases.patch_row("one", config)
    down, across = (
        axis_weights(jnp.asarray(coords[..., i]), jnp.asarray(grids[..., i]), config.grid_side)[0]
        for i in (0, 1)
    )
    weights = (down[:, :, None] * across[:, None, :]).reshape(len(down), -1)
    ours = weights @ params["positions"]
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    indices, shares = get_vision_interpolation_indices_and_weights(
        torch.tensor([grid]), config.grid_side, "bilinear", True, config.spatial_merge
    )
    with torch.no_grad():
        expected = (theirs.pos_embed(indices) * shares[:, :, None]).sum(1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
def test_each_block_with_its_rotary_positions_equals_the_released_one(both, layer):
    config, params, theirs = both
    x = hidden(config, layer)
    coords = np.stack(np.unravel_index(np.arange(24), (4, 6)), -1)
    ends = (0, 8, 20, 24)
    groups = np.repeat(np.arange(1, len(ends)), np.diff(ends))
    weights = jax.tree.map(lambda w: w[layer], params["encoder"]["layers"])
    angles = rotary_angles_2d(jnp.asarray(coords), config.width // config.heads, config.rope_theta)
    ours = jax.jit(EncoderBlock(config.encoder).apply)(
        {"params": weights}, x[None], groups[None], angles[None]
    )
    with torch.no_grad():
        turned = theirs.rotary_pos_emb(torch.tensor(x), torch.tensor(coords))
        expected = theirs.blocks[layer](
            torch.tensor(x), torch.tensor(ends, dtype=torch.int32), position_embeddings=turned
        )
    np.testing.assert_allclose(ours[0], expected.numpy(), atol=1e-4)


def test_mergers_equal_the_released_ones(both):
    config, params, theirs = both
    x = hidden(config, 0)
    mergers = [("merger", False, theirs.merger)]
    if config.deepstack_layers:
        mergers += [(f"deepstack_{i}", True, m) for i, m in enumerate(theirs.merger_list)]
    for name, norm_joined, merger in mergers:
        ours = jax.jit(Merger(config, norm_joined).apply)({"params": params[name]}, x[None])
        with torch.no_grad():
            np.testing.assert_allclose(ours[0], merger(torch.tensor(x)).numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "grids",
    [((1, 2, 2),), ((1, 10, 10), (1, 2, 14), (4, 6, 8)), ((5, 4, 4), (1, 16, 2), (3, 4, 4))],
)
def test_tokens_equal_the_released_ones_at_any_size(both, grids):
    config, params, theirs = both
    cases.VISION_GRIDS["many"] = grids
    row = cases.patch_row("many", config)
    features, _, deepstack = jax.jit(VisionEncoder(config).apply)({"params": params}, *row)
    expected = released.vision_output(theirs, "many", config)
    for ours, tokens in zip([features, *deepstack], expected, strict=True):
        np.testing.assert_allclose(ours[0], tokens, atol=1e-4)


def test_the_released_sizes_have_the_released_numbers_of_parameters():
    with torch.device("meta"):
        pairs = (
            (
                qwen3_5(2048),
                released.Qwen3_5MoeVisionModel(
                    released.Qwen3_5MoeVisionConfig(out_hidden_size=2048)
                ),
            ),
            (
                qwen3_omni(),
                released.Qwen3OmniMoeVisionEncoder(
                    released.Qwen3OmniMoeVisionEncoderConfig(out_hidden_size=2048)
                ),
            ),
        )
    for config, theirs in pairs:
        place = jnp.zeros((1, 4, 2), int)
        row = (jnp.zeros((1, 4, config.patch_dim)), place, place, jnp.ones((1, 4), int))
        shapes = jax.eval_shape(VisionEncoder(config).init, jax.random.key(0), *row)
        ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        assert ours == sum(p.numel() for p in theirs.parameters())
