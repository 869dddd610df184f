"""A small network, its batches and the rules that most tests of the simulator run."""

import numpy as np
import optax

from dcasgd_jax import dcasgd
from tests.dcasgd_jax.networks import batches_of, weights_of

SIZES, STEPS = (6, 5, 3), 40

RULES = {
    "asgd": lambda: optax.sgd(0.3),
    "dcasgd-c": lambda: dcasgd(0.3, 0.5),
    "dcasgd-a": lambda: dcasgd(0.3, 2.0, mean_square_decay=0.95),
    "dcasgd-a, momentum, decay": lambda: dcasgd(
        0.1, 2.0, mean_square_decay=0.9, momentum=0.8, weight_decay=1e-2
    ),
}


def draw():
    """First weights and batches."""
    rng = np.random.default_rng(0)
    return weights_of(SIZES, rng), batches_of(STEPS, 4, SIZES, rng)
