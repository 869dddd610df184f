"""Each peer against the server of its paper, in plain Python and float64."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from dcasgd_jax import dcasgd, failure_times, gamma_times, peers, round_robin, simulate
from tests.oracles.peer_servers import (
    RATE,
    ROOT,
    START,
    STEPS,
    TARGETS,
    WORKERS,
    DanaSlim,
    DanaZero,
    DelayAdaptive,
    DelayCorrectedNesterov,
    DelayedNesterov,
    ErrorFeedback,
    FedBuff,
    GapAware,
    Rennala,
    Ringmaster,
    SpecTrain,
    StalenessAware,
    gradient,
)


def traced_gradient(w, target):
    return jnp.asarray(ROOT).T @ (jnp.asarray(ROOT) @ (w - target))


def schedule():
    return gamma_times(WORKERS, STEPS, seed=1, variation=0.6)


def ours(rule, plan=None):
    plan = schedule() if plan is None else plan
    w, info = simulate(traced_gradient, jnp.asarray(START), rule, plan, jnp.asarray(TARGETS))
    return np.asarray(w), info


def behind(link):
    return optax.chain(link, optax.sgd(RATE))


RULES = {
    "staleness-aware": (StalenessAware, lambda: behind(peers.staleness_aware())),
    "delay-adaptive": (DelayAdaptive, lambda: behind(peers.delay_adaptive(WORKERS))),
    "gap-aware": (
        GapAware,
        lambda: behind(peers.gap_aware(patent_acknowledged=True, decay=0.9)),
    ),
    "fedbuff": (FedBuff, lambda: peers.fedbuff(optax.sgd(RATE), 4)),
    "rennala": (Rennala, lambda: peers.rennala(optax.sgd(RATE), 3)),
    "ringmaster": (
        Ringmaster,
        lambda: peers.ringmaster(optax.sgd(RATE), 3),
    ),
    "delayed nesterov": (
        DelayedNesterov,
        lambda: behind(peers.delayed_nesterov(4, momentum=0.8, spread=0.1)),
    ),
    "delay-corrected nesterov": (
        DelayCorrectedNesterov,
        lambda: behind(
            peers.delay_corrected_nesterov(
                momentum=0.9, momentum_decay=0.05, mean_square_decay=0.95, epsilon=1e-6
            )
        ),
    ),
    "dana-zero": (DanaZero, lambda: peers.dana_zero(RATE, num_workers=WORKERS, momentum=0.6)),
    "dana-slim": (DanaSlim, lambda: behind(peers.dana_slim(num_workers=WORKERS, momentum=0.6))),
    "error feedback": (
        ErrorFeedback,
        lambda: peers.error_feedback(optax.sgd(RATE, momentum=0.7), 3, strength=0.5),
    ),
    "spectrain": (SpecTrain, lambda: peers.weight_prediction(optax.sgd(RATE, momentum=0.7), 2)),
}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_the_papers(x64, name):
    server, rule = RULES[name]
    np.testing.assert_allclose(ours(rule())[0], server().run(schedule()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["fedbuff", "rennala", "ringmaster"])
def test_versions_are_counted_where_workers_fail_or_wait(x64, name):
    """There, who holds which weights cannot be told from who arrived."""
    server, rule = RULES[name]
    failing = failure_times(WORKERS, STEPS, seed=3, time_to_failure=3.0, time_away=2.0)
    rounds = gamma_times(WORKERS, STEPS, seed=3, variation=0.6, wait_for=3)
    for plan in (failing, rounds):
        assert plan.reads is not None
        np.testing.assert_allclose(ours(rule(), plan)[0], server().replay(plan), rtol=1e-9)


@functools.cache
def unit_ringmaster(threshold):
    tx = peers.ringmaster(optax.sgd(1.0), threshold)
    return tx.init(jnp.ones(())), jax.jit(
        lambda state, age: tx.update(jnp.ones(()), state, staleness=age)
    )


@hypothesis.settings(derandomize=True, deadline=None, max_examples=25)
@hypothesis.given(
    ages=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    threshold=st.sampled_from([1, 2, 4]),
)
def test_ringmaster_counts_steps_between_any_pull_and_push(ages, threshold):
    (state, update), versions = unit_ringmaster(threshold), [0]
    for event, age in enumerate(ages):
        then = max(0, event - age)
        due = versions[event] - versions[then] < threshold
        u, state = update(state, np.int32(event - then))
        assert float(u) == -float(due)
        versions.append(versions[event] + due)
    assert int(state.version) == versions[-1]


def test_rules_that_drop_do_drop(x64):
    for server in (Rennala(), Ringmaster()):
        server.run(schedule())
        assert 0 < server.dropped < STEPS


def test_limits_in_which_a_peer_is_asgd(x64):
    asgd = ours(optax.sgd(RATE))[0]
    for rule in (
        peers.fedbuff(optax.sgd(RATE), 1, discount=False),
        peers.ringmaster(optax.sgd(RATE), STEPS),
        peers.weight_prediction(optax.sgd(RATE), 0),
        peers.error_feedback(optax.sgd(RATE), 0),
        peers.error_feedback(optax.sgd(RATE), 4, strength=0.0),
        peers.dana_zero(RATE, num_workers=WORKERS, momentum=0.0),
        behind(peers.dana_slim(num_workers=WORKERS, momentum=0.0)),
        behind(peers.delayed_nesterov(1, momentum=0.0)),
    ):
        np.testing.assert_allclose(ours(rule)[0], asgd, rtol=1e-12)


def test_a_period_of_one_is_nesterovs_momentum(x64):
    nesterov = optax.sgd(RATE, momentum=0.7, nesterov=True)
    found = ours(behind(peers.delayed_nesterov(1, momentum=0.7)))[0]
    np.testing.assert_allclose(found, ours(nesterov)[0], rtol=1e-12)


def test_danas_two_forms_are_one(x64):
    """The weights of DANA-Slim are DANA-Zero's look-ahead, step by step."""
    rule = peers.dana_zero(RATE, num_workers=WORKERS, momentum=0.6)
    w, info = ours(rule)
    slim, _ = ours(behind(peers.dana_slim(num_workers=WORKERS, momentum=0.6)))
    np.testing.assert_allclose(rule.send(jnp.asarray(w), info.state.opt_state), slim, rtol=1e-10)


def test_rennala_on_turns_is_minibatch_sgd(x64):
    """With one worker nothing is ever stale: B gradients in a row make a step."""
    found = ours(peers.rennala(optax.sgd(RATE), 4), round_robin(1, STEPS))[0]
    w = START.copy()
    for batch in TARGETS.reshape(-1, 4, 3):
        w = w - RATE * np.mean([gradient(w, target) for target in batch], axis=0)
    np.testing.assert_allclose(found, w, rtol=1e-10)


def test_a_prediction_by_adam_is_xpipes(x64, standard_promotion):
    rule = peers.weight_prediction(optax.adam(RATE, b1=0.9, b2=0.99, eps=1e-8), 3)
    w, info = ours(rule)
    m = v = np.zeros(3)
    weights, pulls = START.copy(), [START.copy()] * WORKERS
    for t, (worker, target) in enumerate(zip(schedule().worker, TARGETS, strict=True), start=1):
        g = gradient(pulls[worker], target)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        step = RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
        weights = weights - step
        pulls[worker] = weights - 3 * step
    np.testing.assert_allclose(w, weights, rtol=1e-8)
    assert info.state.step == STEPS


def test_a_dropped_gradient_that_is_not_finite_leaves_no_trace(x64):
    tx = peers.rennala(optax.sgd(RATE, momentum=0.9), 2)
    w = jnp.asarray(START)
    state = tx.init(w)
    u, after = tx.update(jnp.full(3, jnp.nan), state, w, staleness=1)
    np.testing.assert_array_equal(u, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_a_compensator_goes_into_a_peer(x64):
    """Compensated gradients, dropped when they come too late all the same."""
    rule = peers.ringmaster(dcasgd(RATE, 0.1), 3)
    assert np.isfinite(ours(rule)[0]).all()
    plain = ours(peers.ringmaster(dcasgd(RATE, 0.0), 3))[0]
    np.testing.assert_allclose(plain, Ringmaster().run(schedule()), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: peers.gap_aware(), "patent_acknowledged=True"),
        (lambda: peers.fedbuff(optax.sgd(0.1), 0), "buffer_size must be an int >= 1, got 0"),
        (lambda: peers.rennala(optax.sgd(0.1), True), "batch_size must be an int >= 1, got True"),
        (lambda: peers.ringmaster(optax.sgd(0.1), 0), "threshold must be"),
        (lambda: peers.dana_slim(num_workers=0), "num_workers must be"),
        (lambda: peers.dana_zero(0.1, num_workers=2, momentum=1.0), r"momentum must be .* < 1"),
        (lambda: peers.delayed_nesterov(4, spread=0.3), "spread must be at most 1 / period = 0.25"),
        (lambda: peers.weight_prediction(optax.sgd(0.1), -1), "horizon must be"),
        (lambda: peers.weight_prediction(optax.sgd(0.1), {"a": 1, "b": -1}), "horizon must be"),
        (lambda: peers.error_feedback(optax.sgd(0.1), -1), "delay must be an int >= 0"),
        (lambda: peers.error_feedback(optax.sgd(0.1), 1, strength=-1.0), "strength must be"),
        (lambda: peers.delay_adaptive(0), "num_workers must be"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        (peers.staleness_aware(), "staleness"),
        (peers.delay_adaptive(3), "staleness"),
        (peers.gap_aware(patent_acknowledged=True), "stale_params"),
        (peers.fedbuff(optax.sgd(0.1), 2), "staleness"),
        (peers.rennala(optax.sgd(0.1), 2), "staleness"),
        (peers.ringmaster(optax.sgd(0.1), 2), "staleness"),
        (peers.dana_slim(num_workers=2), "worker"),
        (peers.dana_zero(0.1, num_workers=2).tx, "worker"),
    ],
)
def test_a_missing_argument_is_named(rule, missing):
    w = jnp.ones(2)
    with pytest.raises(ValueError, match=f"got no `{missing}`"):
        rule.update(w, rule.init(w), w)


@pytest.mark.parametrize("name", RULES)
def test_a_weakly_typed_parameter_leaves_the_states_types_alone(name, standard_promotion):
    """A loop carried by `lax.scan` needs one type before and after."""
    rule = RULES[name][1]()
    tx = optax.with_extra_args_support(getattr(rule, "tx", rule))
    w = jnp.asarray(1.0)
    assert w.weak_type
    extra = {"stale_params": w, "staleness": 0, "worker": 0}
    start = jax.eval_shape(tx.init, w)
    after = jax.eval_shape(lambda g, state: tx.update(g, state, w, **extra)[1], w, start)
    jax.tree.map(lambda one, other: chex.assert_equal(str(one), str(other)), start, after)


@pytest.mark.parametrize("worker", [-1, 2])
def test_a_stranger_is_refused(worker):
    tx, w = peers.dana_slim(num_workers=2), jnp.ones(2)
    with pytest.raises(ValueError, match=r"whole number in \[0, 2\)"):
        tx.update(w, tx.init(w), w, worker=worker)


@pytest.mark.parametrize("name", RULES)
def test_a_state_restored_as_numpy_goes_on(name, unchecked):
    """As `flax.serialization` gives it back, and not traced."""
    rule = RULES[name][1]()
    rule = getattr(rule, "tx", rule)
    w = jnp.asarray(START)
    state = rule.init(w)
    given = {
        "worker": jnp.int32(1), "staleness": jnp.int32(2), "stale_params": 0.9 * w,
        "num_updates": jnp.int32(1),
    }  # fmt: skip
    grads = jnp.cos(w)
    _, state = rule.update(grads, state, w, **given)
    restored = serialization.from_bytes(rule.init(w), serialization.to_bytes(state))
    due, found = (rule.update(grads, s, w, **given) for s in (state, restored))
    chex.assert_trees_all_equal(found, due)
