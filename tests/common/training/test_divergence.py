"""Runs whose loss is not finite: they stop, or fail if asked to, and the last good state stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.training import (
    DivergedError,
    Execution,
    Keys,
    TrainState,
    fit,
)
from common.training.checkpoints import Checkpoints
from tests.common.training.small_problem import KEYS, RUN_KEYS


def noisy_step(bad_step):
    """A step whose loss is NaN from `bad_step` on; of run r, from `bad_step + r` on."""

    def step(state, batch, key):
        del batch, key
        value = jnp.where(state.step >= bad_step + state.params, jnp.nan, 1.0)
        info = type("Info", (), {"loss": value})
        return TrainState(state.params, (), (), state.step + 1), info

    return step


def test_a_single_run_stops_at_its_first_loss_that_is_not_finite():
    state = TrainState(jnp.asarray(0), (), (), jnp.zeros([], jnp.int32))
    accuracy = {"accuracy": np.asarray(0.1)}
    found = fit(
        noisy_step(7), state, jnp.zeros(20), keys=RUN_KEYS, batch_size=4,
        epochs=4, evaluate=lambda _: accuracy, execution=Execution(chunk=2),
    )  # fmt: skip
    assert found.diverged_at == 7
    assert int(found.state.step) == 9  # the end of the chunk that step 7 is in
    np.testing.assert_array_equal(found.curve["loss"], [1.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(found.curve["accuracy"], [0.1, np.nan, np.nan, np.nan])


def test_many_runs_go_on_past_those_that_diverged():
    state = TrainState(jnp.asarray([0, 100]), (), (), jnp.zeros([2], jnp.int32))
    keys = jnp.stack([KEYS.order, KEYS.order])
    found = fit(noisy_step(3), state, jnp.zeros(20), keys=Keys(keys, keys), batch_size=4, epochs=2)
    np.testing.assert_array_equal(found.diverged_at, [3, -1])
    np.testing.assert_array_equal(found.curve["loss"], [[np.nan, 1.0], [np.nan, 1.0]])


def stepping_into_nan(bad_step, *, on_divergence="stop", **options):
    """A run whose loss is NaN at step `bad_step`, the first, and whose state is from there on."""

    def step(state, batch, key):
        del batch, key
        bad = state.step >= bad_step
        params = jnp.where(bad, jnp.nan, state.params + 1)
        info = type("Info", (), {"loss": jnp.where(bad, jnp.nan, state.params)})
        return TrainState(params, (), (), state.step + 1), info

    state = TrainState(jnp.zeros([]), (), (), jnp.zeros([], jnp.int32))
    settings = {"keys": RUN_KEYS, "batch_size": 4, "epochs": 2}
    execution = Execution(chunk=2, on_divergence=on_divergence)
    return fit(step, state, jnp.zeros(20), execution=execution, **(settings | options))


@pytest.mark.parametrize("many", [False, True])
def test_weights_that_the_last_step_breaks_have_diverged(many):
    """The loss is that before the step, so no loss tells."""

    def step(state, batch, key):
        del batch, key
        params = jnp.where(state.step == 4, state.params * jnp.nan, state.params)
        info = type("Info", (), {"loss": jnp.ones([])})
        return TrainState(params, (), (), state.step + 1), info

    start, keys = jnp.zeros(3), RUN_KEYS
    if many:  # the second never reaches the step at which the first breaks
        start = jnp.stack([start, start])
        keys = Keys(*(jnp.stack([key, key]) for key in RUN_KEYS))
    first = jnp.asarray([0, 100])[: len(start)] if many else jnp.asarray(0)
    state = TrainState(start, (), (), first.astype(jnp.int32))
    settings = {"keys": keys, "batch_size": 4, "epochs": 1}
    accuracy = {"accuracy": np.full(first.shape, 0.1)}
    found = fit(step, state, jnp.zeros(20), evaluate=lambda _: accuracy, **settings)
    np.testing.assert_array_equal(found.diverged_at, [4, -1] if many else 4)
    wanted = [[np.nan, 0.1]] if many else [np.nan]
    np.testing.assert_array_equal(found.curve["accuracy"], wanted)
    with pytest.raises(DivergedError, match="at step 4"):
        fit(
            step, state, jnp.zeros(20), execution=Execution(on_divergence="raise"), **settings
        )  # fmt: skip


def test_divergence_is_an_error_where_it_is_asked_for(tmp_path):
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(DivergedError, match=r"at step 7 .* it is not; take a smaller") as found,
    ):
        stepping_into_nan(7, checkpoints=checkpoints, on_divergence="raise")
    assert found.value.step == 7
    keys = jnp.stack([KEYS.order, KEYS.order])
    state = TrainState(jnp.asarray([0, 100]), (), (), jnp.zeros([2], jnp.int32))
    with pytest.raises(DivergedError, match="at step 3"):
        fit(
            noisy_step(3), state, jnp.zeros(20), keys=Keys(keys, keys), batch_size=4, epochs=2,
            execution=Execution(on_divergence="raise"),
        )  # fmt: skip


def test_the_last_good_checkpoint_outlives_divergence(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        whole = stepping_into_nan(7, checkpoints=checkpoints)
    assert whole.diverged_at == 7
    with Checkpoints(tmp_path) as checkpoints:
        good = checkpoints.restore(whole.state)
        assert (good.step, float(good.state.params)) == (7, 7.0)
        again = stepping_into_nan(7, checkpoints=checkpoints)
    jax.tree.map(np.testing.assert_array_equal, again, whole)


def test_of_many_runs_those_that_diverged_are_saved_with_the_others(tmp_path):
    keys = jnp.stack([KEYS.order, KEYS.order])

    def run(epochs):
        def step(state, batch, key):
            params = jnp.where(state.params > 100, jnp.nan, state.params + 1)
            info = type("Info", (), {"loss": params})
            return TrainState(params, (), (), state.step + 1), info

        state = TrainState(jnp.asarray([0.0, 99.0]), (), (), jnp.zeros([2], jnp.int32))
        with Checkpoints(tmp_path / str(epochs[0])) as checkpoints:
            for last in epochs:
                found = fit(
                    step, state, jnp.zeros(8), keys=Keys(keys, keys), batch_size=4, epochs=last,
                    checkpoints=checkpoints,
                )  # fmt: skip
        return found

    whole, resumed = run([3]), run([2, 3])
    np.testing.assert_array_equal(whole.diverged_at, [-1, 2])
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
