"""Which leaves a rule takes together is read off the rule, and servers hold them accordingly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import curvature_compensation, dcasgd, hessian
from dcasgd_jax.actors.host_arrays import from_host, host_shapes, shapes, to_host
from dcasgd_jax.actors.shards import (
    ShardPush,
    advance_shard,
    assign_leaves,
    join,
    leaves_of,
    split,
)
from dcasgd_jax.peers import dana_zero, gap_aware, ringmaster
from dcasgd_jax.simulator.options import Options
from dcasgd_jax.simulator.server import Push, advance, make_server
from dcasgd_jax.simulator.stacked_snapshots import initial_state
from dcasgd_jax.simulator.state import server_part

PARAMS = {"a": jnp.ones((8, 4)), "b": jnp.ones(5), "c": jnp.ones((4, 3)), "d": jnp.ones(2)}
BATCH = jax.ShapeDtypeStruct((3,), jnp.float32)


def loss(params, batch):
    return sum(jnp.sum(leaf) for leaf in params.values()) ** 2 * batch.sum()


def layer_norms():
    """Scales each layer, a kernel and its bias, by their common norm."""

    def update(updates, state, params=None):
        del params
        first = jnp.sqrt((updates["a"] ** 2).sum() + (updates["b"] ** 2).sum())
        return {**updates, "a": updates["a"] / first, "b": updates["b"] / first}, state

    return optax.GradientTransformation(lambda _: (), update)


def remembered_norm():
    """Scales by the norm of the last gradient: what couples leaves is in the state."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: g * state, updates), optax.tree.norm(updates)

    return optax.GradientTransformation(lambda _: jnp.zeros([]), update)


def planned(rule, num_servers, params=PARAMS):
    server = make_server(rule, 3, Options(log_distance=True))
    state = server_part(initial_state(server, params))
    return assign_leaves(server, shapes(state), BATCH, num_servers), state


APART = {
    "dc-asgd": lambda: dcasgd(0.1, 2.0, mean_square_decay=0.9),
    "adamw": lambda: optax.adamw(optax.cosine_decay_schedule(0.1, 100)),
    "injected": lambda: optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9),
    "by cond": lambda: optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "layer-wise": lambda: optax.lamb(0.1),
    "sending": lambda: dana_zero(0.1, num_workers=3, momentum=0.9),
    "dropping": lambda: ringmaster(optax.sgd(0.1), 3),
    "by gaps": lambda: optax.chain(gap_aware(patent_acknowledged=True), optax.sgd(0.1)),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("rule", APART.values(), ids=APART.keys())
def test_leaves_that_a_rule_takes_one_by_one_are_spread_by_size(rule):
    shards, state = planned(rule(), 3)
    assert [shard.params for shard in shards] == [(0,), (2,), (1, 3)]
    assert [shard.first for shard in shards] == [True, False, False]
    back = join(shards, [split(shard, state) for shard in shards], state)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: a is b, back, state)))
    for shard in shards:  # nobody holds what only others need
        foreign = {w.shape for i, w in enumerate(PARAMS.values()) if i not in shard.params}
        kept = {leaf.shape for leaf in split(shard, state).opt_state}
        assert not foreign & (kept | {shape[1:] for shape in kept})


@pytest.mark.usefixtures("standard_promotion")
def test_together_servers_do_what_the_rule_does():
    """Also where the rule looks at how many leaves there are: noise draws a key for each."""
    rule = optax.chain(optax.adam(0.1), optax.add_noise(0.1, 0.5, key=3))
    shards, state = planned(rule, 2)
    server, template, batch = (
        make_server(rule, 3, Options(log_distance=True)),
        shapes(state),
        jnp.zeros(3),
    )
    number = jnp.zeros([], jnp.int32)
    stale = jax.tree.map(lambda w: w - 0.5, PARAMS)
    gradients = jax.tree.map(jnp.sin, PARAMS)

    @jax.jit
    def both(state):
        whole, sent, distance = advance(
            server, state, Push(stale, number, number, gradients, (), batch)
        )
        parts = []
        for shard in shards:
            push = ShardPush(
                leaves_of(shard, gradients), (), leaves_of(shard, stale), number, number
            )
            parts.append(advance_shard(server, shard, template, split(shard, state), push, batch))
        return (whole, sent, distance), parts

    (whole, sent, distance), parts = both(state)
    together = join(shards, [held for held, _, _ in parts], state)
    for got, due in ((together.params, whole.params), (together.opt_state[0], whole.opt_state[0])):
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(due), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert together.step == 1
    for shard, (_, own, _) in zip(shards, parts, strict=True):
        for a, b in zip(own, leaves_of(shard, sent), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
    assert sum(d**2 for _, _, d in parts) == pytest.approx(distance**2)


TOGETHER = {
    "global norm": (lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), 1),
    "finite": (lambda: optax.apply_if_finite(optax.sgd(0.1), 3), 1),
    "curvature": (lambda: curvature_compensation(hessian(jax.grad(loss))), 1),
    "by layer": (layer_norms, 3),
    "remembered": (remembered_norm, 1),
}


@pytest.mark.parametrize(("rule", "groups"), TOGETHER.values(), ids=TOGETHER.keys())
def test_leaves_that_a_rule_takes_together_are_not_parted(rule, groups):
    together = r"\['a'\], \['b'\]" + ("" if groups == 3 else r", \['c'\], \['d'\]")
    message = f"the rule takes {together} together .* use num_servers <= {groups}"
    with pytest.raises(ValueError, match=message):
        planned(rule(), groups + 1)
    shards, _ = planned(rule(), groups)
    assert len(shards) == groups
    assert all(not {0, 1} & {*s.params} or {0, 1} <= {*s.params} for s in shards)


def test_no_more_servers_than_leaves():
    with pytest.raises(ValueError, match=r"num_servers=5 .* parameters: 4 at most"):
        planned(optax.sgd(0.1), 5)


def test_arrays_come_back_as_they_went():
    tree = {
        "key": jax.random.key(1),
        "other": jax.random.key(2, impl="rbg"),
        "weak": jnp.full((2,), 0.5),
        "count": jnp.asarray(3),
        "half": jnp.ones(3, jnp.bfloat16),
    }
    sent = to_host(tree)
    back = from_host(shapes(tree), sent)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        assert a.aval == b.aval
        assert bool((a == b).all())
    for a, b in zip(jax.tree.leaves(sent), jax.tree.leaves(host_shapes(tree)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
