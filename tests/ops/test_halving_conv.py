import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.ops.halving_conv import halving_conv


def definition(x, kernel):
    """out[i, j] = sum over taps of x[2i + r - 1, 2j + c - 1] kernel[r, c], zeros outside."""
    rows, columns = (-(-n // 2) for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 2), (1, 2), (0, 0)))
    return sum(
        x[:, r : r + 2 * rows : 2, c : c + 2 * columns : 2] @ kernel[r, c]
        for r in range(3)
        for c in range(3)
    )


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4), (25, 13), (2, 1)])
def test_values_and_gradients_equal_the_definition(size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def run(conv):
        def loss(x, kernel):
            out = conv(x, kernel)
            return jnp.sum(jnp.sin(out)), out

        (_, out), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, kernel)
        return out, *gradients

    for a, b in zip(run(halving_conv), run(definition), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
