"""The rescaling group of a multilayer perceptron, read off the shapes of its parameters."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from gsgd_jax.gauge import GROUND, Gauge, grounded_gauge, leaf_names

_REMEDY = (
    "name the dense layers in forward order, mlp_gauge(params, layers=[...]); leaves of no named "
    "layer are then taken to be outside the group."
)


class _Layer(NamedTuple):
    """One dense layer: the numbers of its leaves, and its widths."""

    kernel: int
    bias: int | None
    fan_in: int
    fan_out: int


def mlp_gauge(
    params: optax.Params, *, layers: Sequence[str | Sequence[str]] | None = None
) -> Gauge:
    """The gauge of a multilayer perceptron with ReLU, or any activation with σ(cx) = cσ(x), c > 0.

    Its nodes are the hidden units, numbered through from the first hidden layer to the last. Any
    parameter tree will do, as long as a dense layer is a kernel (in, out) and at most one bias
    (out,): Flax's {"params": {"Dense_0": {"kernel", "bias"}}}, [(W, b), ...], [W, ...], or
    {"w1": ..., "b1": ..., ...}.

    Without `layers` every leaf must belong to a dense layer. Layers are taken in natural order,
    in which "Dense_10" comes after "Dense_9"; should their widths not chain, in the only order in
    which they do. Shapes cannot tell everything, so confirm a doubtful case by the function itself:
    `gauge.rescale(params, key)` must not change the network's outputs.

    Args:
        params: the parameters, or anything with their tree and shapes (`jax.eval_shape`).
        layers: the dense layers in forward order, each following directly upon the other: the path
            of the subtree that holds a kernel and its bias, "hidden/Dense_0" or "0", a leading
            "params/" being optional; or several such paths, ("w1", "b1"), where the leaves of a
            layer stand apart.

    Returns:
        The gauge; with a single layer, it has no node.

    Raises:
        ValueError: if a leaf belongs to no dense layer, the order of the layers is not clear, or
            the widths do not chain.

    Example:
        >>> import jax.numpy as jnp
        >>> params = [(jnp.ones((3, 4)), jnp.ones(4)), (jnp.ones((4, 2)), jnp.ones(2))]
        >>> print(mlp_gauge(params))
        gauge: 4 nodes, 24 of 26 parameters in the group, 22 free dimensions
          0/0  (3, 4)  ground -> nodes 0-3
          0/1  (4,)    ground -> nodes 0-3
          1/0  (4, 2)  nodes 0-3 -> ground
          1/1  (2,)    outside the group
    """
    names = leaf_names(params)
    shapes = [tuple(np.shape(leaf)) for leaf in jax.tree.leaves(params)]
    if layers is None:
        chain = _in_order(_infer_layers(names, shapes), names)
    else:
        chain = [_named_layer(layer, names, shapes) for layer in layers]
    if not chain:
        raise ValueError(f"a multilayer perceptron has at least one dense layer, got none; {names}")
    _check_chain(chain, names)
    return _gauge_of_chain(chain, names, shapes)


def _gauge_of_chain(chain: list[_Layer], names: list[str], shapes: list[tuple[int, ...]]) -> Gauge:
    ends, first = {}, 0  # first: the node number of the present layer's first input
    for position, layer in enumerate(chain):
        width, last = layer.fan_in, position == len(chain) - 1
        tails = np.full(width, GROUND) if position == 0 else np.arange(first, first + width)
        first = first if position == 0 else first + width
        nodes = np.arange(first, first + layer.fan_out)
        heads = np.full(layer.fan_out, GROUND) if last else nodes
        ends[layer.kernel] = (tails[:, None], heads[None, :])
        if layer.bias is not None:
            ends[layer.bias] = (np.full(1, GROUND), heads)
    hidden = sum(layer.fan_out for layer in chain[:-1])
    return grounded_gauge(names, shapes, ends, num_nodes=hidden)


def _infer_layers(names: list[str], shapes: list[tuple[int, ...]]) -> list[_Layer]:
    """The dense layers of a tree in natural order, every leaf belonging to one."""
    strange = [f"{n} {s}" for n, s in zip(names, shapes, strict=True) if len(s) not in (1, 2)]
    if strange:
        raise ValueError(
            f"dense layers have kernels (in, out) and biases (out,), got {strange[0]}; " + _REMEDY
        )
    parents: dict[str, list[int]] = {}
    for i in sorted(range(len(names)), key=lambda i: _natural(names[i])):
        parents.setdefault(names[i].rpartition("/")[0], []).append(i)
    found = []
    for members in parents.values():
        kernels = [i for i in members if len(shapes[i]) == 2]
        biases = [i for i in members if len(shapes[i]) == 1]
        if biases and len(biases) != len(kernels):
            raise ValueError(
                f"a dense layer is one kernel and at most one bias, got "
                f"{', '.join(f'{names[i]} {shapes[i]}' for i in members)} side by side; " + _REMEDY
            )
        for kernel, bias in zip(kernels, biases or [None] * len(kernels), strict=True):
            found.append(_layer([kernel] if bias is None else [kernel, bias], names, shapes))
    return sorted(found, key=lambda layer: _natural(names[layer.kernel]))


def _named_layer(
    layer: str | Sequence[str], names: list[str], shapes: list[tuple[int, ...]]
) -> _Layer:
    """The dense layer whose leaves lie at or below the given paths."""
    paths = [layer] if isinstance(layer, str) else list(layer)
    short = [name.removeprefix("params/") for name in names]
    members = []
    for path in paths:
        wanted = path.strip("/").removeprefix("params/")
        below = [i for i, n in enumerate(short) if n == wanted or n.startswith(wanted + "/")]
        if not below:
            raise ValueError(
                f"layers must name subtrees of the parameters, got {path!r}; the leaves are "
                f"{', '.join(names)}."
            )
        members += below
    return _layer(members, names, shapes)


def _layer(members: list[int], names: list[str], shapes: list[tuple[int, ...]]) -> _Layer:
    kernels = [i for i in members if len(shapes[i]) == 2]
    rest = [i for i in members if i not in kernels]
    if len(kernels) == 1 and len(rest) <= 1:
        fan_in, fan_out = shapes[kernels[0]]
        if not rest:
            return _Layer(kernels[0], None, fan_in, fan_out)
        if shapes[rest[0]] == (fan_out,):
            return _Layer(kernels[0], rest[0], fan_in, fan_out)
    raise ValueError(
        "a dense layer is one kernel (in, out) and at most one bias (out,), got "
        f"{', '.join(f'{names[i]} {shapes[i]}' for i in members)}; " + _REMEDY
    )


def _in_order(layers: list[_Layer], names: list[str]) -> list[_Layer]:
    """The layers in natural order if it chains, else in the one order that does."""
    if all(a.fan_out == b.fan_in for a, b in itertools.pairwise(layers)):
        return layers
    orders = _chains(layers)
    found = [order for order, _ in zip(orders, range(2), strict=False)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{names[x.kernel]} ({x.fan_in}, {x.fan_out})" for x in layers)
    state = "no order does" if not found else "several others do"
    raise ValueError(
        f"the widths of consecutive layers must chain; in natural order they do not, {listed}, and "
        f"{state}; " + _REMEDY
    )


def _chains(layers: list[_Layer], width: int | None = None) -> Iterator[list[_Layer]]:
    """All orders in which the widths chain; layers of one shape keep their natural order."""
    if not layers:
        yield []
    tried = set()
    for i, layer in enumerate(layers):
        shape = (layer.fan_in, layer.fan_out)
        if shape not in tried and width in (None, layer.fan_in):
            tried.add(shape)
            for rest in _chains(layers[:i] + layers[i + 1 :], layer.fan_out):
                yield [layer, *rest]


def _check_chain(chain: list[_Layer], names: list[str]) -> None:
    for one, next_ in itertools.pairwise(chain):
        if one.fan_out != next_.fan_in:
            raise ValueError(
                "the widths of consecutive layers must chain, got "
                f"{names[one.kernel]} ({one.fan_in}, {one.fan_out}) before {names[next_.kernel]} "
                f"({next_.fan_in}, {next_.fan_out}); give `layers` in forward order."
            )
    used = [i for layer in chain for i in (layer.kernel, layer.bias) if i is not None]
    if len(set(used)) != len(used):
        raise ValueError("every layer must be named once, but `layers` names a leaf twice.")


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts "Dense_10" after "Dense_9"."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]
