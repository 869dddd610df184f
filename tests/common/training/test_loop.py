"""The training loop: against a plain Python loop, scanned or driven, one run or many."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.seeds import streams
from common.training import (
    Execution,
    Keys,
    fit,
    init_state,
    train_step,
)
from common.training.checkpoints import Checkpoints
from common.training.classification import (
    classification_metrics,
    cross_entropy_loss,
    evaluator,
)
from common.training.layouts import layout
from tests.common.training.small_problem import KEYS, RUN_KEYS, linear, problem


def plain_loop(params, data, tx, *, batch_size, epochs):
    """The pseudocode, one jitted gradient at a time."""
    inputs, labels = map(np.asarray, data)
    loss_fn = cross_entropy_loss(linear)
    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
    opt_state, n, losses = tx.init(params), len(labels), []
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(KEYS.order, epoch), n))
        for start in range(0, n - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            batch = (jnp.asarray(inputs[rows]), jnp.asarray(labels[rows]))
            losses.append(float(loss_fn(params, (), batch, KEYS.noise)[0]))
            grads, _ = grad_fn(params, (), batch, KEYS.noise)
            updates, opt_state = tx.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    return params, np.reshape(losses, (epochs, -1)).mean(axis=1)


def trained(tx, *, params=None, **options):
    start, data = problem()
    start = start if params is None else params
    settings = {"keys": RUN_KEYS, "batch_size": 8, "epochs": 3}
    step = train_step(cross_entropy_loss(linear), tx)
    return fit(step, init_state(start, tx), data, **(settings | options))


@pytest.mark.parametrize("loop", ["scan", "driven", "auto"])
@pytest.mark.parametrize("chunk", [250, 4, 1])
def test_fit_is_the_plain_loop(loop, chunk):
    params, data = problem()
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    wanted, losses = plain_loop(params, data, tx, batch_size=8, epochs=3)
    found = trained(tx, execution=Execution(loop=loop, chunk=chunk))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found.state.params, wanted
    )
    np.testing.assert_allclose(found.curve["loss"], losses, rtol=1e-5)
    np.testing.assert_array_equal(found.curve["epoch"], [1, 2, 3])
    assert int(found.state.step) == 3 * (53 // 8)
    assert found.diverged_at == -1


@pytest.mark.usefixtures("standard_promotion")
def test_the_chunk_length_changes_no_bit():
    executions = [Execution(chunk=chunk) for chunk in (1, 2, 4, 250)]
    results = [trained(optax.adam(0.01), execution=how).state.params for how in executions]
    for other in results[1:]:
        jax.tree.map(np.testing.assert_array_equal, results[0], other)


def test_the_callers_state_survives():
    tx = optax.sgd(0.1)
    params, data = problem()
    state = init_state(params, tx)
    step = train_step(cross_entropy_loss(linear), tx)
    fit(step, state, data, keys=RUN_KEYS, batch_size=8, epochs=1)
    np.testing.assert_array_equal(state.params["b"], np.zeros(3))


def test_many_runs_are_the_single_runs():
    params, data = problem()
    rates = jnp.asarray([0.01, 0.1, 0.5])
    orders = jnp.stack([streams(seed).order for seed in range(3)])

    def start(rate):
        return init_state(params, optax.inject_hyperparams(optax.sgd)(learning_rate=rate))

    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
    step = train_step(cross_entropy_loss(linear), tx)
    score = evaluator(classification_metrics(linear), data, many_runs=True)
    many = fit(
        step, jax.vmap(start)(rates), data, keys=Keys(orders, orders), batch_size=8, epochs=2,
        evaluate=score,
    )  # fmt: skip
    assert many.curve["accuracy"].shape == (2, 3)
    for i in range(3):
        one = fit(
            step, start(rates[i]), data, keys=Keys(orders[i], orders[i]), batch_size=8, epochs=2,
            evaluate=evaluator(classification_metrics(linear), data),
        )  # fmt: skip
        np.testing.assert_allclose(many.state.params["w"][i], one.state.params["w"], rtol=1e-5)
        np.testing.assert_allclose(many.curve["loss"][:, i], one.curve["loss"], rtol=1e-5)
        np.testing.assert_allclose(many.curve["accuracy"][:, i], one.curve["accuracy"])


@pytest.mark.parametrize(("at_once", "sizes"), [(2, {2}), (3, {2, 3}), (4, {4}), (None, {4})])
def test_groups_of_runs_are_the_runs_side_by_side(at_once, sizes):
    params, data = problem()
    runs = 5 if at_once == 3 else 4
    orders = jnp.stack([streams(seed).order for seed in range(runs)])
    tx, seen = optax.sgd(0.1), []

    def start(scale):
        return init_state(jax.tree.map(lambda w: w * scale, params), tx)

    def evaluate(state):
        seen.append(len(state.params["w"]))
        return {"size": jnp.abs(state.params["w"]).sum((1, 2))}

    class Counter:
        total = 0.0

        def advance(self, amount=1.0, note=""):
            self.total += amount

    step, bar = train_step(cross_entropy_loss(linear), tx), Counter()
    states = jax.vmap(start)(jnp.arange(1.0, runs + 1))
    options = {"keys": Keys(orders, orders), "batch_size": 8, "epochs": 2}
    execution = Execution(at_once=at_once)
    found = fit(step, states, data, execution=execution, evaluate=evaluate, bar=bar, **options)
    assert set(seen) == sizes
    assert bar.total == pytest.approx(2)
    whole = fit(step, states, data, evaluate=evaluate, **options)
    assert found.curve.keys() == whole.curve.keys()
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_step_is_compiled_once_however_often_it_is_fitted():
    params, data = problem()
    traces = []

    def loss_fn(*args):
        traces.append(1)
        return cross_entropy_loss(linear)(*args)

    tx = optax.sgd(0.1)
    step = train_step(loss_fn, tx)
    for seed in range(3):
        for loop in ("scan", "driven"):
            keys = streams(seed)
            fit(
                step, init_state(params, tx), data, keys=Keys(keys.order, keys.noise),
                batch_size=8, epochs=1, execution=Execution(loop=loop),
            )  # fmt: skip
    assert len(traces) == 2


def test_auto_drives_convolutions_from_the_host_on_cpu(monkeypatch):
    scans = []
    scan = jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *a, **k: scans.append(1) or scan(*a, **k))

    def apply(params, images):
        return jax.lax.conv(images, params["k"], (1, 1), "SAME").mean((2, 3))

    data = (jnp.ones((8, 1, 4, 4)), jnp.zeros(8, jnp.int32))
    tx = optax.sgd(0.1)
    step = train_step(cross_entropy_loss(apply), tx)
    state = init_state({"k": jnp.ones((2, 1, 3, 3))}, tx)
    options = {"keys": RUN_KEYS, "batch_size": 4, "epochs": 1}
    fit(step, state, data, **options)
    assert not scans
    fit(step, state, data, execution=Execution(loop="scan"), **options)
    assert scans


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 54}, "between 1 and the 53 examples"),
        ({"batch_size": 0}, "between 1 and the 53 examples"),
        ({"keys": Keys(jnp.stack([KEYS.order]), KEYS.noise)}, "both be one key, or both an array"),
        ({"execution": Execution(at_once=0)}, "at_once must be None or at least 1 run, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(options, message):
    with pytest.raises(ValueError, match=message):
        trained(optax.sgd(0.1), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "at least 1 step"),
        ({"loop": "fast"}, "'auto', 'scan' or 'driven', got 'fast'"),
        ({"on_divergence": "hope"}, "'stop' or 'raise', got 'hope'"),
    ],
)
def test_no_run_can_be_carried_out_so(options, message):
    with pytest.raises(ValueError, match=message):
        Execution(**options)


def test_groups_have_no_checkpoints(tmp_path):
    params, data = problem()
    tx, keys = optax.sgd(0.1), jnp.stack([KEYS.order, KEYS.noise])
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), init_state(params, tx))
    with Checkpoints(tmp_path) as folder, pytest.raises(ValueError, match="got 2 runs of which 1"):
        fit(
            train_step(cross_entropy_loss(linear), tx), states, data, keys=Keys(keys, keys),
            batch_size=8, epochs=1, checkpoints=folder, execution=Execution(at_once=1),
        )  # fmt: skip


def test_data_of_unequal_length_or_not_finite_are_refused():
    tx = optax.sgd(0.1)
    params, (inputs, labels) = problem()
    step = train_step(cross_entropy_loss(linear), tx)
    bad = inputs.at[7, 1].set(jnp.nan).at[9, 0].set(jnp.inf)
    for data, message in (
        ((inputs, labels[1:]), "share their leading axis"),
        ((inputs, jnp.zeros([])), "share their leading axis"),
        ((bad, labels), r"in 2 of 53 examples, number 7 the first, of the array data\[0\]"),
        ({"x": np.asarray(bad)}, r"finite, .* of the array data\['x'\]; leave"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(
                step, init_state(params, tx), data, keys=RUN_KEYS,
                batch_size=4, epochs=1,
            )  # fmt: skip


def test_a_mesh_of_one_device_trains_as_no_mesh_does_and_batches_must_fit_one():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    found, plain = (trained(optax.sgd(0.1), execution=Execution(mesh=m)) for m in (mesh, None))
    jax.tree.map(np.testing.assert_array_equal, found.state.params, plain.state.params)
    wide = jax.sharding.AbstractMesh((3,), ("data",))
    with pytest.raises(ValueError, match=r"8 for 3 devices along 'data'; choose another"):
        layout(plain.state, wide, batch_size=8)
