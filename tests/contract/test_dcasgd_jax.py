"""optax's own suites over dcasgd_jax.

The suite has no snapshot to give, so the rules that need one are given the current weights: a
worker that is never late. `constant_delay` keeps its own snapshots and runs as it is.
"""

import optax
import pytest

from dcasgd_jax import constant_delay, dcasgd, delay_compensation
from dcasgd_jax.rules.curvature import curvature_compensation, outer_product
from dcasgd_jax.rules.hessian import hessian
from dcasgd_jax.rules.low_rank import low_rank_compensation
from dcasgd_jax.rules.rotated import rotated_compensation
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


def two_workers_apart(learning_rate: optax.ScalarOrSchedule):
    tx = dcasgd(learning_rate, 2.0, mean_square_decay=0.95, num_workers=2)
    return constant_delay(optax.chain(tx, optax.scale(0.5)), 1)


def ladder(learning_rate: optax.ScalarOrSchedule, rule: optax.GradientTransformation):
    return constant_delay(
        optax.chain(rule, optax.scale_by_learning_rate(learning_rate), optax.scale(0.5)), 1
    )


def low_rank(learning_rate: optax.ScalarOrSchedule):
    return ladder(learning_rate, low_rank_compensation(2))


def rotated(learning_rate: optax.ScalarOrSchedule):
    return ladder(learning_rate, rotated_compensation())


def by_outer_product(learning_rate: optax.ScalarOrSchedule):
    return ladder(learning_rate, curvature_compensation(outer_product, strength=1e-3))


def oracle(learning_rate: optax.ScalarOrSchedule):
    # The suite hands no batch on; one second derivative is as good as another to a late worker of
    # no delay.
    rule = curvature_compensation(hessian(lambda params, batch: params))
    tx = optax.chain(rule, optax.scale_by_learning_rate(learning_rate))

    def update(updates, state, params=None, **extra_args):
        return tx.update(updates, state, params, stale_params=params, batch=0, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


FACTORIES = {
    "dcasgd-c": constant,
    "dcasgd-a": adaptive,
    "delay_compensation": in_a_chain,
    "constant_delay-asgd": two_workers,
    "constant_delay-dcasgd-a": two_workers_compensated,
    "constant_delay-dcasgd-a-by-worker": two_workers_apart,
    "low_rank_compensation": low_rank,
    "rotated_compensation": rotated,
    "outer_product": by_outer_product,
    "hessian": oracle,
}


@pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
def test_common_suite(monkeypatch, case):
    optax_suite.run_case(monkeypatch, FACTORIES, case)


# The suite is of explicit axes. There jax asks how the matrix that a leaf of three axes becomes is
# sharded, which the rotated rule does not say; on automatic axes it follows by itself.
SHARDED = {name: make for name, make in FACTORIES.items() if name != "rotated_compensation"}


def test_sharding_suite():
    optax_suite.run_sharding("tests.contract.test_dcasgd_jax:SHARDED")


def test_dcasgd_is_annotated_for_learning_rate_schedules():
    """What makes optax's suite, and users' tools, pass schedules to it."""
    assert dcasgd.__annotations__["learning_rate"] == optax.ScalarOrSchedule
