"""Around any optax transformation: from a balanced start as on weights, and from a copy too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from gsgd_jax import Balanced, balance, choose_skeleton, in_path_space, mlp_gauge
from tests.compiled import compiled_quickly
from tests.gsgd_jax.networks import apply, batch, loss, perceptron

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")
WIDTHS = [4, 7, 3, 2]
STEPS = 6

INNER = {
    "adamw": optax.adamw(1e-2),
    "adafactor": optax.adafactor(1e-2),
    "lamb": optax.lamb(1e-2),
    "lion": optax.lion(1e-3),
    "novograd": optax.novograd(1e-2),
    "muon": contrib.muon(1e-2),
    "schedule_free": contrib.schedule_free_adamw(1e-2),
    "prodigy": contrib.prodigy(1.0, estim_lr0=1e-2),
    "dog": contrib.dog(1.0, init_step=("heuristic", 1e-2)),
    "cocob": contrib.cocob(),
    "dadapt_adamw": contrib.dadapt_adamw(1.0, estim_lr0=1e-2),
    "mechanize": contrib.mechanize(optax.sgd(1e-1), s_init=1e-2),
    "sam": contrib.sam(optax.sgd(1e-2), optax.chain(contrib.normalize(), optax.sgd(0.05)), 2),
    "opaque_sam": contrib.sam(optax.sgd(1e-2), optax.sgd(0.05), 2, opaque_mode=True),
    "sophia": contrib.sophia(1e-2),
    "reduce_on_plateau": optax.chain(optax.sgd(1e-1), contrib.reduce_on_plateau(patience=2)),
    "multi_steps": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "apply_if_finite": optax.apply_if_finite(optax.adam(1e-2), 3),
    "ema": optax.chain(optax.ema(0.5), optax.sgd(1e-1)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0)),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-2),
}
OUTER = {
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


EXTRA = {
    "reduce_on_plateau": lambda data, value: {"value": value},
    "sophia": lambda data, value: {"obj_fn": lambda params: loss(params, data)},
    "opaque_sam": lambda data, value: {"grad_fn": lambda p, _: jax.grad(loss)(p, data)},
}


def trained(tx, start, data, extra):
    """The losses of a run, and the weights at its end."""

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, data)
        updates, state = tx.update(gradients, state, params, **extra(data, value))
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (start, tx.init(start)), length=STEPS)
    return values, params


def both(inner, in_space, extra=lambda data, value: {}):
    """From a balanced start on weights; in path space from that start and from a copy of it."""
    params, data = perceptron(WIDTHS, True), batch(WIDTHS)
    gauge = mlp_gauge(params)
    params = balance(params, gauge)
    copy = gauge.rescale(params, jax.random.key(0), spread=1.5)
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, copy)

    @compiled_quickly
    def run(params, starts):
        spaces = jax.vmap(lambda start: trained(in_space, start, data, extra))(starts)
        return trained(inner, params, data, extra), spaces

    (losses, weights), (space_losses, ends) = run(params, starts)
    np.testing.assert_allclose(space_losses[0], losses, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(space_losses[1], losses, rtol=1e-7, atol=1e-9)
    assert np.ptp(losses) > 1e-4
    end = jax.tree.map(lambda leaf: leaf[1], ends)  # the copy, still in its own scale
    x, _ = data
    np.testing.assert_allclose(apply(end, x), apply(weights, x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", INNER)
def test_inside(name):
    gauge = mlp_gauge(perceptron(WIDTHS, True))
    extra = EXTRA.get(name, lambda data, value: {})
    both(INNER[name], in_path_space(INNER[name], gauge), extra)


@pytest.mark.parametrize("name", OUTER)
def test_around(name):
    inner = optax.adam(1e-2)
    in_space = in_path_space(inner, mlp_gauge(perceptron(WIDTHS, True)))
    both(OUTER[name](inner), OUTER[name](in_space))


def test_behind_it_in_a_chain_what_treats_entries_by_numbers_does_what_it_does_inside():
    inner, gauge = optax.adam(1e-2), mlp_gauge(perceptron(WIDTHS, True))
    behind = optax.chain(
        optax.scale(0.5),
        optax.scale_by_schedule(optax.linear_schedule(1.0, 0.1, STEPS)),
        optax.ema(0.5),
        optax.add_decayed_weights(-1e-2),
    )
    both(optax.chain(inner, behind), optax.chain(in_path_space(inner, gauge), behind))


def test_behind_it_clipping_breaks_the_invariance_and_directed_paths_bend_a_step():
    """What the documentation says goes wrong, and cannot be seen by the transformation."""
    params, data = perceptron(WIDTHS, True), batch(WIDTHS)
    gauge = mlp_gauge(params)
    params = balance(params, gauge)
    copy = gauge.rescale(params, jax.random.key(0), spread=1.5)
    paths = choose_skeleton(gauge, params, basis="paths")
    rate = 0.1

    @compiled_quickly
    def last_losses(params, copy):
        def last(tx, start):
            return trained(tx, start, data, lambda data, value: {})[0][-1]

        clipped = optax.chain(
            in_path_space(optax.sgd(rate), gauge), optax.clip_by_global_norm(0.02)
        )
        behind = optax.chain(in_path_space(optax.sgd(rate), paths), optax.scale(0.5))
        inside = in_path_space(optax.sgd(rate / 2), paths)
        return (
            last(clipped, params), last(clipped, copy), last(behind, params), last(behind, copy),
            last(inside, params),
        )  # fmt: skip

    clipped, of_copy, behind, behind_of_copy, inside = last_losses(params, copy)
    assert abs(clipped - of_copy) > 1e-3
    np.testing.assert_allclose(behind, behind_of_copy, rtol=1e-7)
    assert abs(behind - inside) > 1e-5


def test_lookahead_around_it():
    gauge = mlp_gauge(perceptron(WIDTHS, True))
    params, data = balance(perceptron(WIDTHS, True), gauge), batch(WIDTHS)

    def run(inner):
        tx = optax.lookahead(inner, sync_period=2, slow_step_size=0.5)

        @compiled_quickly
        def trained(params):
            def step(carry, _):
                pair, state = carry
                value, gradients = jax.value_and_grad(loss)(pair.fast, data)
                updates, state = tx.update(gradients, state, pair)
                return (optax.apply_updates(pair, updates), state), value

            pair = optax.LookaheadParams.init_synced(params)
            return jax.lax.scan(step, (pair, tx.init(pair)), length=STEPS)[1]

        return trained(params)

    losses = run(optax.sgd(0.1))
    np.testing.assert_allclose(run(in_path_space(optax.sgd(0.1), gauge)), losses, rtol=1e-7)
    assert losses[-1] < losses[0]


def test_schedule_frees_averages_are_read_in_path_space():
    """The recipe of the page on scale symmetry: path values, averaged, and back to weights."""
    gauge = mlp_gauge(perceptron(WIDTHS, True))
    params, data = balance(perceptron(WIDTHS, True), gauge), batch(WIDTHS)
    inner = contrib.schedule_free_sgd(0.1)
    found = []
    for tx in (inner, in_path_space(inner, gauge)):

        @compiled_quickly
        def run(params, tx=tx):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(jax.grad(loss)(params, data), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), length=STEPS)[0]

        found.append(run(params))
    (weights, state), (ours, in_space) = found
    chart = Balanced(gauge).at(ours, in_space.frame)
    averaged = contrib.schedule_free_eval_params(in_space.inner_state, chart.values())
    expected = contrib.schedule_free_eval_params(state, weights)
    x, _ = data
    np.testing.assert_allclose(apply(chart.weights(averaged), x), apply(expected, x), rtol=1e-6)
