"""Rows of an embedding are free behind a norm, and tied wherever tokens meet."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from gsgd_jax import in_path_space
from gsgd_jax.tracing import FoundGauge, RescalingGroup, find_gauge
from tests.gsgd_jax.trajectories import assert_one_function
from tests.oracles.null_space import null_space_dimension

ROWS = 5


def _norm(x):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True))


def _head(p, h, x):
    """What is made of each token, and of data beside it."""
    return jax.nn.leaky_relu((h * x) @ p["up"]) @ p["down"]


def normed(p, ids, x):
    return _head(p, _norm(p["embed"][ids]), x)


def negated(p, ids, x):
    return _head(p, _norm(-jnp.abs(p["embed"].astype(x.dtype))[ids]), x)


def centred(p, ids, x):
    h = p["embed"][ids]
    return _head(p, _norm(h - jnp.mean(h, axis=-1, keepdims=True)), x)


def factorised(p, ids, x):
    """A hidden layer of each token alone, before the norm."""
    h = jax.nn.leaky_relu(p["embed"][ids] @ p["mix"])
    return _head(p, _norm(jnp.concatenate([3.0 * h[..., :2], -h[..., 2:]], axis=-1)), x)


def two_tables(p, ids, x):
    return _head(p, _norm(p["embed"][ids]) * _norm(p["other"][ids[:, ::-1]]), x)


def one_of_two(p, ids, x):
    """The second table is added to without a norm of its own."""
    return _head(p, _norm(p["embed"][ids]) + p["other"][ids], x)


def read_twice(p, ids, x):
    table = p["embed"]
    return _head(p, _norm(table[ids]) + 2.0 * _norm(table[ids[:, ::-1]]), x)


def attended(p, ids, x):
    """Attention among tokens, behind the norm."""
    h = _norm(p["embed"][ids])
    weights = jax.nn.softmax(jnp.einsum("btc,bsc->bts", h, h * x), axis=-1)
    return _head(p, jnp.einsum("bts,bsc->btc", weights, h), x)


def learned_positions(p, ids, x):
    return _head(p, _norm(p["embed"][ids] + p["positions"][None]), x)


def residual(p, ids, x):
    """The stream goes past the norm, and meets what comes out of it."""
    h = p["embed"][ids]
    return _head(p, _norm(h + jax.nn.leaky_relu((_norm(h) * x) @ p["mix"])), x)


def tied_head(p, ids, x):
    return jax.nn.leaky_relu((_norm(p["embed"][ids]) * x) @ p["mix"]) @ p["embed"].T


def summed(p, ids, x):
    return _head(p, _norm(jnp.sum(p["embed"][ids], axis=1, keepdims=True)), x)


def shifted(p, ids, x):
    h = p["embed"][ids]
    return _head(p, _norm(h + 0.5 * jnp.roll(h, 1, axis=1)), x)


def over_tokens(p, ids, x):
    h = p["embed"][ids]
    return _head(p, h / jnp.sqrt(jnp.mean(h * h, axis=(1, 2), keepdims=True)), x)


def recurrent(p, ids, x):
    def step(h, now):
        h = jax.nn.leaky_relu(h @ p["mix"] + p["embed"][now])
        return h, _norm(h)

    hidden = lax.scan(step, jnp.zeros((ids.shape[0], 4)), ids.T)[1]
    return _head(p, hidden.swapaxes(0, 1), x)


def branched(p, ids, x):
    """Which table serves as the head is known at run time alone; it may be the one looked up."""
    own = jnp.sum(x) > -1e9  # always, which tracing cannot know
    kernel = lax.cond(own, lambda a, b: a, lambda a, b: b, p["embed"], p["other"])
    return jax.nn.leaky_relu((_norm(p["embed"][ids]) * x) @ p["mix"]) @ kernel.T


def scanned_out(p, ids, x):
    """As above, the table handed out of a loop."""
    tables = lax.scan(lambda carry, _: (carry, p["embed"]), 0.0, None, length=2)[1]
    return jax.nn.leaky_relu((_norm(p["embed"][ids]) * x) @ p["mix"]) @ tables[1].T


def by_one_index(p, ids, x):
    """One row at a time, under vmap, as equinox's embedding looks up."""
    return _head(p, _norm(jax.vmap(jax.vmap(lambda i: p["embed"][i]))(ids)), x)


def by_one_index_bare(p, ids, x):
    return _head(p, jax.vmap(jax.vmap(lambda i: p["embed"][i]))(ids), x)


def bare(p, ids, x):
    return _head(p, p["embed"][ids], x)


def read_beside(p, ids, x):
    """The table is seen as a whole, too."""
    return _head(p, _norm(p["embed"][ids]), x), _norm(jnp.sum(p["embed"], axis=0)[None])


class Model(NamedTuple):
    apply: Callable[..., Any]  # of parameters, ids, and data of each token
    reads: str  # names of the parameters
    nodes: int  # counted by hand; 6 hidden units of the head among them
    rows: int  # of them, scales of rows
    # Whether the null space has nothing but the nodes: no product of two linear maps, no sum of two
    # tables, which may be shifted against each other, and no mean that is taken out.
    exact: bool = True

    def draw(self, seed: int, batch: tuple[int, int] = (20, 4)):
        """Parameters, and inputs that read every row."""
        rng = np.random.default_rng(seed)
        params = {name: jnp.asarray(rng.normal(size=SHAPES[name])) for name in self.reads.split()}
        ids = rng.permutation(np.arange(np.prod(batch)) % ROWS).reshape(batch)
        return params, (jnp.asarray(ids), jnp.asarray(rng.normal(size=(*batch, 4))))


SHAPES = {
    "embed": (ROWS, 4),
    "other": (ROWS, 4),
    "positions": (4, 4),
    "mix": (4, 4),
    "up": (4, 6),
    "down": (6, 3),
}
HEAD = "embed up down"

MODELS = {
    "normed": Model(normed, HEAD, 6 + ROWS, ROWS),
    "negated": Model(negated, HEAD, 6 + ROWS, ROWS),
    "centred": Model(centred, HEAD, 6 + ROWS, ROWS, exact=False),
    # Four columns of the table, whose scales "mix" makes up for, and four units with one scale.
    "factorised": Model(factorised, f"{HEAD} mix", 6 + ROWS + 4, ROWS, exact=False),
    "two tables": Model(two_tables, f"{HEAD} other", 6 + 2 * ROWS, 2 * ROWS),
    "one of two": Model(one_of_two, f"{HEAD} other", 6 + ROWS, ROWS, exact=False),
    "read twice": Model(read_twice, HEAD, 6 + ROWS, ROWS),
    "attended": Model(attended, HEAD, 6 + ROWS, ROWS),
    # One scale of all that is added up before the norm.
    "positions": Model(learned_positions, f"{HEAD} positions", 6 + 1, 0, exact=False),
    "residual": Model(residual, f"{HEAD} mix", 6 + 1, 0),
    "tied head": Model(tied_head, "embed mix", 1, 0),
    "summed": Model(summed, HEAD, 6 + 1, 0),
    "shifted": Model(shifted, HEAD, 6 + 1, 0),
    "over tokens": Model(over_tokens, HEAD, 6 + 1, 0),
    "recurrent": Model(recurrent, f"{HEAD} mix", 6 + 1, 0),
    "bare": Model(bare, HEAD, 6 + 4, 0),
    "by one index": Model(by_one_index, HEAD, 6 + ROWS, ROWS),
    "by one index, bare": Model(by_one_index_bare, HEAD, 6 + 4, 0),
    # One scale of both tables, which "mix" makes up for, and no more.
    "branched": Model(branched, "embed mix other", 1, 0, exact=False),
    "scanned out": Model(scanned_out, "embed mix", 1, 0),
    # Five rows in four dimensions have another combination that keeps the direction of their sum.
    "read beside": Model(read_beside, HEAD, 6 + 1, 0, exact=False),
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_counts_rows_and_leaves_the_outputs_alone(x64, name):
    model = MODELS[name]
    params, inputs = model.draw(0)
    group = find_gauge(model.apply, params, *inputs)
    assert group.num_nodes == model.nodes, group
    if model.rows:
        assert isinstance(group, RescalingGroup)
        assert group.num_absorbing >= model.rows
        assert isinstance(group.gauge, FoundGauge)
    for seed in range(3):  # whatever the ids
        _, others = model.draw(seed, (5, 4))
        gap = group.verify(model.apply, params, *others, key=jax.random.key(seed), tolerance=1e-9)
        assert gap < 1e-9


@every_model
def test_rows_scaled_alone_move_what_ties_them(x64, name):
    model = MODELS[name]
    params, inputs = model.draw(0)
    factors = jnp.exp(jax.random.normal(jax.random.key(0), (ROWS, 1)))
    moved = params | {"embed": params["embed"] * factors}
    before, after = (jax.tree.leaves(model.apply(p, *inputs)) for p in (params, moved))
    gap = max(float(jnp.abs(a - b).max()) for a, b in zip(before, after, strict=True))
    assert gap < 1e-9 if model.rows else gap > 1e-3


@every_model
def test_agrees_with_the_null_space(x64, name):
    model = MODELS[name]
    draws = (model.draw(seed) for seed in range(3))
    dimension = null_space_dimension(model.apply, draws, floor=model.nodes)
    assert dimension == model.nodes if model.exact else dimension > model.nodes


@pytest.mark.parametrize("name", ["normed", "factorised", "two tables"])
def test_trajectories_in_path_space_are_invariant(x64, name):
    model = MODELS[name]
    params, inputs = model.draw(0)
    group = find_gauge(model.apply, params, *inputs)
    tx = in_path_space(optax.sgd(1e-3, momentum=0.9), group)
    split = model._replace(apply=lambda p, inputs: model.apply(p, *inputs))
    assert_one_function(split, params, inputs, group, tx)


def test_epsilon_makes_rows_approximate(x64):
    def apply(p, ids, x):
        h = p["embed"][ids]
        return _head(p, h * lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + 1e-6), x)

    params, inputs = MODELS["normed"].draw(0)
    group = find_gauge(apply, params, *inputs)
    assert isinstance(group, RescalingGroup)
    assert (group.num_nodes, group.num_absorbing) == (6 + ROWS, ROWS)
    assert set(group.approximate) == set(group.absorbing)
    assert [note.nodes for note in group.approximations] == [ROWS]
    assert 1e-9 < group.verify(apply, params, *inputs) < 1e-3
    assert find_gauge(apply, params, *inputs, absorbing=False).num_nodes == 6


def test_steps_of_a_scan_tie_rows_safely(x64):
    """Steps are walked through once for all, which can't tell one step's token from another's."""

    def apply(p, ids, x):
        hidden = lax.scan(lambda carry, now: (carry, _norm(p["embed"][now])), 0.0, ids.T)[1]
        return _head(p, hidden.swapaxes(0, 1), x)

    params, inputs = MODELS["normed"].draw(0)
    group = find_gauge(apply, params, *inputs)
    assert group.num_nodes == 6 + 1
    assert group.verify(apply, params, *inputs, tolerance=1e-9) < 1e-9


def test_a_lone_token_ties_rows_safely(x64):
    """A sum over one token does not show."""
    model = MODELS["summed"]
    params, inputs = model.draw(0, (8, 1))
    group = find_gauge(model.apply, params, *inputs)
    assert group.num_nodes == 6 + 1
    assert group.verify(model.apply, params, *model.draw(0)[1], tolerance=1e-9) < 1e-9


def test_large_vocabularies_from_shapes_alone():
    """Rows that are tied are no variables, and free ones are found."""
    shapes = {"embed": (5_000, 4), "positions": (6, 4), "up": (4, 6), "down": (6, 3)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    ids = jax.ShapeDtypeStruct((2, 6), jnp.int32)

    def apply(p, ids, tied):
        h = p["embed"][ids] + (p["positions"][None] if tied else 0.0)
        return jax.nn.relu(_norm(h) @ p["up"]) @ p["down"]

    assert find_gauge(functools.partial(apply, tied=True), params, ids).num_nodes == 6 + 1
    free = find_gauge(functools.partial(apply, tied=False), params, ids)
    assert free.num_nodes == 6 + 5_000


def test_pins_count_no_tokens():
    """Trial scales of tokens are no dimensions of the group."""
    params = {"embed": jnp.ones((ROWS, 4)), "up": jnp.ones((4, 6)), "down": jnp.ones((6, 3))}

    def apply(p, ids):
        return jnp.tanh(p["embed"][ids] @ p["up"]) @ p["down"]

    group = find_gauge(apply, params, jnp.zeros((3, 4), jnp.int32))
    assert group.num_nodes == 4
    assert [(pin.primitive, pin.scales) for pin in group.pins] == [("tanh", 6)]


class Language(nn.Module):
    positions: bool

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(ROWS, 4)(ids)
        if self.positions:
            x = x + self.param("positions", nn.initializers.normal(), (ids.shape[1], 4))[None]
        x = nn.relu(nn.Dense(6)(nn.RMSNorm()(x)))
        return nn.Dense(3)(x)


@pytest.mark.parametrize(("positions", "nodes"), [(False, 4 + 6 + ROWS), (True, 4 + 6 + 1)])
def test_linen_embeddings(positions, nodes):
    ids = jnp.arange(12).reshape(3, 4) % ROWS
    model = Language(positions)
    params = jax.jit(model.init)(jax.random.key(0), ids)
    group = find_gauge(model.apply, params, ids)
    assert group.num_nodes == nodes
    assert group.verify(model.apply, params, ids) < 1e-2
