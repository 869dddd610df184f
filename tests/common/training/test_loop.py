"""The training loop: against a plain Python loop, scanned or driven, one run or many."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.networks import resnet
from common.seeds import streams
from common.training import (
    DivergedError,
    Execution,
    Keys,
    TrainState,
    fit,
    init_state,
    train_step,
)
from common.training.checkpoints import Checkpoints
from common.training.classification import (
    classification_metrics,
    cross_entropy_loss,
    evaluator,
    network_loss,
    network_metrics,
)
from common.training.layouts import layout

KEYS = streams(3)
RUN_KEYS = Keys(KEYS.order, KEYS.noise)


def linear(params, inputs):
    return inputs @ params["w"] + params["b"][None, :]


def problem(n=53):
    """A small classification problem, [n, 4] to 3 classes."""
    inputs = jax.random.normal(KEYS.data, (n, 4))
    labels = (inputs @ jnp.eye(4, 3)).argmax(-1)
    params = {"w": 0.1 * jax.random.normal(KEYS.init, (4, 3)), "b": jnp.zeros(3)}
    return params, (inputs, labels)


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


@pytest.mark.parametrize("batch_size", [1000, 10, 7])
def test_evaluation_counts_every_example_once(batch_size):
    params, data = problem()
    state = TrainState(params, (), (), jnp.zeros([], jnp.int32))
    score = evaluator(classification_metrics(linear), data, batch_size=batch_size, prefix="test_")
    inputs, labels = (np.asarray(a, np.float64) for a in data)
    logits = inputs @ np.asarray(params["w"], np.float64)
    entropy = np.log(np.exp(logits).sum(-1)) - logits[np.arange(53), labels.astype(int)]
    found = score(state)
    np.testing.assert_allclose(found["test_accuracy"], np.mean(logits.argmax(-1) == labels))
    np.testing.assert_allclose(found["test_cross_entropy"], entropy.mean(), rtol=1e-6)


def test_evaluation_needs_an_example():
    with pytest.raises(ValueError, match="at least one example"):
        evaluator(classification_metrics(linear), (jnp.zeros((0, 4)), jnp.zeros(0, jnp.int32)))


def test_a_network_with_running_averages_trains():
    network = resnet(8, num_classes=2, width=0.25)
    images = jax.random.normal(KEYS.data, (16, 8, 8, 3))
    data = (images, (images.mean((1, 2, 3)) > 0).astype(jnp.int32))
    variables = dict(jax.jit(network.init)(KEYS.init, images[:1]))
    params = variables.pop("params")
    tx = optax.sgd(0.1)
    found = fit(
        train_step(network_loss(network), tx), init_state(params, tx, variables), data,
        keys=RUN_KEYS, batch_size=8, epochs=3,
        evaluate=evaluator(network_metrics(network), data),
    )  # fmt: skip
    assert found.curve["loss"][-1] < found.curve["loss"][0]
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), found.state.model_state["batch_stats"],
        variables["batch_stats"],
    )  # fmt: skip
    assert all(jax.tree.leaves(moved))
    logits = network.apply({"params": found.state.params, **found.state.model_state}, images)
    accuracy = np.mean(np.asarray(logits).argmax(-1) == np.asarray(data[1]))
    np.testing.assert_allclose(found.curve["accuracy"][-1], accuracy)


def test_a_mesh_of_one_device_trains_as_no_mesh_does_and_batches_must_fit_one():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    found, plain = (trained(optax.sgd(0.1), execution=Execution(mesh=m)) for m in (mesh, None))
    jax.tree.map(np.testing.assert_array_equal, found.state.params, plain.state.params)
    wide = jax.sharding.AbstractMesh((3,), ("data",))
    with pytest.raises(ValueError, match=r"8 for 3 devices along 'data'; choose another"):
        layout(plain.state, wide, batch_size=8)
