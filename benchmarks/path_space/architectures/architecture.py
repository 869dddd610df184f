"""What a row of the table is: a published network at small width, in the forms it is written in."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Network = Callable[..., Any]
"""(parameters, *inputs) -> outputs."""

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
"""(random numbers, how many examples) -> inputs."""


class Form(NamedTuple):
    """How a network is written."""

    scanned: bool = False
    """Whether equal layers, or steps in time, are run by `jax.lax.scan`."""
    epsilon: float = 1e-5
    """Of its norms."""


class Built(NamedTuple):
    """A network in one form."""

    network: Network
    shapes: Any
    """Of its parameters: a tree of `jax.ShapeDtypeStruct`, float32."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A published network."""

    name: str
    source: str
    """Authors and year."""
    framework: str
    build: Callable[[Form], Built]
    draw: Draw
    pins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of every primitive that pins the reason."""
    gain: float = 1.0
    """Of random norms: large, where activations are clipped at a size that must be met."""
    stack: bool = False
    """Whether it is a stack of layers or steps, and so is built in both forms."""

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms it is written in."""
        return (Form(), Form(scanned=True)) if self.stack else (Form(),)

    def inputs(self, examples: int = 2, seed: int = 0) -> tuple[Any, ...]:
        """Random inputs.

        Args:
            examples: how many, where the network has examples.
            seed: of the random numbers.
        """
        return self.draw(np.random.default_rng(seed), examples)


def drawn(shapes: Any, seed: int, gain: float = 1.0) -> Any:
    """Random parameters, none near zero: kernels about 1/sqrt(fan-in), biases small, gains near 1.

    Args:
        shapes: a tree of `jax.ShapeDtypeStruct`.
        seed: of the random numbers.
        gain: the size of gains.

    Returns:
        The tree with float64 NumPy arrays.
    """
    rng = np.random.default_rng(seed)

    def leaf(path: Any, like: Any) -> np.ndarray:
        shape = tuple(like.shape)
        signs = rng.choice([-1.0, 1.0], shape)
        if any(word in jax.tree_util.keystr(path) for word in ("scale", "gain")):
            return gain * signs * rng.uniform(0.5, 1.5, shape)
        if len(shape) < 2:
            return signs * rng.uniform(0.1, 0.4, shape)
        # Signs alternate along the inputs: of units with mixed signs few are dead.
        places = np.indices(shape[:-1]).sum(axis=0)[..., None]
        mixed = (-1.0) ** places * rng.choice([-1.0, 1.0], shape[-1:])
        return mixed * rng.uniform(0.4, 1.4, shape) / np.sqrt(np.prod(shape[:-1]))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def images(size: int, channels: int = 3) -> Draw:
    """Square images.

    Args:
        size: of a side.
        channels: of a pixel.
    """
    return lambda rng, n: (rng.normal(size=(n, size, size, channels)),)


def rows(*widths: int) -> Draw:
    """Vectors, one for each input.

    Args:
        widths: of the inputs.
    """
    return lambda rng, n: tuple(rng.normal(size=(n, width)) for width in widths)


def tokens(vocabulary: int, length: int) -> Draw:
    """Sequences of tokens.

    Args:
        vocabulary: how many kinds of tokens there are.
        length: of a sequence.
    """
    return lambda rng, n: (rng.integers(0, vocabulary, (n, length)).astype(np.int32),)


def series(length: int, channels: int) -> Draw:
    """Sequences of vectors.

    Args:
        length: of a sequence.
        channels: of a vector.
    """
    return lambda rng, n: (rng.normal(size=(n, length, channels)),)


def like(inputs: Sequence[np.ndarray]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of inputs, as JAX would take them: float32, but in float64 mode.

    Args:
        inputs: arrays.
    """
    return [jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)) for x in inputs]


def linen(make: Callable[[Form], nn.Module], draw: Draw) -> Callable[[Form], Built]:
    """A Flax linen module in training; its running averages are no outputs.

    Args:
        make: the module in a form.
        draw: its inputs.
    """

    def build(form: Form) -> Built:
        module = make(form)
        init = functools.partial(module.init, jax.random.key(0))
        shapes = jax.eval_shape(init, *like(draw(np.random.default_rng(0), 2)))["params"]

        def network(params: Any, *inputs: Any) -> Any:
            return module.apply({"params": params}, *inputs, mutable=["batch_stats"])[0]

        return Built(network, shapes)

    return build


def nnx_module(make: Callable[[Form, nnx.Rngs], nnx.Module]) -> Callable[[Form], Built]:
    """A Flax nnx module; its parameters as a plain tree.

    Args:
        make: the module in a form.
    """

    def build(form: Form) -> Built:
        module = nnx.eval_shape(lambda: make(form, nnx.Rngs(0)))
        graph, state = nnx.split(module)

        def network(params: Any, *inputs: Any) -> Any:
            return nnx.merge(graph, nnx.State(params))(*inputs)

        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                              nnx.to_pure_dict(state))  # fmt: skip
        return Built(network, shapes)

    return build


def function(network: Callable[..., Any], shapes: Mapping[str, Any]) -> Callable[[Form], Built]:
    """A function of a plain tree of parameters.

    Args:
        network: (form, parameters, *inputs) -> outputs.
        shapes: of the parameters; what is called stack... is a list of layers, one tree stacked
            in the scanned form.
    """

    def build(form: Form) -> Built:
        tree = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
            dict(shapes),
            is_leaf=lambda node: isinstance(node, tuple),
        )
        if form.scanned:
            tree = jax.eval_shape(stacked, tree)
        return Built(functools.partial(network, form), tree)

    return build


def stacked(params: Any) -> Any:
    """Parameters of the looped form as those of the scanned one.

    Layers called stack_0, stack_1, ... (or a list, or numbers, below a name that begins with
    "stack") become one tree of arrays with a first axis of layers.

    Args:
        params: a tree of dictionaries.
    """
    if not isinstance(params, Mapping):
        return params
    result: dict[str, Any] = {}
    layers: dict[str, dict[int, Any]] = {}
    for name, below in params.items():
        stem, _, number = str(name).rpartition("_")
        if stem.startswith("stack") and number.isdigit():
            layers.setdefault(stem, {})[int(number)] = stacked(below)
        elif str(name).startswith("stack"):
            listed = below.values() if isinstance(below, Mapping) else below
            layers[name] = dict(enumerate(map(stacked, listed)))
        else:
            result[name] = stacked(below)
    for name, numbered in layers.items():
        in_order = [numbered[i] for i in sorted(numbered)]
        result[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)
    return result


def repeated(block: Callable[..., nn.Module], count: int, x: Any, form: Form, name: str = "stack"):
    """Equal linen blocks behind each other, as a loop or a scan.

    Args:
        block: makes one of a name.
        count: of blocks.
        x: the first one's input, or what is handed from block to block.
        form: which of the two.
        name: of the stack; begins with "stack".
    """
    if not form.scanned:
        for i in range(count):
            x = block(name=f"{name}_{i}")(x)
        return x
    scan = nn.scan(
        lambda module, x, _: (module(x), None),
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=count,
    )
    return scan(block(name=name), x, None)[0]


def layered(layer: Callable[[Any, Any], Any], params: Any, x: Any, form: Form) -> Any:
    """Equal layers of a plain tree behind each other, as a loop or a scan.

    Args:
        layer: (parameters of a layer, x) -> x.
        params: of the layers: a list, or in the scanned form one tree of stacked arrays.
        x: the first one's input.
        form: which of the two.
    """
    if form.scanned:
        return jax.lax.scan(lambda x, p: (layer(p, x), None), x, params)[0]
    for p in params:
        x = layer(p, x)
    return x


def dense(p: Mapping[str, Any], x: Any, name: str = "") -> Any:
    """The product x W + b, with parameters called `kernel` and, if need be, `bias`.

    Args:
        p: the parameters.
        x: [..., in].
        name: a prefix of their names.
    """
    y = x @ p[f"{name}kernel"]
    if f"{name}bias" not in p:
        return y
    return y + p[f"{name}bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def kernel(fan_in: int, fan_out: int, name: str = "", *, bias: bool = True) -> dict[str, Any]:
    """Shapes of the parameters of `dense`.

    Args:
        fan_in: inputs.
        fan_out: outputs.
        name: a prefix.
        bias: whether there is one.
    """
    shapes: dict[str, Any] = {f"{name}kernel": (fan_in, fan_out)}
    return shapes | ({f"{name}bias": (fan_out,)} if bias else {})
