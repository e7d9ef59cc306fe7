"""The encoder and the split quantiser against MimiModel, live, with the same random weights."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent))
import codec_released as released  # noqa: E402
from transformers import MimiConfig, MimiModel  # noqa: E402
from transformers.models.mimi.modeling_mimi import (  # noqa: E402
    MimiEncoderModel,
    MimiSplitResidualVectorQuantizer,
)

from omnijax.models.codec import (  # noqa: E402
    CodecEncoder,
    QuantiserConfig,
    SeanetConfig,
    SplitRVQ,
    TransformerConfig,
    mimi_encoder,
    qwen3_omni,
)

CONFIG = SeanetConfig(
    transformer=TransformerConfig(
        width=16, layers=2, heads=2, head_dim=8, ffn=24, window=5, norm="layer"
    ),
    filters=4,
    strides=(2, 3, 4),
)
QUANTISER = QuantiserConfig(features=16, codebooks=5, size=16, width=6)
ENCODER, RVQ = CodecEncoder(CONFIG), SplitRVQ(QUANTISER)
FRAMES = 11
SAMPLES = np.random.default_rng(2).standard_normal((2, FRAMES * 48)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    features = jax.ShapeDtypeStruct((1, 1, 16), jnp.float32)
    return {
        "encoder": released.random_params(ENCODER.init, SAMPLES),
        "quantiser": released.random_params(RVQ.init, features),
    }


@pytest.fixture(scope="module")
def theirs(params):
    transformer = CONFIG.transformer
    config = MimiConfig(
        hidden_size=transformer.width,
        num_filters=CONFIG.filters,
        upsampling_ratios=list(CONFIG.strides[::-1]),
        codebook_size=QUANTISER.size,
        codebook_dim=QUANTISER.width,
        num_quantizers=QUANTISER.codebooks,
        vector_quantization_hidden_dimension=QUANTISER.width,
        upsample_groups=transformer.width,
        num_hidden_layers=transformer.layers,
        intermediate_size=transformer.ffn,
        num_attention_heads=transformer.heads,
        num_key_value_heads=transformer.heads,
        sliding_window=transformer.window,
        decoder_config=None,
    )
    model = MimiModel(config)
    released.load(model.encoder, released.encoder(params["encoder"]))
    released.load(model.quantizer, released.quantiser(params["quantiser"], QUANTISER.semantic))
    return model.eval()


@pytest.fixture(scope="module")
def features(params):
    return jax.jit(ENCODER.apply)({"params": params["encoder"]}, SAMPLES)[0]


@torch.no_grad()
def test_features_equal_those_of_mimi_past_the_window(theirs, features):
    expected = theirs.encoder(torch.tensor(SAMPLES)[:, None]).latents.transpose(1, 2).numpy()
    assert features.shape == expected.shape == (2, FRAMES, 16)
    assert np.abs(expected).std() > 0.1
    np.testing.assert_allclose(features, expected, atol=1e-4)


@torch.no_grad()
def test_codes_equal_those_of_mimi(theirs, params, features):
    expected = theirs.encode(torch.tensor(SAMPLES)[:, None]).audio_codes.transpose(1, 2).numpy()
    run = jax.jit(lambda p, x: RVQ.apply({"params": p}, x, method="encode"))
    codes = np.asarray(run(params["quantiser"], features))
    np.testing.assert_array_equal(codes, expected)
    assert min(len(np.unique(codes[..., q])) for q in range(5)) > 2  # no constant compared


@pytest.mark.parametrize("count", [1, 3, 5])
@torch.no_grad()
def test_the_first_codebooks_give_the_features_that_they_give_in_mimi(theirs, params, count):
    codes = np.random.default_rng(4).integers(0, 16, (2, 7, count))
    expected = theirs.quantizer.decode(torch.tensor(codes).transpose(1, 2))
    run = jax.jit(lambda p, x: RVQ.apply({"params": p}, x, method="decode"))
    ours = run(params["quantiser"], jnp.asarray(codes))
    np.testing.assert_allclose(ours, expected.transpose(1, 2).numpy(), atol=1e-5)


def test_the_released_sizes_have_the_released_numbers_of_parameters():
    config = MimiConfig(num_quantizers=16)
    with torch.device("meta"):
        encoder = MimiEncoderModel(config.encoder_config)
        quantiser = MimiSplitResidualVectorQuantizer(config)
    samples, features = jnp.zeros((1, 1920)), jnp.zeros((1, 1, 512))
    shapes = jax.eval_shape(CodecEncoder(mimi_encoder()).init, jax.random.key(0), samples)
    assert released.sizes(shapes) == released.count(encoder)
    rvq = SplitRVQ(qwen3_omni().quantiser)
    shapes = jax.eval_shape(rvq.init, jax.random.key(0), features)
    sums = sum(b.numel() for name, b in quantiser.named_buffers() if name.endswith("embed_sum"))
    assert released.sizes(shapes) == released.count(quantiser) + sums
