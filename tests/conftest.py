"""What tests of several folders share."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compile():
    """For tests that compile for longer than they run: XLA's least effort."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
