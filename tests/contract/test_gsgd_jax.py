"""optax's own suites over gsgd_jax.

The suite's targets are no networks, so here it meets `in_path_space` with no group; its checks are
repeated in a real path space in test_gsgd_in_path_space.py.
"""

import optax
import pytest

from gsgd_jax import gsgd, in_path_space
from tests.contract import optax_suite


def g_sgd(learning_rate: optax.ScalarOrSchedule, skeleton=None):
    return gsgd(learning_rate, skeleton)


def g_momentum(learning_rate: optax.ScalarOrSchedule, skeleton=None):
    return gsgd(learning_rate, skeleton, momentum=0.9, nesterov=True)


# The default eps of 1e-8 is zero in float16, and zero over zero not a number.
def g_adam(learning_rate: optax.ScalarOrSchedule, skeleton=None):
    return in_path_space(optax.adam(learning_rate, eps=1e-6), skeleton)


def g_rmsprop(learning_rate: optax.ScalarOrSchedule, skeleton=None):
    return in_path_space(optax.rmsprop(learning_rate, eps=1e-6), skeleton, max_ratio=None)


FACTORIES = {"gsgd": g_sgd, "g-momentum": g_momentum, "g-adam": g_adam, "g-rmsprop": g_rmsprop}


@pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
def test_common_suite(monkeypatch, case):
    optax_suite.run_case(monkeypatch, FACTORIES, case)


def test_sharding_suite():
    optax_suite.run_sharding("tests.contract.test_gsgd_jax:FACTORIES")


def test_gsgd_is_annotated_for_learning_rate_schedules():
    """What makes optax's suite, and users' tools, pass schedules to it."""
    assert gsgd.__annotations__["learning_rate"] == optax.ScalarOrSchedule
