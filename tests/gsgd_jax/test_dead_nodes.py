"""Skeletons leave out nodes that are dead or constant: while they are, and no longer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gsgd_jax import (
    change_skeleton,
    choose_skeleton,
    in_path_space,
    inverse_chain_rule,
    mlp_gauge,
)
from tests.gsgd_jax.networks import batch, furthest, loss, perceptron, ravel

pytestmark = pytest.mark.usefixtures("x64")

WIDTHS = [4, 5, 3, 2]


@pytest.mark.parametrize("basis", ["paths", "cycles"])
@pytest.mark.parametrize("event", ["dies", "revives"])
def test_a_unit_may_have_died_or_revived(event, basis):
    """A skeleton leaves out the nodes that are dead: another one of the same gauge has them."""
    params = perceptron(WIDTHS, True)
    (kernel, bias), *rest = params
    dead = [(kernel.at[:, 2].set(0), bias.at[2].set(0)), *rest]
    gauge, data = mlp_gauge(params), batch(WIDTHS)
    partial, full = (choose_skeleton(gauge, p, rule="largest", basis=basis) for p in (dead, params))
    assert (partial.left_out, full.left_out) == ((2,), ())
    assert partial.whole == full.whole == gauge != partial.gauge
    old, new = (partial, full) if event == "revives" else (full, partial)
    inner = optax.trace(0.9)
    state = in_path_space(inner, old).init(params)
    # A gradient that is remembered stays that gradient.
    grads = jax.grad(loss)(params, data)
    before, after = (inverse_chain_rule(grads, params, s) for s in (old, new))
    remembered = state._replace(inner_state=state.inner_state._replace(trace=before))
    carried = change_skeleton(inner, remembered, params, old=old, new=new, moments="gradients")
    assert furthest(carried.inner_state.trace, after) < 1e-12
    # All ways to the unit have changed, and what stays is remembered where slopes agree.
    ones = jax.tree.map(jnp.ones_like, params)
    remembered = state._replace(inner_state=state.inner_state._replace(trace=ones))
    kept = change_skeleton(inner, remembered, params, old=old, new=new).inner_state.trace
    assert not kept[0][0][:, 2].any()
    assert not kept[1][0][2].any()
    stays = ravel(kept) == 1
    assert stays.sum() > 10
    same = np.isclose(ravel(before), ravel(after), rtol=1e-9, atol=0)
    assert same[stays].all()


@pytest.mark.parametrize(("basis", "zero"), [("paths", 1), ("paths", 0), ("cycles", 0)])
def test_a_choice_that_leaves_no_node_is_refused(basis, zero):
    """With a last layer of zeros there is no path, and no skeleton until it lives."""
    params = [jnp.array([[1.0, 2.0, 3.0], [5.0, 4.0, 6.0]]), jnp.ones((3, 1))]
    params[zero] = jnp.zeros_like(params[zero])
    with pytest.raises(ValueError, match=r"got 3 nodes and none such .*balanced coordinates"):
        choose_skeleton(mlp_gauge(params), params, basis=basis, rule="largest")
    assert choose_skeleton(mlp_gauge(params), params).group.num_nodes == 3
