"""Fixtures of the path-space tests."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Without checked annotations, as users run the package: the errors met are its own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
