"""The wrapper that delays gradients inside an ordinary loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState

from dcasgd_jax import constant_delay, dcasgd, pipeline_delays, round_robin, simulate
from dcasgd_jax.peers import error_feedback
from tests.dcasgd_jax.networks import assert_same_bits, batches_of, gradient, weights_of

SIZES, STEPS = (5, 4, 3), 20

INNER = {
    "asgd": lambda: optax.sgd(0.3),
    "dcasgd-c": lambda: dcasgd(0.3, 0.5),
    "dcasgd-a, momentum, decay": lambda: dcasgd(
        0.1, 2.0, mean_square_decay=0.9, momentum=0.8, weight_decay=1e-2
    ),
    "schedule": lambda: dcasgd(lambda step: 0.3 * 0.9 ** step.astype(jnp.float64), 0.5),
}


def loop(tx, params, batches):
    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(gradient(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), batches)[0]


@pytest.mark.parametrize(
    ("inner", "delay"),
    [
        ("asgd", 1),
        ("dcasgd-c", 3),
        ("dcasgd-a, momentum, decay", 0),
        ("dcasgd-a, momentum, decay", 3),
        ("schedule", 2),
    ],
)
def test_it_is_the_simulators_round_robin(inner, delay, x64):
    rng = np.random.default_rng(0)
    params = weights_of(SIZES, rng, np.float64)
    batches = batches_of(STEPS + delay, 4, SIZES, rng, np.float64)
    tx = constant_delay(INNER[inner](), delay)
    got, state = jax.jit(lambda p, b: loop(tx, p, b))(params, batches)
    arrived = jax.tree.map(lambda x: x[:STEPS], batches)
    schedule = round_robin(delay + 1, STEPS)
    expected, info = jax.jit(lambda p, b: simulate(gradient, p, INNER[inner](), schedule, b))(
        params, arrived
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-13)
    chex.assert_trees_all_close(state.inner_state, info.state.opt_state, rtol=1e-10, atol=1e-13)


DELAYS = [3, 3, 0, 1]


def by_leaf_in_plain_python(make, params, batches, calls):
    """Every gradient and every version kept; each leaf of a gradient arrives after its delay."""
    tx = optax.with_extra_args_support(make())

    @jax.jit
    def step(params, state, arriving, stale, due):
        moved, state = tx.update(arriving, state, params, stale_params=stale)
        moved = [jnp.where(d, u, jnp.zeros_like(u)) for d, u in zip(due, moved, strict=True)]
        return optax.apply_updates(params, moved), state

    taken = jax.jit(gradient)
    versions, gradients, state = [params], [], tx.init(params)
    for t in range(calls):
        gradients.append(taken(versions[-1], jax.tree.map(lambda x, t=t: x[t], batches)))
        due = [t >= d for d in DELAYS]
        arriving = [
            gradients[t - d][i] if due[i] else jnp.zeros_like(params[i])
            for i, d in enumerate(DELAYS)
        ]
        stale = [versions[t - d if due[i] else t][i] for i, d in enumerate(DELAYS)]
        new, state = step(versions[-1], state, arriving, stale, due)
        versions.append(new)
    return versions[-1]


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("inner", ["asgd", "dcasgd-c", "dcasgd-a, momentum, decay"])
def test_a_delay_for_each_leaf_is_a_plain_loop_to_the_bit(inner):
    rng = np.random.default_rng(2)
    params, batches = weights_of(SIZES, rng), batches_of(12, 4, SIZES, rng)
    tx = constant_delay(INNER[inner](), DELAYS)
    got, state = jax.jit(lambda p, b: loop(tx, p, b))(params, batches)
    assert_same_bits(got, by_leaf_in_plain_python(INNER[inner], params, batches, 12))
    # A leaf of delay d keeps d gradients and d versions beside the present ones.
    for queue in (state.gradients, state.snapshots):
        kept = [sum(not isinstance(tree[i], optax.MaskedNode) for tree in queue) for i in range(4)]
        assert kept == DELAYS


@pytest.mark.usefixtures("optimised")
def test_one_delay_for_every_leaf_is_that_delay_to_the_bit():
    rng = np.random.default_rng(2)
    params, batches = weights_of(SIZES, rng), batches_of(12, 4, SIZES, rng)
    made = [constant_delay(INNER["dcasgd-a, momentum, decay"](), d) for d in (2, [2] * 4)]
    ends = [jax.jit(lambda p, b, tx=tx: loop(tx, p, b))(params, batches) for tx in made]
    assert_same_bits(*ends)


def test_the_rule_is_told_the_staleness_of_each_leaf():
    def update(updates, state, params=None, *, staleness, worker=None, **extra_args):
        assert worker is None
        return updates, staleness

    inner = optax.GradientTransformationExtraArgs(
        lambda w: jax.tree.map(lambda _: jnp.zeros([], jnp.int32), w), update
    )
    params = {"first": jnp.ones(2), "last": {"w": jnp.ones(2)}}
    tx = constant_delay(inner, {"first": 2, "last": 0})
    state, seen = tx.init(params), []
    for _ in range(5):
        _, state = tx.update(params, state, params)
        seen.append((int(state.inner_state["first"]), int(state.inner_state["last"]["w"])))
    assert seen == [(0, 0), (0, 0), (0, 0), (1, 0), (2, 0)]
    with pytest.raises(ValueError, match="a tree prefix of the parameters with an int"):
        constant_delay(inner, {"first": 2}).init(params)
    with pytest.raises(ValueError, match=r"delay must be an int >= 0 .*, or a tree of them"):
        constant_delay(inner, {"first": 2, "last": -1})


def test_flax_train_state_trains_with_eight_workers():
    """linen's TrainState passes no extra arguments on; nothing else is needed."""
    rng = np.random.default_rng(1)
    inputs = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 64))
    model = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(3)])
    state = TrainState.create(
        apply_fn=model.apply,
        params=model.init(jax.random.key(0), inputs),
        tx=constant_delay(dcasgd(0.1, 2.0, mean_square_decay=0.95), 7),
    )

    def loss(params):
        logits = state.apply_fn(params, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    losses = []
    for _ in range(200):
        state, value = step(state)
        losses.append(float(value))
    assert losses[0] == losses[7]  # the pipeline fills
    assert losses[-1] < 0.7 * losses[0]


def test_the_inner_rule_is_told_staleness_and_snapshot():
    def update(updates, state, params=None, *, stale_params, staleness, **extra_args):
        del extra_args
        moved = jax.tree.map(lambda w, s: w - s, params, stale_params)
        return updates, (staleness, moved)

    tx = constant_delay(
        optax.GradientTransformationExtraArgs(
            lambda w: (jnp.zeros([], jnp.int32), jnp.zeros_like(w)), update
        ),
        2,
    )
    state, seen = tx.init(jnp.array(0.0)), []
    for call in range(6):
        w = jnp.array(float(call))
        _, state = tx.update(w, state, w)
        seen.append((int(state.inner_state[0]), float(state.inner_state[1])))
    # Two calls fill the pipeline; then gradients 0, 1 and 2 arrive 0, 1 and 2 server steps late.
    assert seen == [(0, 0.0), (0, 0.0), (0, 2.0), (1, 2.0), (2, 2.0), (2, 2.0)]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_stable(dtype):
    params = {"w": jnp.ones((2, 3), dtype), "weak": jnp.asarray(1.0)}
    tx = constant_delay(dcasgd(0.1, 2.0, mean_square_decay=0.9, momentum=0.9), 2)
    state = tx.init(params)
    for _ in range(3):
        updates, after = jax.jit(tx.update)(params, state, params)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)
        assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, params)
        state = after


def test_every_tree_of_the_state_is_a_parameter_tree_to_optax():
    """So sharding rules written for parameters fit its gradients and snapshots as they are."""
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = constant_delay(dcasgd(0.1, 2.0, mean_square_decay=0.9), 2)
    state = tx.init(params)
    marked = optax.tree.map_params(tx, lambda x: x.shape, state)
    shapes = {"w": (2, 3), "b": (3,)}
    assert marked.gradients == (shapes, shapes)
    assert marked.snapshots == (shapes, shapes)
    assert marked.inner_state[0].mean_square == shapes
    assert marked.step.shape == ()


@pytest.mark.usefixtures("optimised")
def test_state_and_parameters_can_both_be_donated():
    params = {"w": jnp.ones((2, 3))}
    tx = constant_delay(dcasgd(0.1, 0.5), 3)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    donating = jax.jit(step.__wrapped__, donate_argnums=(0, 1))
    expected, got = (params, tx.init(params)), (jax.tree.map(jnp.copy, params), tx.init(params))
    for _ in range(6):
        expected, got = step(*expected), donating(*got)
    assert_same_bits(got, expected)


def test_orbax_round_trip_with_a_template(tmp_path):
    rng = np.random.default_rng(0)
    params, batches = weights_of(SIZES, rng), batches_of(7, 4, SIZES, rng)
    tx = constant_delay(dcasgd(0.1, 2.0, mean_square_decay=0.9), 3)
    _, state = loop(tx, params, batches)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        assert_same_bits(checkpointer.restore(tmp_path / "state", tx.init(params)), state)


def test_a_parameter_that_is_none_has_no_delay():
    """Equinox and `optax.partition` leave None where a part is trained by others."""
    params = {"a": jnp.ones(2), "b": None, "c": jnp.ones(2)}
    delays = pipeline_delays(params, {"a": 0, "b": 0, "c": 1})
    assert delays == {"a": 1, "b": None, "c": 0}
    for tx in (constant_delay(optax.sgd(1.0), delays), error_feedback(optax.sgd(1.0), delays)):
        update, state = tx.update(params, tx.init(params), params)
        assert jax.tree.structure(update) == jax.tree.structure(params)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))
    update, _ = constant_delay(optax.sgd(1.0), delays).update(
        params, constant_delay(optax.sgd(1.0), delays).init(params), params
    )
    assert (update["a"].tolist(), update["c"].tolist()) == ([0.0, 0.0], [-1.0, -1.0])
    for bare in (None, {}, {"a": None}):
        with pytest.raises(ValueError, match=r"delay must be an int >= 0 .* got None"):
            constant_delay(optax.sgd(1.0), bare)
    with pytest.raises(ValueError, match="a tree prefix of the parameters with an int"):
        constant_delay(optax.sgd(1.0), delays).init(params | {"b": jnp.ones(1)})


def test_a_missing_gradient_is_named():
    tx, params = constant_delay(optax.sgd(1.0), 1), {"w": jnp.ones(2), "b": jnp.ones(1)}
    with pytest.raises(ValueError, match=r"gradients must be .* got .*'b': None.*; give zeros"):
        tx.update({"w": jnp.ones(2), "b": None}, tx.init(params), params)


def test_errors_name_what_came():
    w = jnp.ones(2)
    for bad in (-1, 1.5, True, jnp.array(2)):
        with pytest.raises(ValueError, match="delay must be an int >= 0"):
            constant_delay.__wrapped__(optax.sgd(0.1), bad)
    tx = constant_delay(dcasgd(0.1, 0.5), 1)
    with pytest.raises(ValueError, match="not passing `params`"):
        tx.update(w, tx.init(w))
    with pytest.raises(ValueError, match="makes the delay itself"):
        tx.update(w, tx.init(w), w, stale_params=w)
    with pytest.raises(ValueError, match="use the wrapped transformation by itself"):
        simulate(lambda w, _: w, w, tx, round_robin(2, 4), jnp.zeros(4))
