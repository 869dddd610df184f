"""Freezing layers in path space: what is documented stands still, wherever the start is."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gsgd_jax
from gsgd_jax import in_path_space, path_values
from gsgd_jax.gauge import unmasked_leaves
from tests.gsgd_jax.kinds import KINDS, model_of, of_kind
from tests.gsgd_jax.networks import furthest, ravel

pytestmark = pytest.mark.usefixtures("x64", "unchecked")
FROZEN = "optax.chain(inner, optax.masked(optax.set_to_zero(), frozen))"


def problem(kind):
    params, group, coordinates = of_kind(kind)
    model = model_of(kind)
    _, x = model.draw(0)
    moved = group.rescale(params, jax.random.key(0))
    grads = jax.grad(lambda w: jnp.mean((model.apply(w, x) - 1) ** 2))(moved)
    return moved, coordinates, grads


@KINDS
def test_frozen_leaves_stand_still(kind):
    params, coordinates, grads = problem(kind)
    names = list(params)
    frozen = {name: name != names[-1] for name in names}
    inner = optax.chain(optax.sgd(1e-3), optax.masked(optax.set_to_zero(), frozen))
    tx = in_path_space(inner, coordinates)
    updates, _ = tx.update(grads, tx.init(params), params)
    end = optax.apply_updates(params, updates)
    before, after = (path_values(w, coordinates) for w in (params, end))
    if kind == "balanced":  # in the frame of the start
        before, after = params, end
    for name in names[:-1]:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    if kind != "paths":  # where values hang together, so that weights go along
        assert not ravel([updates[name] for name in names[:-1]]).any()
    assert furthest(end, params) > 0


def test_a_mask_around_the_optimiser_goes_uphill_and_nothing_says_to_use_one():
    """The control, and what is documented: Optax hands masked gradients on as steps."""
    params, group, grads = problem("balanced")
    trained = dict.fromkeys(params, False)
    tx = in_path_space(optax.masked(optax.sgd(1e-3), trained), group)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert all((np.sign(updates[name]) == np.sign(grads[name])).all() for name in params)
    docs = inspect.getdoc(gsgd_jax.in_path_space)
    assert docs is not None
    assert FROZEN in re.sub(r"\s+", " ", docs)
    with pytest.raises(ValueError, match=re.escape(FROZEN)):
        unmasked_leaves({"w": optax.MaskedNode()})
