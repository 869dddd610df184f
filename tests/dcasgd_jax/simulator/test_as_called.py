"""`simulate` as users call it: with new closures, numbers and schedules, and nothing to compile."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import (
    SendingRule,
    curvature_compensation,
    dcasgd,
    gamma_times,
    hessian,
    round_robin,
    running_average,
    simulate,
)
from tests.compiled import counting_compilations
from tests.dcasgd_jax.networks import batches_of, loss, weights_of

SIZES, STEPS, WORKERS = (4, 3), 24, 4


def data(seed):
    rng = np.random.default_rng(seed)
    return weights_of(SIZES, rng), batches_of(STEPS, 3, SIZES, rng)


def cluster(seed):
    return gamma_times(WORKERS, STEPS, seed=seed, variation=0.5)


def compensated(rate, strength, momentum):
    return dcasgd(rate, strength, mean_square_decay=0.9, momentum=momentum, weight_decay=rate / 10)


def call(seed, rate, engine="auto", **options):
    """Everything that can be new is new; the final weights, computed by now."""
    params, batches = data(seed)
    gradient = jax.grad(lambda w, batch: loss(w, batch))
    tx = compensated(rate, 2 * rate, 0.5 + rate)
    got, _ = simulate(gradient, params, tx, cluster(seed), batches, engine=engine, **options)
    return jax.block_until_ready(got)


@pytest.mark.parametrize("engine", ["auto", "slots", "wavefront"])
def test_a_sweep_over_rates_seeds_and_schedules_compiles_once(engine):
    call(0, 0.1, engine)
    with counting_compilations() as counts:
        again = call(0, 0.1, engine)
        moved = [call(seed, rate, engine) for seed, rate in ((0, 0.2), (1, 0.1))]
        np.testing.assert_array_equal(again[0], call(0, 0.1, engine)[0])
    # Of two waves' widths the schedules may have different ones: another program of chunks.
    assert sum(counts.values()) <= (1 if engine == "wavefront" else 0), counts
    assert all(np.abs(again[0] - other[0]).max() > 1e-4 for other in moved)


def test_what_is_compiled_once_is_each_call_of_its_own():
    """Against the same call compiled by itself, where nothing is shared."""
    for seed, rate in ((0, 0.1), (0, 0.3), (2, 0.2)):
        params, batches = data(seed)
        tx = compensated(rate, 2 * rate, 0.5 + rate)
        alone, _ = jax.jit(
            lambda w, b, tx=tx, seed=seed: simulate(jax.grad(loss), w, tx, cluster(seed), b)
        )(params, batches)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            call(seed, rate), alone,
        )  # fmt: skip


def run(gradient, tx, **options):
    batches = options.pop("batches", jnp.arange(12.0))
    w, info = simulate(gradient, jnp.ones(2), tx, round_robin(3, 12), batches, **options)
    return np.asarray(w), info


def test_what_differs_in_more_than_numbers_is_another_program():
    """Losses, structure, captured arrays, whole numbers, signs of zero, and shapes of captures."""
    sgd = lambda: optax.sgd(0.1)  # noqa: E731
    losses = [lambda w, b: w * b, lambda w, b: w + b, lambda w, b: 2.0 * w * b]
    found = [run(g, sgd())[0] for g in losses]
    assert len({w.tobytes() for w in found}) == len(losses)

    def capturing(array):
        return run(lambda w, b: w + array, sgd())[0]

    assert np.ptp(capturing(jnp.array([0.0, 1.0]))) > 0.1
    assert np.ptp(capturing(jnp.array([1.0]))) < 1e-6
    angles = [run(lambda w, b, z=z: jnp.arctan2(0 * w, z), sgd())[0] for z in (0.0, -0.0)]
    assert angles[0][0] == 1.0
    assert abs(angles[1][0] - 1.0) > 0.3


def test_every_function_of_a_run_is_data():
    """The key that batches are drawn with, what is sent, and how averages are kept."""

    def one(number):
        key = jax.random.key(number)

        def gradient(w, state, batch):
            return jax.grad(lambda w: jnp.sum((w - batch) ** 2))(w), {"mean": batch.mean()[None]}

        half = jnp.asarray(0.5 + 0.1 * number, jnp.float32)
        tx = optax.with_extra_args_support(optax.sgd(0.1 + 0.05 * number))
        w, info = run(
            gradient,
            SendingRule(tx, lambda params, _: half * params),
            batches=lambda step: jax.random.normal(jax.random.fold_in(key, step), (2,)),
            model_state={"mean": jnp.zeros(1)},
            merge=running_average(0.5 + 0.1 * number),
        )
        return *w, *np.asarray(info.state.model_state["mean"])

    first = one(1)
    with counting_compilations() as counts:
        assert one(1) == first
        assert not np.isclose(one(2), first).any()
    assert not counts


def test_a_rule_that_holds_the_loss_is_compiled_once():
    def one(scale):
        gradient = jax.grad(lambda w, b: jnp.sum(scale * (w - b) ** 2))
        return run(gradient, optax.chain(curvature_compensation(hessian(gradient)), optax.sgd(0.1)))

    first, _ = one(jnp.float32(0.5))
    with counting_compilations() as counts:
        second, _ = one(jnp.float32(0.25))
    assert not counts
    assert np.abs(first - second).max() > 1e-3


def test_injected_hyperparameters_and_callbacks_keep_their_meaning():
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    plain = run(lambda w, b: w - b, optax.sgd(0.1))[0]
    np.testing.assert_allclose(run(lambda w, b: w - b, tx)[0], plain, rtol=1e-6)

    def noting(seen):
        def gradient(w, b):
            jax.debug.callback(seen.append, b)
            return w - b

        return gradient

    for _ in range(2):  # the second call's list is another, though all else is the same
        seen = []
        run(noting(seen), optax.sgd(0.1))
        jax.effects_barrier()
        assert len(seen) == 12


def test_numbers_may_be_traced_though_nothing_else_is():
    def train(rate):
        return simulate(
            lambda w, b: w - b, jnp.ones(2), optax.sgd(rate), round_robin(3, 12), jnp.arange(12.0)
        )[0]

    many = jax.vmap(train)(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(many[1], train(0.2), rtol=1e-6)
