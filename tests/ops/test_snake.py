"""`sine_squared` is sin(z)^2, and its gradient sin(2 z)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.ops.snake import sine_squared


@pytest.mark.parametrize("reach", [2.0, 100.0, 10_000.0])
def test_values_and_gradients_are_those_of_the_sine(reach):
    z = np.random.default_rng(0).uniform(-reach, reach, 20_000).astype(np.float32)
    z = np.concatenate([z, np.float32(np.pi / 2) * np.arange(-9, 10, dtype=np.float32)])
    exact = z.astype(np.float64)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(sine_squared)))(jnp.asarray(z))
    np.testing.assert_allclose(values, np.sin(exact) ** 2, atol=1e-6)
    np.testing.assert_allclose(gradients, np.sin(2 * exact), atol=2e-6)


def test_a_second_derivative_exists():
    curvature = jax.vmap(jax.grad(jax.grad(sine_squared)))(jnp.linspace(-3, 3, 101))
    np.testing.assert_allclose(curvature, 2 * np.cos(2 * np.linspace(-3, 3, 101)), atol=1e-4)
