"""Code2Wav against Qwen3OmniMoeCode2Wav, live, with the same random weights."""

import dataclasses
import math
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
from transformers import MimiConfig  # noqa: E402
from transformers.models.mimi.modeling_mimi import MimiConvTranspose1d  # noqa: E402
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import (  # noqa: E402
    Qwen3OmniMoeCode2WavConfig,
)
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (  # noqa: E402
    Qwen3OmniMoeCode2Wav,
)

from omnijax.models.codec import (  # noqa: E402
    Code2WavConfig,
    Codec,
    CodecConfig,
    TransformerConfig,
    qwen3_omni_code2wav,
)
from omnijax.models.codec.convolution import UpConv  # noqa: E402

CONFIG = Code2WavConfig(
    transformer=TransformerConfig(width=16, layers=2, heads=2, head_dim=8, ffn=24, window=5),
    upsample=(2, 2),
    rates=(4, 3),
    channels=16,
    lookup="table",
    codebooks=3,
    codes=10,
    trim="both",
)
MODEL = Codec(CodecConfig(code2wav=CONFIG))
CODES = np.random.default_rng(3).integers(0, CONFIG.codes, (2, 11, CONFIG.codebooks))


def decode_once(config):
    model = Codec(config)
    return lambda codes: model.init_with_output(jax.random.key(0), codes, method="decode")


def released_config(config):
    return Qwen3OmniMoeCode2WavConfig(
        codebook_size=config.codes,
        hidden_size=config.transformer.width,
        num_attention_heads=config.transformer.heads,
        num_key_value_heads=config.transformer.heads,
        sliding_window=config.transformer.window,
        intermediate_size=config.transformer.ffn,
        num_hidden_layers=config.transformer.layers,
        num_quantizers=config.codebooks,
        upsample_rates=config.rates,
        upsampling_ratios=config.upsample,
        decoder_dim=config.channels,
    )


@pytest.fixture(scope="module")
def params():
    params = released.random_params(lambda key, x: MODEL.init(key, x, method="decode"), CODES)
    for part in params["code2wav"]["conv_out"].values():
        part *= 0.05  # far from the clamp
    return params


@pytest.fixture(scope="module")
def theirs(params):
    model = Qwen3OmniMoeCode2Wav(released_config(CONFIG))
    return released.load(model, released.code2wav(params["code2wav"]))


@torch.no_grad()
def test_samples_equal_the_released_ones_past_the_window(theirs, params):
    expected = theirs(torch.tensor(CODES).transpose(1, 2))[:, 0].numpy()
    samples = jax.jit(lambda p, c: MODEL.apply({"params": p}, c, method="decode"))(params, CODES)
    assert samples.shape == expected.shape
    assert 0.05 < np.abs(expected).max() < 0.99
    np.testing.assert_allclose(samples, expected, atol=1e-5)


def test_the_causal_form_gives_the_released_blocks_and_the_ones_that_it_trims():
    # One transposed convolution: what the released form leaves out on the left is all that differs.
    x = np.random.default_rng(0).standard_normal((1, 6, 4)).astype(np.float32)
    layer = UpConv(3, 5, 10)
    params = released.random_params(layer.init, x)
    y = jax.jit(layer.apply)({"params": params}, x)[0]
    weights = {name: torch.tensor(np.array(w)) for name, w in released.up_conv(params).items()}
    whole = torch.nn.functional.conv_transpose1d(
        torch.tensor(x).transpose(1, 2), weights["weight"], weights["bias"], stride=5
    )
    whole = whole.transpose(1, 2).numpy()
    assert y.shape == (1, 30, 3) and whole.shape == (1, 35, 3)
    np.testing.assert_allclose(y, whole[:, :30], atol=1e-5)
    np.testing.assert_allclose(y[:, 5:], whole[:, 5:30], atol=1e-5)


@torch.no_grad()
def test_the_causal_transposed_convolution_equals_that_of_mimi():
    x = np.random.default_rng(1).standard_normal((2, 7, 4)).astype(np.float32)
    for stride in (2, 3):
        layer = UpConv(5, stride, 2 * stride)
        params = released.random_params(layer.init, x)
        theirs = MimiConvTranspose1d(MimiConfig(), 4, 5, 2 * stride, stride)
        weights = released.up_conv(params)
        theirs.conv.load_state_dict({k: torch.tensor(np.array(w)) for k, w in weights.items()})
        expected = theirs(torch.tensor(x).transpose(1, 2)).transpose(1, 2).numpy()
        y = jax.jit(layer.apply)({"params": params}, x)[0]
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_the_released_size_has_the_released_number_of_parameters():
    model = Codec(CodecConfig(code2wav=qwen3_omni_code2wav()))
    codes = jnp.zeros((1, 2, 16), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), codes, method="decode"))
    with torch.device("meta"):
        theirs = Qwen3OmniMoeCode2Wav(Qwen3OmniMoeCode2WavConfig())
    assert released.sizes(shapes) == released.count(theirs)


def test_the_released_form_gives_the_released_number_of_samples():
    for frames in (2, 7):
        length = frames * math.prod(CONFIG.upsample)
        for rate in CONFIG.rates:
            length = (length - 1) * rate
        codes = jax.ShapeDtypeStruct((1, frames, 3), jnp.int32)
        for trim, samples in (("both", length), ("right", frames * 48)):
            config = CodecConfig(code2wav=dataclasses.replace(CONFIG, trim=trim))
            out, _ = jax.eval_shape(decode_once(config), codes)
            assert out.shape == (1, samples)
