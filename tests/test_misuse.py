"""What users get wrong in the first hour: one error of ours that says rule, what came and remedy.

Or no error, where what they do is right after all; then it gives what it should.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import Engine, constant_delay, dcasgd, delay_compensation, gamma_times, simulate
from dcasgd_jax.peers import gap_aware
from gsgd_jax import choose_skeleton, find_gauge, gsgd, in_path_space, mlp_gauge
from lacim_jax import (
    MLP,
    Examples,
    Fitted,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    Search,
    fit,
    lacim_loss,
    predict,
)

ROOT = Path(__file__).resolve().parents[1]
OURS = tuple(str(ROOT / package) for package in ("gsgd_jax", "dcasgd_jax", "lacim_jax"))

pytestmark = pytest.mark.usefixtures("unchecked", "standard_promotion")

PARAMS = {
    "v": jnp.array([[1.0], [2.0], [3.0]]),
    "w": jnp.array([[1.0, -2.0, 0.5], [2.0, 1.0, 4.0]]),
}
GRADIENTS = jax.tree.map(jnp.ones_like, PARAMS)
GAUGE = mlp_gauge(PARAMS, layers=["w", "v"])
SKELETON = choose_skeleton(GAUGE, PARAMS, basis="paths", rule="largest")
PATHS = in_path_space(optax.sgd(0.1), SKELETON)
BALANCED = in_path_space(optax.sgd(0.1), GAUGE)
COMPENSATED = delay_compensation(0.1)
SCHEDULE = gamma_times(num_workers=2, num_steps=5, seed=0)
BATCHES = jnp.ones((5, 3, 5))
WEIGHTS = jnp.zeros(5)
KEY = jax.random.key(0)
MODEL = LaCIM(MLPEncoder((2,)), MLPDecoder((2, 2), (2,)), MLP((2,)), num_domains=2)
DATA = Examples(jnp.full((4, 2, 2), 0.5), labels=jnp.arange(4) % 2, domains=jnp.arange(4) // 2)


def loss(w, batch):
    return jnp.mean((batch @ w - 1) ** 2)


def cast(dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)


def step(tx, gradients, params=PARAMS, **extra):
    return tx.update(gradients, tx.init(PARAMS), params, **extra)[0]


def compensated(gradients=GRADIENTS, stale_params=None):
    return step(COMPENSATED, gradients, stale_params=stale_params)


def simulated(grad_fn=None, params=WEIGHTS, batches=BATCHES):
    return simulate(grad_fn or jax.grad(loss), params, dcasgd(0.1, 0.04), SCHEDULE, batches)[0]


class Refused(NamedTuple):
    """An input that is refused, and the parts of the message."""

    program: Callable[[], Any]
    kind: type[Exception]
    rule: str
    came: str
    remedy: str = ""
    """Empty where the rule says all there is to do: a number in its range."""


REFUSED = {
    "update without parameters": Refused(
        lambda: BALANCED.update(GRADIENTS, BALANCED.init(PARAMS)),
        ValueError, "requires the current value of parameters", "not passing `params`",
        "when calling `update`",
    ),
    "a gradient of another shape": Refused(
        lambda: step(PATHS, GRADIENTS | {"w": jnp.ones((2, 5))}),
        ValueError, "must have the leaves that the gauge was built for", "w (2, 3), got (2, 5)",
        "build gauge and skeleton from the parameters",
    ),
    "a gradient without a leaf": Refused(
        lambda: step(PATHS, {"w": GRADIENTS["w"]}),
        ValueError, "must have the leaves that the gauge was built for", "got 1 without v",
        "build gauge and skeleton from the parameters",
    ),
    "None for a leaf of the gradient": Refused(
        lambda: step(PATHS, GRADIENTS | {"w": None}),
        ValueError, "must have the leaves that the gauge was built for", "got 1 without w",
        "build gauge and skeleton from the parameters",
    ),
    "parameters of other names": Refused(
        lambda: PATHS.init({"a": PARAMS["w"], "v": PARAMS["v"]}),
        ValueError, "must have the leaves that the gauge was built for", "v (3, 1), got (2, 3)",
        "build gauge and skeleton from the parameters",
    ),
    "parameters that are Python numbers, path space": Refused(
        lambda: PATHS.init({"w": [[1.0, 2.0]], "v": 3.0}),
        TypeError, "must be a tree of arrays", "got a Python float", "jnp.asarray",
    ),
    "whole-number parameters, path space": Refused(
        lambda: choose_skeleton(GAUGE, cast(int)),
        TypeError, "real floating-point parameters", "got int32[3,1]", "outside the gauge",
    ),
    "complex parameters, path space": Refused(
        lambda: BALANCED.init(cast(complex)),
        TypeError, "real floating-point parameters", "got complex64[3,1]", "outside the gauge",
    ),
    "a skeleton chosen under jit": Refused(
        lambda: jax.jit(lambda p: choose_skeleton(GAUGE, p, basis="paths"))(PARAMS),
        ValueError, "from concrete parameters", "got traced ones", "do it outside jit",
    ),
    "a bound of 1": Refused(
        lambda: in_path_space(optax.sgd(0.1), SKELETON, max_ratio=1.0),
        ValueError, "max_ratio must be above 1", "got 1.0", "None for no bound",
    ),
    "a bound of NaN": Refused(
        lambda: in_path_space(optax.sgd(0.1), SKELETON, max_ratio=float("nan")),
        ValueError, "max_ratio must be above 1", "got nan", "None for no bound",
    ),
    "a bound in quotes": Refused(
        lambda: in_path_space(optax.sgd(0.1), SKELETON, max_ratio="10"),
        ValueError, "max_ratio must be above 1", "got '10'", "None for no bound",
    ),
    "a learning rate in quotes, path space": Refused(
        lambda: gsgd("0.1", GAUGE), ValueError, "learning_rate must be a schedule, or a finite",
        "got '0.1'",
    ),
    "no snapshot": Refused(
        compensated, ValueError, "needs the weights at which the gradient", "no `stale_params`",
        "call update(gradients, state, params, stale_params=...)",
    ),
    "a snapshot of another shape": Refused(
        lambda: compensated(stale_params=PARAMS | {"w": jnp.ones((2, 2))}),
        ValueError, "the same shapes leaf by leaf", "(2, 3), (2, 3) and (2, 2)",
        "pass the one snapshot",
    ),
    "lambda in quotes": Refused(
        lambda: delay_compensation("0.1"), ValueError, "lambda_ must be a schedule, or a finite",
        "got '0.1'",
    ),
    "a negative lambda": Refused(
        lambda: delay_compensation(-1.0), ValueError, "lambda_ must be a schedule, or a finite",
        "got -1.0",
    ),
    "a list for lambda": Refused(
        lambda: delay_compensation([0.1]), ValueError, "lambda_ must be a schedule, or a finite",
        "got [0.1]",
    ),
    "a decay in quotes": Refused(
        lambda: gap_aware(decay="0.9", patent_acknowledged=True), ValueError,
        "decay must be a scalar >= 0 and < 1", "got '0.9'",
    ),
    "whole-number gradients": Refused(
        lambda: compensated(jax.tree.map(lambda g: g.astype(int), GRADIENTS), PARAMS),
        TypeError, "real floating-point parameters and gradients", "got int32", "optax.masked",
    ),
    "a loss for its gradient": Refused(
        lambda: simulated(loss), ValueError, "gradients must have the shapes of the parameters",
        "shape (5,) and its gradient ()", "take the gradient of one scalar loss",
    ),
    "value_and_grad for grad": Refused(
        lambda: simulated(jax.value_and_grad(loss)),
        ValueError, "grad_fn must return gradients alone", "got PyTreeDef((*, *))", "use jax.grad",
    ),
    "fewer batches than steps": Refused(
        lambda: simulated(batches=BATCHES[:4]), ValueError,
        "the leading axis of batches is the server step, 5 of them", "got shape (4, 3, 5)",
        "pass one batch a step",
    ),
    "a list for the weights": Refused(
        lambda: simulated(params=[0.0] * 5), TypeError, "a tree of real floating-point arrays",
        "got a Python float at params[0]", "convert it with jnp.asarray",
    ),
    "whole-number weights, simulated": Refused(
        lambda: simulated(params={"w": jnp.zeros(5, int)}), TypeError,
        "a tree of real floating-point arrays", "got int32[5] at params['w']",
        "convert it with jnp.asarray",
    ),
    "complex weights, simulated": Refused(
        lambda: simulated(params=jnp.zeros(5, complex)), TypeError,
        "a tree of real floating-point arrays", "got complex64[5]", "convert it with jnp.asarray",
    ),
    "no workers": Refused(
        lambda: gamma_times(num_workers=0, num_steps=5, seed=0), ValueError,
        "at least one worker", "num_workers=0",
    ),
    "half a step": Refused(
        lambda: gamma_times(num_workers=2, num_steps=5.5, seed=0), ValueError,
        "num_steps must be a whole number", "got 5.5",
    ),
    "workers as a float": Refused(
        lambda: gamma_times(num_workers=2.0, num_steps=5, seed=0), ValueError,
        "num_workers must be a whole number", "got 2.0",
    ),
    "rounds of half a gradient": Refused(
        lambda: gamma_times(num_workers=2, num_steps=5, seed=0, wait_for=1.5), ValueError,
        "wait_for must be a whole number", "got 1.5",
    ),
    "half a seed": Refused(
        lambda: gamma_times(num_workers=2, num_steps=5, seed=0.5), ValueError,
        "seed must be a whole number >= 0", "got 0.5",
    ),
    "a variation in quotes": Refused(
        lambda: gamma_times(num_workers=2, num_steps=5, seed=0, variation="0.1"), ValueError,
        "variation must be finite and at least 0", "got '0.1'",
    ),
    "a negative delay": Refused(
        lambda: constant_delay(optax.sgd(0.1), -1), ValueError, "delay must be an int >= 0",
        "got -1", "static_args",
    ),
    "a misspelt engine": Refused(
        lambda: simulate(
            jax.grad(loss), WEIGHTS, optax.sgd(0.1), SCHEDULE, BATCHES, engine="wavefronts"
        ),
        ValueError, "engine must be 'auto', 'slots' or 'wavefront'", "got 'wavefronts'",
        "did you mean 'wavefront'?",
    ),
    "a misspelt loop": Refused(
        lambda: simulate(
            jax.grad(loss), WEIGHTS, optax.sgd(0.1), SCHEDULE, BATCHES,
            engine=Engine(loop="drive"),
        ),
        ValueError, "loop must be 'auto', 'scan' or 'driven'", "got 'drive'",
        "did you mean 'driven'?",
    ),
    "a misspelt basis": Refused(
        lambda: choose_skeleton(GAUGE, PARAMS, basis="path"), ValueError,
        "basis must be 'balanced', 'paths' or 'cycles'", "got 'path'", "did you mean 'paths'?",
    ),
    "a misspelt rule": Refused(
        lambda: choose_skeleton(GAUGE, PARAMS, basis="paths", rule="large"), ValueError,
        "rule must be 'diagonal', 'largest' or 'random', or a Skeleton", "got 'large'",
        "did you mean 'largest'?",
    ),
    "a misspelt loop of the search": Refused(
        lambda: Search(loop="scn"), ValueError, "loop must be 'auto', 'scan' or 'driven'",
        "got 'scn'", "did you mean 'scan'?",
    ),
    "beta in quotes": Refused(
        lambda: lacim_loss(None, beta="1.0"), ValueError, "beta must be at least 0", "got '1.0'",
    ),
    "a weight of the search in quotes": Refused(
        lambda: Search(weight="1"), ValueError, "weight must be a number of at least 0", "got '1'",
    ),
    "a module for its function": Refused(
        lambda: find_gauge(MODEL, PARAMS, jnp.ones((1, 3))), TypeError,
        "a function of parameters and inputs", "got LaCIM, a module", "pass its `apply`",
    ),
    "a learning rate and a gauge exchanged": Refused(
        lambda: gsgd(GAUGE, 0.1), ValueError, "learning_rate must be a schedule, or a finite",
        "got a Gauge",
    ),
    "a number for the server's rule": Refused(
        lambda: simulate(jax.grad(loss), WEIGHTS, 0.1, SCHEDULE, BATCHES), TypeError,
        "must be an optax transformation or a SendingRule", "got float", "optax.sgd(0.1)",
    ),
    "images as they are stored": Refused(
        lambda: fit(MODEL, DATA._replace(images=jnp.ones((4, 2, 2), jnp.uint8)), KEY), ValueError,
        "values must be floating-point", "got uint8[4, 2, 2]", "divided by 255",
    ),
    "a training set without domains": Refused(
        lambda: fit(MODEL, DATA[:2], KEY), TypeError, "Examples(images, labels, domains)",
        "got tuple", "which training domain",
    ),
    "a seed for a key": Refused(
        lambda: fit(MODEL, DATA, 0), TypeError, "must be a PRNG key", "got 0", "jax.random.key(0)",
    ),
    "half a start": Refused(
        lambda: fit(MODEL, DATA, KEY, num_starts=2.5), ValueError, "num_starts must be", "got 2.5",
    ),
    "what fit returns for its variables": Refused(
        lambda: predict(MODEL, Fitted({}, {}, np.ones(1)), DATA.images, KEY), TypeError,
        "must be a mapping", "got Fitted", "pass its `variables`",
    ),
    "half an image": Refused(
        lambda: Search(chunk_size=5.5), ValueError, "whole number of images", "got 5.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_error_of_ours_says_rule_what_came_and_remedy(name):
    case = REFUSED[name]
    with pytest.raises(case.kind) as caught:
        case.program()
    message = str(caught.value)
    places = [message.find(part) for part in (case.rule, case.came, case.remedy)]
    assert -1 not in places, message
    assert message.endswith((".", "?"))
    assert len(message) < 400
    # Not from the depths of jax or numpy, and nothing was chained to it by accident.
    assert traceback.extract_tb(caught.tb)[-1].filename.startswith(OURS)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def same(tree, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tree, other)


def test_arrays_of_numpy_are_arrays():
    params = jax.tree.map(np.asarray, PARAMS)
    same(PATHS.update(GRADIENTS, PATHS.init(params), params)[0], step(PATHS, GRADIENTS))
    weights = simulated(params=np.zeros(5, np.float32), batches=np.ones((5, 3, 5), np.float32))
    same(weights, simulated())


def test_a_bound_and_a_learning_rate_may_be_traced():
    def moved(rate):
        return step(in_path_space(optax.sgd(rate), SKELETON, max_ratio=100 * rate), GRADIENTS)

    wanted = step(in_path_space(optax.sgd(0.1), SKELETON, max_ratio=10.0), GRADIENTS)
    same(jax.jit(moved)(0.1), wanted)


def test_parameters_and_state_may_be_donated():
    train = jax.jit(lambda p, s: BALANCED.update(GRADIENTS, s, p), donate_argnums=(0, 1))
    copies = jax.tree.map(jnp.copy, PARAMS)
    same(train(copies, BALANCED.init(copies))[0], step(BALANCED, GRADIENTS))


def test_gradients_may_be_narrower_than_parameters():
    """As in training with mixed precision: updates have the gradients' dtype, as optax has it."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), PARAMS)
        for tx, extra in ((BALANCED, {}), (COMPENSATED, {"stale_params": params})):
            updates, _ = tx.update(GRADIENTS, tx.init(params), params, **extra)
            wide, _ = tx.update(
                jax.tree.map(lambda g: g.astype(jnp.float64), GRADIENTS),
                tx.init(params), params, **extra,
            )  # fmt: skip
            assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
            assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.float64)}
            same(updates, wide)
