"""AuT against Qwen3OmniMoeAudioEncoder, live: each module, and the whole at many lengths."""

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

from omnijax.models.aut import AuT, AuTConfig, qwen3_omni_8x  # noqa: E402
from omnijax.models.aut.encoder import ConvStem, sinusoids, token_lengths  # noqa: E402
from omnijax.nn.encoder import EncoderBlock  # noqa: E402

MODEL = AuT(cases.AUT)
APPLY = jax.jit(MODEL.apply)
CHUNK = cases.AUT.chunk_frames


@pytest.fixture(scope="module")
def theirs():
    return released.released_aut()


@pytest.fixture(scope="module")
def params():
    return released.aut_params()


def clip(frames):
    rng = np.random.default_rng(frames)
    return rng.standard_normal((frames, cases.AUT.mel_bins)).astype(np.float32)


@torch.no_grad()
def released_stem(model, mel):
    """The convolutions of `Qwen3OmniMoeAudioEncoder.forward`, chunks padded to one length."""
    x = torch.tensor(mel).transpose(1, 2)[:, None]
    for conv in (model.conv2d1, model.conv2d2, model.conv2d3):
        x = torch.nn.functional.gelu(conv(x))
    chunks, channels, bins, tokens = x.shape
    x = model.conv_out(x.permute(0, 3, 1, 2).reshape(chunks, tokens, channels * bins))
    return (x + model.positional_embedding(tokens)).numpy()


@pytest.mark.parametrize("frames", [CHUNK, 37])
def test_the_convolutions_equal_the_released_ones(theirs, params, frames):
    mel = clip(3 * frames).reshape(3, frames, -1)
    ours = jax.jit(ConvStem(cases.AUT).apply)(
        {"params": params["params"]["stem"]}, mel, jnp.full((3,), frames)
    )
    np.testing.assert_allclose(ours, released_stem(theirs, mel), atol=1e-4)


def test_positions_equal_the_released_ones(theirs):
    expected = theirs.positional_embedding(1500).numpy()
    np.testing.assert_allclose(sinusoids(jnp.arange(1500), cases.AUT.width), expected, atol=1e-4)


@pytest.mark.parametrize("layer", range(cases.AUT.layers))
def test_each_layer_equals_the_released_one(theirs, params, layer):
    x = np.random.default_rng(layer).standard_normal((40, cases.AUT.width)).astype(np.float32)
    ends = (0, 13, 39, 40)
    groups = np.repeat(np.arange(1, len(ends)), np.diff(ends))
    weights = jax.tree.map(lambda w: w[layer], params["params"]["encoder"]["layers"])
    ours = jax.jit(EncoderBlock(cases.AUT.encoder).apply)(
        {"params": weights}, x[None], groups[None]
    )
    with torch.no_grad():
        expected = theirs.layers[layer](torch.tensor(x), torch.tensor(ends, dtype=torch.int32))
    np.testing.assert_allclose(ours[0], expected[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "lengths",
    [
        *[(CHUNK, n) for n in (1, 2, 8, 9, 50, 99, 100, 101, 199, 200, 201, 399, 400, 401, 850)],
        (100, 300, 5, 777),
        (2000,),
    ],
)
def test_tokens_equal_the_released_ones_at_any_length(theirs, params, lengths):
    clips = [clip(n) for n in lengths]
    features, valid = APPLY(params, *cases.mel_rows(clips))
    np.testing.assert_allclose(features[valid], released.aut_output(theirs, clips), atol=1e-4)


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 64, 99])
def test_a_clip_shorter_than_a_chunk_equals_the_released_one_at_its_own_length(
    theirs, params, frames
):
    rows = cases.mel_rows([clip(frames)], frames)
    features, valid = APPLY(params, *rows)
    expected = released.aut_output(theirs, [clip(frames)])
    np.testing.assert_allclose(features[valid], expected, atol=1e-4)


def test_tokens_of_a_window_one_chunk_too_short_differ_from_the_released_ones(theirs, params):
    # The mistake of the ports: a check that the tests above would see it.
    clips = [clip(400)]
    features, valid = APPLY(params, *cases.mel_rows(clips, window_chunks=1))
    assert np.abs(features[valid] - released.aut_output(theirs, clips)).max() > 1e-2


def test_the_16x_convolutions_equal_four_of_torch():
    config = AuTConfig(
        mel_bins=32, chunk_frames=100, conv_channels=(3, 4, 5, 6), width=16, layers=1, heads=2,
        ffn=8, out_width=8,
    )  # fmt: skip
    mel = clip(300).reshape(3, 100, -1)
    lengths = np.array([100, 61, 1])
    mel[np.arange(100) >= lengths[:, None]] = 0
    stem = ConvStem(config)
    weights = cases.random_params(stem, mel, lengths)
    x = torch.tensor(mel)[:, None]
    for i in range(4):
        conv = weights["params"][f"conv_{i}"]
        kernel = torch.tensor(conv["kernel"].transpose(3, 2, 0, 1).copy())
        x = torch.nn.functional.conv2d(x, kernel, torch.tensor(conv["bias"]), 2, 1)
        x = torch.nn.functional.gelu(x)
    x = x.permute(0, 2, 3, 1).flatten(2).numpy() @ weights["params"]["conv_out"]["kernel"]
    expected = x + sinusoids(jnp.arange(7), 16)
    np.testing.assert_allclose(jax.jit(stem.apply)(weights, mel, lengths), expected, atol=1e-4)


def test_lengths_equal_the_released_ones():
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
        _get_feat_extract_output_lengths,
    )

    frames = np.arange(1, 1000)
    whole, tail = frames // 100, frames % 100
    ours = whole * 13 + np.asarray(token_lengths(jnp.asarray(tail), 8))
    theirs = _get_feat_extract_output_lengths(torch.tensor(frames)).numpy()
    np.testing.assert_array_equal(ours, theirs)


def test_the_released_size_has_the_released_number_of_parameters():
    config = qwen3_omni_8x()
    rows = (jnp.zeros((1, 1, 100, 128)), jnp.ones((1, 1), int), jnp.ones((1, 1), int))
    shapes = jax.eval_shape(AuT(config).init, jax.random.key(0), *rows)
    with torch.device("meta"):
        theirs = released.Qwen3OmniMoeAudioEncoder(
            released.Qwen3OmniMoeAudioEncoderConfig(output_dim=config.out_width)
        )
    ours = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert ours == sum(p.numel() for p in theirs.parameters())
