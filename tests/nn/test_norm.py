"""Norms work in float32 and have finite gradients at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.nn import GatedRMSNorm, RMSNorm
from omnijax.nn.norm import l2_norm

X = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)


@pytest.mark.parametrize("zero_centred", [True, False])
def test_an_rms_norm_starts_as_division_by_the_root_mean_square(zero_centred):
    norm = RMSNorm(zero_centred=zero_centred)
    params = norm.init(jax.random.key(0), jnp.asarray(X))
    assert params["params"]["scale"].sum() == (0 if zero_centred else 8)
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm.apply(params, jnp.asarray(X)), expected, rtol=1e-5)


def test_a_bfloat16_norm_computes_in_float32():
    x = (300 + jnp.asarray(X)).astype(jnp.bfloat16)
    norm = RMSNorm(dtype="bfloat16")
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    exact = np.asarray(x, np.float32)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(out, np.float32), exact.astype(jnp.bfloat16))


def test_the_gated_norm_s_gate_comes_after_the_norm():
    norm, gate = GatedRMSNorm(), X[::-1].copy()
    params = norm.init(jax.random.key(0), jnp.asarray(X), jnp.asarray(gate))
    expected = X / np.sqrt((X**2).mean(-1, keepdims=True) + 1e-6) * gate / (1 + np.exp(-gate))
    out = norm.apply(params, jnp.asarray(X), jnp.asarray(gate))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_gradients_at_zero_are_finite():
    zero = jnp.zeros((2, 8))
    for function in (l2_norm, lambda x: RMSNorm().apply({"params": {"scale": zero[0]}}, x)):
        assert np.isfinite(jax.grad(lambda x, f=function: f(x).sum())(zero)).all()
