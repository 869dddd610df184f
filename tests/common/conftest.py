"""Fixtures of the tests of what experiments share."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_as_users_do():
    """Residual networks are long at work, and runs are compared to the bit."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
