"""A perceptron's output as a sum over its paths."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gsgd_jax.coordinates.skeleton import edge_ends
from gsgd_jax.gauge import GROUND, Gauge
from gsgd_jax.structure import Path, all_paths


class PathRepresentation(NamedTuple):
    """What each path of a network contributes on each input; n paths, a batch of inputs."""

    values: jax.Array  # float [n]: the product of weights along the path
    active: jax.Array  # bool [batch, n]: whether all units on the path are switched on
    features: jax.Array  # float [batch, n]: the input that it starts from, 1 for a bias
    outputs: np.ndarray  # int [n]: the output that it leads to


def path_representation(
    params: optax.Params, gauge: Gauge, inputs: jax.Array, paths: Sequence[Path] | None = None
) -> PathRepresentation:
    r"""The parts of f_k(x) = Σ_p v_p a_p(x) x_p, summed over the paths p that lead to output k.

    v_p is the product of weights along p, a_p(x) is 1 if every ReLU on it is switched on at x and
    0 otherwise, and x_p is the input from which p starts. The group leaves every factor alone, so a
    function of path values and inputs is all that a network is. There are as many paths as products
    of widths: this is for small perceptrons, to look at and to check with.

    Args:
        params: of a multilayer perceptron with ReLU.
        gauge: its gauge, as `mlp_gauge` gives it: kernels (in, out) and biases (out,).
        inputs: float [batch, in].
        paths: as entry numbers; None for all of them.

    Returns:
        The parts, to be summed by `sum_over_paths`.

    Raises:
        ValueError: if a leaf is neither a kernel nor a bias, nodes form a cycle, or there are too
            many paths; see `all_paths`.

    Example:
        >>> from gsgd_jax import mlp_gauge
        >>> params = [jnp.array([[2.0, -3.0]]), jnp.array([[5.0], [7.0]])]
        >>> parts = path_representation(params, mlp_gauge(params), jnp.array([[1.0], [-1.0]]))
        >>> parts.values, parts.features
        (Array([ 10., -21.], dtype=float32), Array([[ 1.,  1.],
               [-1., -1.]], dtype=float32))
        >>> parts.active
        Array([[ True, False],
               [False,  True]], dtype=bool)
        >>> sum_over_paths(parts).ravel()  # relu(2 x) 5 + relu(-3 x) 7
        Array([10., 21.], dtype=float32)

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, equation 1.
    """
    strange = [
        (name, s) for name, s in zip(gauge.names, gauge.shapes, strict=True) if not 1 <= len(s) <= 2
    ]
    if strange:
        raise ValueError(
            "the path representation is for perceptrons, with kernels (in, out) and biases (out,), "
            f"got {strange[0][0]} of shape {strange[0][1]}; take `path_values` for other networks."
        )
    paths = all_paths(gauge) if paths is None else list(paths)
    leaves = gauge.leaves(params)
    weights = jnp.concatenate([leaf.ravel() for leaf in leaves])
    pad = gauge.num_entries  # an entry of value 1, to make all paths equally long
    longest = max(map(len, paths), default=0)
    padded = np.array([[*path, *[pad] * (longest - len(path))] for path in paths], np.int64)
    padded = padded.reshape(len(paths), longest)
    ones = jnp.ones([1], weights.dtype)
    values = jnp.prod(jnp.concatenate([weights, ones])[padded], axis=1)

    _, heads = edge_ends(gauge, np.arange(gauge.num_entries))
    ids = np.append(heads, GROUND)[padded]
    units = jnp.pad(unit_inputs(params, gauge, inputs) > 0, ((0, 0), (0, 1)), constant_values=True)
    active = jnp.all(units[:, ids], axis=2)  # -1, ground and padding, finds the last: switched on

    sources, targets = _ports(gauge)
    first, last = np.array([(path[0], path[-1]) for path in paths], np.int64).reshape(-1, 2).T
    extended = jnp.pad(inputs, ((0, 0), (0, 1)), constant_values=1)  # source -1 is a bias's
    return PathRepresentation(values, active, extended[:, sources[first]], targets[last])


def sum_over_paths(parts: PathRepresentation) -> jax.Array:
    """The network's outputs from its paths; see `path_representation`.

    Args:
        parts: of all paths.

    Returns:
        float [batch, out].
    """
    terms = parts.values[None] * jnp.where(parts.active, parts.features, 0)
    count = int(parts.outputs.max(initial=-1)) + 1
    return jnp.zeros((len(terms), count), terms.dtype).at[:, parts.outputs].add(terms)


def unit_inputs(params: optax.Params, gauge: Gauge, inputs: jax.Array) -> jax.Array:
    """What every hidden unit receives before its ReLU, found by going through the graph.

    Args:
        params: as in `path_representation`.
        gauge: its gauge, as `mlp_gauge` gives it.
        inputs: float [batch, in].

    Returns:
        float [batch, num_nodes].

    Raises:
        ValueError: if nodes form a cycle.
    """
    weights = jnp.concatenate([leaf.ravel() for leaf in gauge.leaves(params)])
    tails, heads = edge_ends(gauge, np.arange(gauge.num_entries))
    sources, _ = _ports(gauge)
    extended = jnp.pad(inputs, ((0, 0), (0, 1)), constant_values=1)
    received = jnp.zeros((len(inputs), gauge.num_nodes), weights.dtype)
    done = np.zeros(gauge.num_nodes + 1, bool)
    done[GROUND] = True
    while not done.all():
        # A layer: all nodes whose edges come from nodes that are done.
        waiting = np.zeros(gauge.num_nodes, bool)
        waiting[heads[(heads != GROUND) & ~done[tails]]] = True
        layer = ~waiting & ~done[:-1]
        if not layer.any():
            raise ValueError(
                "the path representation is for feed-forward networks, but nodes of this gauge "
                "feed themselves, as in residual streams and recurrent layers."
            )
        edges = np.flatnonzero((heads != GROUND) & np.append(layer, False)[heads])
        from_ground = tails[edges] == GROUND
        sent = jnp.where(
            from_ground,
            extended[:, sources[edges]],
            jax.nn.relu(received)[:, np.where(from_ground, 0, tails[edges])],
        )
        received = received.at[:, heads[edges]].add(sent * weights[edges][None])
        done[:-1] |= layer
    return received


def _ports(gauge: Gauge) -> tuple[np.ndarray, np.ndarray]:
    """Of every entry its row, the input it reads if it reads one, -1 for biases; and its column."""
    rows, columns = [], []
    for shape in gauge.shapes:
        index = np.indices(shape).reshape(len(shape), -1)
        bias = len(shape) < 2
        rows.append(np.full(index.shape[1], -1) if bias else index[0])
        columns.append(index[-1])
    return np.concatenate(rows), np.concatenate(columns)
