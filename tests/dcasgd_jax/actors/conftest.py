"""Fixtures of the tests of actors."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_as_users_do():
    """Actors compile in processes of their own, and are compared with what this one compiles."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
