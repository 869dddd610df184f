"""Fixtures of the path-space tests."""

import jax
import jaxtyping
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_as_users_do():
    """Path values are long products, and what is claimed of them is claimed of what users run."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def unchecked():
    """Without checked annotations, as users run the package: the errors met are its own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
