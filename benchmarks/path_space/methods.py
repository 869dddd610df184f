"""What G-SGD is compared with on image networks, and how each is made for a given network.

SGD, Adam and RMSProp on weights and in path space, each pair from the same weights; SGD in the two
other geometries that do not see the scale, Path-SGD and equi-normalisation. `Problem` is a network
with all that does not depend on the seed: its group, and the papers' skeleton.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from benchmarks.path_space.rates import Line
from common.networks import plain, resnet
from common.networks.resnet import Stem
from gsgd_jax import (
    Gauge,
    Skeleton,
    choose_skeleton,
    find_gauge,
    in_path_space,
    in_path_space_with_reference_norms,
)
from gsgd_jax.family import path_sgd, scale_by_path_norm, with_enorm


class Method(NamedTuple):
    """One row: what it steps by, on what, and where it starts."""

    name: str
    rule: Literal["sgd", "adam", "rmsprop"]
    on: Literal["weights", "path space", "path norm", "equal norms"] = "weights"
    reset: bool = False
    """Whether it starts from the papers' initialisation, skeleton weights at 1."""

    @property
    def line(self) -> Line:
        """Beside the same rule from the same weights, or with the other geometries."""
        if self.on in _GEOMETRIES:
            return Line("other geometries", self.name, 2 + _GEOMETRIES.index(self.on))
        start = "skeleton at 1" if self.reset else "usual start"
        name = {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSProp"}[self.rule]
        in_paths = self.on == "path space"
        return Line(f"{name}, {start}", "in path space" if in_paths else "on weights", not in_paths)


_GEOMETRIES = ("path norm", "equal norms")


METHODS = (
    Method("SGD", "sgd"),
    Method("G-SGD", "sgd", on="path space"),
    Method("SGD, skeleton init", "sgd", reset=True),
    Method("G-SGD, skeleton init", "sgd", on="path space", reset=True),
    Method("Path-SGD", "sgd", on="path norm"),
    Method("ENorm", "sgd", on="equal norms"),
    Method("Adam", "adam"),
    Method("G-Adam", "adam", on="path space"),
    Method("RMSProp", "rmsprop"),
    Method("G-RMSProp", "rmsprop", on="path space"),
)

PAIRS = (
    ("G-SGD", "SGD"),
    ("G-SGD, skeleton init", "SGD, skeleton init"),
    ("G-Adam", "Adam"),
    ("G-RMSProp", "RMSProp"),
)
"""The same rule from the same weights, in path space and on weights."""

LINES = {method.name: method.line for method in METHODS}
"""Where each method is drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Which methods an experiment compares, at which learning rates."""

    methods: tuple[str, ...]
    learning_rates: tuple[float, ...]
    """Of the methods made from SGD."""
    adaptive_rates: tuple[float, ...]
    """Of those made from Adam and RMSProp."""
    bfloat16: bool = False
    """Whether networks compute in bfloat16; parameters stay float32."""

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates of a method."""
        return self.learning_rates if method.rule == "sgd" else self.adaptive_rates


def named(names: Sequence[str], methods: Sequence[Method]) -> list[Method]:
    """Methods by name, in the order in which they are named.

    Raises:
        ValueError: if there is none of that name.
    """
    known = {method.name: method for method in methods}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"methods are {'; '.join(known)}. Got {'; '.join(unknown)}.")
    return [known[name] for name in names]


WITHOUT_NORM = " without norm"


class Problem(NamedTuple):
    """A network, and what all methods and seeds share."""

    module: nn.Module
    averages: Any
    """The collections beside the parameters, as they are before training; {} where there is none.
    """
    image: jax.Array
    """One example, [1, height, width, channels]."""
    gauge: Gauge
    """The rescalings that leave the network in training exactly alone."""
    published: Skeleton
    """The papers': the diagonal of the group that the network would have without its norms."""
    normalised: bool

    def by_first_averages(self, params: Any, images: jax.Array) -> Any:
        """The logits where norms use the averages they begin with."""
        return self.module.apply({**self.averages, "params": params}, images)


def problem(
    name: str, image: jax.Array, num_classes: int, key: jax.Array, *, width: float,
    dtype: DTypeLike = jnp.float32, stem: Stem = "3x3",
) -> tuple[Problem, Callable[[jax.Array], Any]]:  # fmt: skip
    """Builds a network and finds its group; and the function that draws first weights from a key.

    Its name is "plain-34" or "ResNet-34", or has another depth; " without norm" behind it for none.
    The example is [1, height, width, channels]; parameters are float32, whatever the dtype.

    Raises:
        ValueError: if there is no such network.
    """
    family, _, depth = name.removesuffix(WITHOUT_NORM).partition("-")
    makers: dict[str, Callable[..., nn.Module]] = {"plain": plain, "ResNet": resnet}
    if family not in makers or not depth.isdecimal():
        raise ValueError(
            f"networks are called plain-DEPTH or ResNet-DEPTH, with {WITHOUT_NORM!r} behind it or "
            f"not, got {name!r}."
        )
    normalised = not name.endswith(WITHOUT_NORM)
    make = functools.partial(makers[family], int(depth), num_classes, width=width, stem=stem)
    module = make(norm="batch" if normalised else None, dtype=dtype)
    # The weights of a tree without norms stand under the same names: it can read this one's.
    bare = make(norm=None, use_bias=not normalised)
    init = jax.jit(module.init)
    variables = init(key, image)
    params = variables["params"]
    averages = {kind: leaves for kind, leaves in variables.items() if kind != "params"}

    def trained(params: Any, images: jax.Array) -> Any:
        variables = {**averages, "params": params}
        return module.apply(variables, images, train=True, mutable=list(averages))[0]

    def without_norms(params: Any, images: jax.Array) -> Any:
        return bare.apply({"params": params}, images)

    gauge, without = (
        _graph(find_gauge(f, params, jnp.repeat(image, 2, axis=0)), name)
        for f in (trained, without_norms)
    )
    # The diagonal looks at no value; at first weights products along 34 layers leave float32.
    published = choose_skeleton(without, jax.tree.map(jnp.ones_like, params), basis="paths")
    built = Problem(module, averages, image, gauge, published, normalised)
    return built, lambda key: init(key, image)["params"]


def _graph(found: Any, name: str) -> Gauge:
    gauge = found if isinstance(found, Gauge) else found.gauge
    if gauge is None:
        raise ValueError(
            f"a skeleton needs a group that is a graph, and that of {name} is none; take another "
            "network."
        )
    return gauge


def transformation(method: Method, given: Problem) -> Callable[[Any], optax.GradientTransformation]:
    """From a learning rate, which may be traced, to what a method steps by.

    In path space from the usual initialisation that is `in_path_space`'s default, on the weights of
    the balanced copy of the start; from the papers' initialisation it is directed paths.
    """
    rule = {"sgd": optax.sgd, "adam": optax.adam, "rmsprop": optax.rmsprop}[method.rule]
    if method.on == "weights":
        return rule
    if method.on == "equal norms":
        return lambda rate: with_enorm(rule(rate), given.gauge)
    if method.on == "path norm":
        return lambda rate: path_sgd(rate, given.by_first_averages, given.image)
    if not method.reset:
        return lambda rate: in_path_space(rule(rate), given.gauge)
    if given.normalised:
        return lambda rate: in_path_space_with_reference_norms(rule(rate), given.published)
    return lambda rate: in_path_space(rule(rate), given.published)


def path_sgd_unit(given: Problem, params: Any) -> jax.Array:
    r"""The harmonic mean of Path-SGD's κ over a network's entries: the unit of its steps here.

    In steps of this size the factors unit / κ_e by which it differs from SGD are 1 on average. κ is
    a product over all layers, so of quite another order in each network, and without a unit no grid
    would serve Path-SGD and SGD alike. Entries through which no path leads are left out.
    """
    tx = scale_by_path_norm(given.by_first_averages, given.image)
    ones = jax.tree.map(jnp.ones_like, params)
    inverses = tx.update(ones, tx.init(params), params)[0]
    count = optax.tree.sum(jax.tree.map(lambda leaf: (leaf > 0).astype(leaf.dtype), inverses))
    return jnp.asarray(count / optax.tree.sum(inverses))
