"""optax's own suites over dcasgd_jax.

The suite has no snapshot to give, so the rules that need one are given the current weights: a
worker that is never late. `constant_delay` keeps its own snapshots and runs as it is.
"""

import optax
import pytest

from dcasgd_jax import constant_delay, dcasgd, delay_compensation
from tests.contract import optax_suite


def never_late(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Gives `tx` the current weights as the snapshot."""
    tx = optax.with_extra_args_support(tx)

    def update(updates, state, params=None, **extra_args):
        return tx.update(updates, state, params, stale_params=params, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def constant(learning_rate: optax.ScalarOrSchedule):
    return never_late(dcasgd(learning_rate, 0.04))


def adaptive(learning_rate: optax.ScalarOrSchedule):
    return never_late(
        dcasgd(learning_rate, 2.0, mean_square_decay=0.95, momentum=0.5, weight_decay=1e-6)
    )


def in_a_chain(learning_rate: optax.ScalarOrSchedule):
    return never_late(
        optax.chain(delay_compensation(0.04), optax.scale_by_learning_rate(learning_rate))
    )


def two_workers(learning_rate: optax.ScalarOrSchedule, lambda_: float = 0.0):
    # At the suite's step, Rosenbrock's curvature of 1,002 stands just beyond the closed-form limit
    # of two uncompensated workers, x < 1: hence the half.
    tx = dcasgd(learning_rate, lambda_, mean_square_decay=0.95)
    return constant_delay(optax.chain(tx, optax.scale(0.5)), 1)


def two_workers_compensated(learning_rate: optax.ScalarOrSchedule):
    return two_workers(learning_rate, 2.0)


FACTORIES = {
    "dcasgd-c": constant,
    "dcasgd-a": adaptive,
    "delay_compensation": in_a_chain,
    "constant_delay-asgd": two_workers,
    "constant_delay-dcasgd-a": two_workers_compensated,
}


@pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
def test_common_suite(monkeypatch, case):
    optax_suite.run_case(monkeypatch, FACTORIES, case)


def test_sharding_suite():
    optax_suite.run_sharding("tests.contract.test_dcasgd_jax:FACTORIES")


def test_dcasgd_is_annotated_for_learning_rate_schedules():
    """What makes optax's suite, and users' tools, pass schedules to it."""
    assert dcasgd.__annotations__["learning_rate"] == optax.ScalarOrSchedule
