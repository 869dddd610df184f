"""Residual networks with parameters of ordinary size, and what is read off them."""

import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from common.networks import Block

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3))
CIFAR = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def shapes(network, images=CIFAR):
    return jax.eval_shape(network.init, KEY, images)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def random_variables(network, images):
    """Parameters and statistics of ordinary size, none of them at a special value; float64."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(size=leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, size=leaf.shape)
        return 0.3 * rng.normal(size=leaf.shape)

    return jax.tree_util.tree_map_with_path(draw, shapes(network, images))


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def is_block(module, method):
    return isinstance(module, Block)


def with_features(network, variables, images):
    """The output of every block, in order, as the network computes it."""
    _, state = network.apply(variables, images, capture_intermediates=is_block)
    return [value["__call__"][0] for value in state["intermediates"].values()]
