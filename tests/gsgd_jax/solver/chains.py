"""Layers one behind another, in depth or in time, from initialisers in use."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from gsgd_jax.balance import balancing_scales

INITIALIZERS = {
    "he": jax.nn.initializers.he_normal(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "glorot": jax.nn.initializers.glorot_uniform(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "torch": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


def layers(sizes, *, initializer="he", last=1.0, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    kernels = [
        INITIALIZERS[initializer](key, shape)
        for key, shape in zip(keys, itertools.pairwise(sizes), strict=False)
    ]
    return [*kernels[:-1], last * kernels[-1]]


def network(params, x):
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1]


def recurrent(params, x):
    """Three steps of one layer, from a state of zeros."""
    state = jnp.zeros((len(x), len(params["a"])))
    for _ in range(3):
        state = jax.nn.relu(x @ params["in"] + state @ params["a"])
    return state @ params["out"]


def frames(params, group):
    """Log c of the plain balance, and of the frame that training has."""
    plain = balancing_scales(params, group)
    return np.log(plain), np.log(balancing_scales(params, group, small_as_zero=True))
