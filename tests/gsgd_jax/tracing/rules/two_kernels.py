"""A model of two kernels, to see which scales of its hidden units an operation between passes."""

import jax.numpy as jnp
import numpy as np

from gsgd_jax.tracing import find_gauge

WIDTH = 4


def assert_scales_left(middle, nodes, *, tolerance=1e-9):
    """Finds the group of x -> middle(x w) v, four hidden units wide, and verifies it.

    Args:
        middle: the operation.
        nodes: how many scales it leaves.
        tolerance: of the outputs.
    """

    def model(params, x):
        return middle(x @ params[0]) @ params[1]

    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=s)) for s in ((3, WIDTH), (WIDTH, 2))]
    x = jnp.asarray(rng.normal(size=(5, 3)))
    group = find_gauge(model, params, x)
    assert group.num_nodes == nodes, group
    group.verify(model, params, x, tolerance=tolerance)
