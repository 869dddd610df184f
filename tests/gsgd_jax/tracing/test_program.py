"""A model that cannot be traced as it was given is one error, which says what was forgotten."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

from gsgd_jax import find_gauge, find_signs

X = np.ones((2, 3), np.float32)


class Network(nn.Module):
    """One hidden layer, with whatever makes flax ask for more."""

    dropout: float = 0.0
    norm: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x) if self.norm else x
        x = nn.Dropout(self.dropout, deterministic=False)(x) if self.dropout else x
        return nn.Dense(2)(nn.relu(nn.Dense(4)(x)))


class Switched(Network):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2 if train else 3)(x)


class Scaled(struct.PyTreeNode):
    """A module that is its own parameters, as Equinox's are."""

    scale: jax.Array

    def __call__(self, x):
        return self.scale * x


def drawn(model, *inputs):
    """Variables by their shapes alone; nothing is compiled."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(lambda: model.init(keys, *inputs))
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)


PLAIN, SWITCHED = Network(), Switched()
VARIABLES, OF_SWITCHED = drawn(PLAIN, X), drawn(SWITCHED, X, False)
NORMED, DROPPED = Network(norm=True), Network(dropout=0.5)


@pytest.mark.parametrize(
    ("model", "arguments", "rule", "came"),
    [
        (PLAIN.apply, (VARIABLES,), "every input that it takes", "got none: Network.__call__() "
         "missing 1 required positional argument: 'x'"),
        (SWITCHED.apply, (OF_SWITCHED, X), "every input that it takes", "got float32[2, 3]: "
         "Switched.__call__() missing 1 required positional argument: 'train'"),
        (lambda params, x, y: x @ params, (X.T, X), "every input that it takes", "argument: 'y'"),
        (lambda params, x, *, train: x @ params, (X.T, X), "close over the rest", "'train'"),
        (PLAIN.apply, (VARIABLES["params"], X), "with the names of their collections",
         "got 'Dense_0', 'Dense_1': Tried to access"),
        (NORMED.apply, ({"params": drawn(NORMED, X)["params"]}, X),
         "with the names of their collections", "got 'params': Tried to access"),
        (DROPPED.apply, (drawn(DROPPED, X), X), "or close over its key", 'PRNG for "dropout"'),
        (SWITCHED.apply, (OF_SWITCHED, X, False), "close over what is no array",
         "got float32[2, 3], False"),
        (PLAIN, (VARIABLES, X), "a function of parameters and inputs", "got Network, a module"),
        (nnx.Linear(3, 2, rngs=nnx.Rngs(0)), (X,), "split them off", "got Linear, which holds"),
        (Scaled(jnp.ones(())), (X,), "split them off", "got Scaled, which holds"),
    ],
)  # fmt: skip
def test_what_was_forgotten_is_named(model, arguments, rule, came):
    with pytest.raises(TypeError, match=re.escape(came)) as raised:
        find_gauge(model, *arguments)
    assert rule in str(raised.value)
    assert str(raised.value).endswith(".")
    assert "https" not in str(raised.value)
    with pytest.raises(TypeError, match=re.escape(came)):
        find_signs(model, *arguments)


def test_what_models_raise_of_their_own_stays_as_it_is():
    def model(params, x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        find_gauge(model, X, X)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        find_gauge(lambda params, x: params if x.sum() > 0 else x, X, X)
    with pytest.raises(TypeError, match="dot_general requires contracting dimensions"):
        find_gauge(lambda params, x: x @ params, jnp.asarray(X), X)


def test_a_partial_that_holds_arrays_is_a_function():
    model = jax.tree_util.Partial(lambda scale, params, x: scale * (x @ params), jnp.ones(()))
    assert find_gauge(model, X.T, X).num_nodes == 0
