"""Code2Wav: it is causal, exact in length, and every one of its parts is used."""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.models.codec import Codec
from omnijax.models.codec.convolution import DownConv, UpConv

sys.path.insert(0, str(Path(__file__).parent))
import tiny_codec as tiny  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")

FRAMES, SAMPLES = 9, 48


@pytest.fixture(scope="module")
def params():
    return tiny.params(tiny.MODEL)


@pytest.fixture(scope="module")
def decode():
    return jax.jit(lambda params, codes: tiny.MODEL.apply(params, codes, method="decode"))


def test_a_sample_depends_on_its_own_frame_and_on_those_before_it_only(params, decode):
    codes = tiny.codes(1, FRAMES)
    before = np.asarray(decode(params, codes))
    assert before.shape == (1, FRAMES * SAMPLES)
    assert np.abs(before).max() < 1 and before.std() > 0.01  # nothing is hidden by the clipping
    for frame in (0, 4, FRAMES - 1):
        changed = codes.copy()
        changed[:, frame] = (changed[:, frame] + 1) % 11
        after = np.asarray(decode(params, changed))
        different = np.flatnonzero(np.abs(after - before)[0] > 1e-6)
        assert different[0] == frame * SAMPLES  # its frame's very first sample


def test_the_form_that_trims_both_ends_looks_ahead(params):
    model = Codec(tiny.config(trim="both"))
    decode = jax.jit(lambda params, codes: model.apply(params, codes, method="decode"))
    codes = tiny.codes(1, FRAMES)
    changed = codes.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    before, after = np.asarray(decode(params, codes)), np.asarray(decode(params, changed))
    assert before.shape[1] < FRAMES * SAMPLES
    assert (
        np.flatnonzero(np.abs(after - before)[0] > 1e-6)[0] == 4 * SAMPLES - 15
    )  # a step of 12 samples and one of 3


def test_every_parameter_of_code2wav_gets_a_gradient_and_no_codebook_does(params):
    codes = jnp.asarray(tiny.codes(2, FRAMES))

    def loss(params):
        return jnp.mean(jnp.square(tiny.MODEL.apply(params, codes, method="decode") - 0.3))

    grads = jax.jit(jax.grad(loss))(params)["params"]
    silent = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads["code2wav"])
        if not np.abs(grad).max() > 0
    ]
    assert not silent
    assert not np.any(grads["quantiser"]["codebooks"])
    assert np.any(grads["quantiser"]["semantic_out"]) and np.any(grads["quantiser"]["acoustic_out"])


def test_layers_scanned_equal_layers_unrolled(params, decode):
    config = tiny.config()
    unrolled = dataclasses.replace(config.code2wav.transformer, scan_layers=False)
    code2wav = dataclasses.replace(config.code2wav, transformer=unrolled)
    model = Codec(dataclasses.replace(config, code2wav=code2wav))
    codes = tiny.codes(1, FRAMES)
    out = jax.jit(lambda params, codes: model.apply(params, codes, method="decode"))(params, codes)
    np.testing.assert_allclose(out, decode(params, codes), atol=1e-5)


def test_a_strided_convolution_equals_the_sum_that_defines_it():
    x = np.random.default_rng(0).standard_normal((1, 12, 2)).astype(np.float32)
    layer = DownConv(3, 4)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    kernel = np.asarray(params["params"]["kernel"])
    padded = np.concatenate([np.zeros((4, 2)), x[0]])
    expected = [np.einsum("kd,kdf->f", padded[4 * t : 4 * t + 8], kernel) for t in range(3)]
    y, past = jax.jit(layer.apply)(params, x)
    np.testing.assert_allclose(y[0], expected, atol=1e-5)
    np.testing.assert_array_equal(past[0], x[0, -4:])


def test_lengths_that_no_stride_divides_are_refused():
    x = jnp.zeros((1, 5, 2))
    with pytest.raises(ValueError, match="5 positions are not a multiple of the stride 4"):
        DownConv(3, 4).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="7 taps are not a multiple of the stride 4"):
        UpConv(3, 4, 7).init(jax.random.key(0), x)
