"""Batches: permutations that depend on the key alone, and are those of the training loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import batches, epoch_order
from common.training import Keys, StepInfo, fit, init_state

KEY = jax.random.key(3)


def flat(iterator):
    return [batch.tolist() for batch in iterator]


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    size=st.integers(1, 12),
    batch_size=st.integers(1, 12),
    epochs=st.integers(0, 3),
    ordered=st.booleans(),
    dropped=st.booleans(),
)
def test_every_epoch_is_a_permutation_cut_into_batches(size, batch_size, epochs, ordered, dropped):
    data = {"number": np.arange(size), "row": np.arange(2 * size).reshape(size, 2)}
    key = None if ordered else KEY
    if batch_size > size:
        with pytest.raises(ValueError, match="take smaller batches"):
            batches(data, batch_size, key=key)
        return
    got = list(batches(data, batch_size, key=key, epochs=epochs, drop_remainder=dropped))
    each = size // batch_size if dropped else -(-size // batch_size)
    assert len(got) == each * epochs
    for epoch in range(epochs):
        own = got[epoch * each : (epoch + 1) * each]
        order = np.arange(size) if ordered else epoch_order(KEY, size, epoch=epoch)
        assert sorted(order) == list(range(size))
        seen = np.concatenate([batch["number"] for batch in own])
        np.testing.assert_array_equal(seen, order[: each * batch_size])
        for batch in own:
            np.testing.assert_array_equal(batch["row"][:, 0], 2 * batch["number"])


def test_an_epoch_visits_every_example_once():
    got = flat(batches(np.arange(10), 3, key=KEY, drop_remainder=False))
    assert [len(batch) for batch in got] == [3, 3, 3, 1]
    assert sorted(itertools.chain(*got)) == list(range(10))


def test_the_short_batch_is_dropped_by_default():
    whole = flat(batches(np.arange(10), 3, key=KEY, drop_remainder=False))
    assert flat(batches(np.arange(10), 3, key=KEY)) == whole[:3]


def test_epochs_differ_and_the_key_repeats_them():
    two = flat(batches(np.arange(8), 8, key=KEY, epochs=2))
    assert len(two) == 2
    assert two[0] != two[1]
    assert flat(batches(np.arange(8), 8, key=KEY, epochs=2)) == two
    assert flat(batches(np.arange(8), 8, key=jax.random.key(4), epochs=2)) != two


def test_the_order_does_not_depend_on_the_data_or_the_batch_size():
    ones = flat(batches(np.arange(6), 1, key=KEY))
    threes = flat(batches(np.arange(6) + 100, 3, key=KEY))
    assert list(itertools.chain(*ones)) == [n - 100 for n in itertools.chain(*threes)]


def test_stored_order_without_a_key():
    assert flat(batches(np.arange(4), 2, key=None, epochs=2)) == [[0, 1], [2, 3]] * 2


def test_pytrees_of_either_library_stay_together():
    data = {"x": np.arange(6)[:, None] * 10, "y": jnp.arange(6)}
    for batch in batches(data, 2, key=KEY):
        assert isinstance(batch["x"], np.ndarray)
        assert isinstance(batch["y"], jax.Array)
        np.testing.assert_array_equal(batch["x"][:, 0], 10 * np.asarray(batch["y"]))


def test_it_is_the_order_of_the_training_loop():
    def step(state, batch, key):
        seen = state.params.at[state.step].set(batch)
        return state._replace(params=seen, step=state.step + 1), StepInfo(jnp.zeros([]), {})

    state = init_state(jnp.zeros((6, 3), jnp.int32), optax.identity())
    fitted = fit(step, state, jnp.arange(10), keys=Keys(KEY, KEY), batch_size=3, epochs=2)
    expected = flat(batches(np.arange(10), 3, key=KEY, epochs=2))
    np.testing.assert_array_equal(fitted.state.params, expected)


def test_epoch_order_is_a_permutation_of_its_own():
    orders = [epoch_order(KEY, 7, epoch=epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("batch_size", [0, 5])
def test_refuses_batches_that_do_not_fit(batch_size):
    with pytest.raises(
        ValueError, match=f"between 1 and the 4 examples there are, got {batch_size}"
    ):
        batches(np.arange(4), batch_size, key=None)  # at the call, not at the first batch


def test_refuses_leaves_that_do_not_belong_together():
    with pytest.raises(ValueError, match="share their leading axis"):
        batches((np.arange(4), np.arange(5)), 2, key=None)
    with pytest.raises(ValueError, match=r"one entry per example, got shapes \[\(\)\]"):
        batches(np.float32(1.0), 2, key=None)
