"""optax's own suites over the peers of delay compensation.

The suite has no schedule to give, so a worker that is never late pushes every gradient: the
snapshot is the current weights. A `SendingRule` is a transformation and what it sends; it is the
transformation that runs here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import SendingRule, peers
from tests.contract import optax_suite


def never_late(rule: optax.GradientTransformation | SendingRule):
    """Gives a rule the arguments that a server would, for one worker alone."""
    tx = optax.with_extra_args_support(rule.tx if isinstance(rule, SendingRule) else rule)

    def update(updates, state, params=None, **extra_args):
        given = {"stale_params": params, "staleness": 0, "worker": 0}
        return tx.update(updates, state, params, **given | extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


def before(link: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule):
    return never_late(optax.chain(link, optax.scale_by_learning_rate(learning_rate)))


def staleness_aware(learning_rate: optax.ScalarOrSchedule):
    return before(peers.staleness_aware(), learning_rate)


def delay_adaptive(learning_rate: optax.ScalarOrSchedule):
    return before(peers.delay_adaptive(4), learning_rate)


def gap_aware(learning_rate: optax.ScalarOrSchedule):
    return before(peers.gap_aware(patent_acknowledged=True), learning_rate)


def dana_slim(learning_rate: optax.ScalarOrSchedule):
    return before(peers.dana_slim(num_workers=2, momentum=0.3), learning_rate)


def dana_zero(learning_rate: optax.ScalarOrSchedule):
    return never_late(peers.dana_zero(learning_rate, num_workers=2, momentum=0.3))


def delayed_nesterov(learning_rate: optax.ScalarOrSchedule):
    return before(peers.delayed_nesterov(2, momentum=0.3, spread=0.25), learning_rate)


def delay_corrected_nesterov(learning_rate: optax.ScalarOrSchedule):
    return before(peers.delay_corrected_nesterov(momentum=0.5), learning_rate)


def gathers(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    # Two gradients a step, so twice the step for as many updates.
    return optax.chain(optax.sgd(learning_rate, momentum=0.3), optax.scale(2 * (1 - 0.3)))


def rennala(learning_rate: optax.ScalarOrSchedule):
    return never_late(peers.rennala(gathers(learning_rate), 2))


def fedbuff(learning_rate: optax.ScalarOrSchedule):
    return never_late(peers.fedbuff(gathers(learning_rate), 2))


def weighted_aggregation(learning_rate: optax.ScalarOrSchedule):
    return peers.weighted_aggregation(gathers(learning_rate), 2)


def ringmaster(learning_rate: optax.ScalarOrSchedule):
    return never_late(peers.ringmaster(optax.sgd(learning_rate), 2))


def error_feedback(learning_rate: optax.ScalarOrSchedule):
    return peers.error_feedback(optax.sgd(learning_rate), 1, strength=0.1)


def weight_prediction(learning_rate: optax.ScalarOrSchedule):
    return never_late(peers.weight_prediction(optax.sgd(learning_rate, momentum=0.3), 2))


FACTORIES = {
    factory.__name__: factory
    for factory in (
        staleness_aware,
        delay_adaptive,
        gap_aware,
        dana_slim,
        dana_zero,
        delayed_nesterov,
        delay_corrected_nesterov,
        rennala,
        ringmaster,
        fedbuff,
        weighted_aggregation,
        error_feedback,
        weight_prediction,
    )
}


@pytest.mark.parametrize("case", optax_suite.cases(FACTORIES))
def test_common_suite(monkeypatch, case):
    optax_suite.run_case(monkeypatch, FACTORIES, case)


def test_sharding_suite():
    optax_suite.run_sharding("tests.contract.test_dcasgd_peers:FACTORIES")


STEPS, SEEDS = 6, 2
ARRIVALS = {"worker": jnp.array([0, 1, 0, 0, 1, 0]), "staleness": jnp.array([0, 1, 1, 0, 2, 1])}


def trained(tx, params, gradients):
    """The weights after one update a gradient, whose leading axis is the step."""

    def step(carry, arrival):
        w, state = carry
        given, g = arrival
        u, state = tx.update(g, state, w, stale_params=params, **given)
        return (optax.apply_updates(w, u), state), u

    (w, _), updates = jax.lax.scan(step, (params, tx.init(params)), (ARRIVALS, gradients))
    return w, updates


@pytest.mark.parametrize("name", FACTORIES)
def test_scanned_vmapped_and_masked_is_one_step_after_another(name):
    tx = optax.with_extra_args_support(FACTORIES[name](0.1))
    shown = {"f": jnp.array([1.0, -2.0, 0.5]), "h": jnp.array([[2.0]], jnp.bfloat16)}
    keys = iter(jax.random.split(jax.random.key(0), 3))
    gradients = {
        leaf: jax.random.normal(next(keys), (SEEDS, STEPS, *w.shape), w.dtype)
        for leaf, w in (shown | {"hidden": jnp.ones(2)}).items()
    }
    masked = optax.masked(tx, {"f": True, "h": True, "hidden": False})
    found, updates = jax.jit(
        jax.vmap(lambda g: trained(masked, shown | {"hidden": jnp.ones(2)}, g))
    )(gradients)
    np.testing.assert_array_equal(updates["hidden"], gradients["hidden"])
    for seed in range(SEEDS):
        w, state = shown, tx.init(shown)
        for t in range(STEPS):
            given = jax.tree.map(lambda column, t=t: int(column[t]), ARRIVALS)
            g = {leaf: gradients[leaf][seed, t] for leaf in shown}
            u, state = tx.update(g, state, w, stale_params=shown, **given)
            w = optax.apply_updates(w, u)
        assert not np.array_equal(w["f"], shown["f"])
        np.testing.assert_allclose(found["f"][seed], w["f"], rtol=1e-5, atol=1e-6)
        assert found["h"].dtype == w["h"].dtype == jnp.bfloat16
        halves = [jnp.asarray(h, jnp.float32) for h in (found["h"][seed], w["h"])]
        np.testing.assert_allclose(*halves, rtol=2e-2)


@pytest.mark.parametrize(
    ("make", "static", "hyperparameters"),
    [
        (peers.delay_adaptive, (), {"num_workers": 1.5}),
        (peers.gap_aware, ("patent_acknowledged",), {"decay": 0.5, "patent_acknowledged": True}),
        (peers.dana_slim, ("num_workers",), {"momentum": 0.5, "num_workers": 2}),
        (
            peers.delay_corrected_nesterov,
            (),
            {"momentum": 0.9, "momentum_decay": 0.1, "mean_square_decay": 0.99, "epsilon": 0.1},
        ),
        (peers.delayed_nesterov, ("period",), {"momentum": 0.5, "spread": 0.25, "period": 2}),
    ],
)
def test_hyperparameters_can_be_injected(make, static, hyperparameters):
    w = jnp.array([1.0, -2.0, 0.5])
    gradients = jax.random.normal(jax.random.key(1), (STEPS, 3))
    injected = optax.inject_hyperparams(make, static_args=static)(**hyperparameters)
    traced = {name for name in hyperparameters if name not in static}
    assert set(injected.init(w).hyperparams) == traced
    found, due = (
        jax.jit(trained, static_argnums=0)(tx, w, gradients)[0]
        for tx in (injected, make(**hyperparameters))
    )
    np.testing.assert_allclose(found, due, rtol=1e-5)
