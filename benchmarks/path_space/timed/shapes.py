"""`find_gauge` from shapes alone, beside `jax.make_jaxpr`: CPU seconds and memory.

Each is called twice, every time with a new function, since JAX keeps what it traced of a function
that it knows: the first call is what a user waits for, in the second JAX knows the library
functions within. Peak memory is what Python holds, NumPy's arrays included, in
a call of `find_gauge` under `tracemalloc`; that call is not timed.
"""

import math
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.reports import by_setting, met, values, where
from common.networks import resnet
from common.results.records import Record
from common.results.tables import markdown
from gsgd_jax import find_gauge

FIND, JAXPR = "find_gauge", "make_jaxpr"
RESIDUAL, LANGUAGE = "ResNet-50, ImageNet", "GPT, 124M"
SECONDS_TARGET, MEGABYTES_TARGET = 2.0, 200.0
_FIRST, _SECOND, _MEMORY = "first_cpu_seconds", "second_cpu_seconds", "peak_megabytes"
_LAYERS, _HEADS = 12, 12
Traceable = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function, and shapes and dtypes of its arguments, parameters first."""


def from_shapes(networks: Mapping[str, Traceable], seed: int) -> Iterator[Record]:
    """Yields CPU seconds of both ways for each network, and the memory that `find_gauge` takes.

    Args:
        networks: by name.
        seed: for the records; no random number is drawn.
    """
    for network, (function, arguments) in networks.items():
        setting, spent = {"network": network, "batch_size": 2}, {}
        for method in (JAXPR, FIND):
            spent[method] = [_cpu_seconds(method, _fresh(function), arguments) for _ in range(2)]
        tracemalloc.start()
        find_gauge(function, *arguments)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        for method, seconds in spent.items():
            memory = {_MEMORY: peak} if method == FIND else {}
            metrics = dict(zip((_FIRST, _SECOND), seconds, strict=True)) | memory
            yield Record(
                method=method, setting=setting, seed=seed, metrics=metrics, wall_time=sum(seconds),
            )  # fmt: skip


def published(names: Sequence[str], width: float) -> dict[str, Traceable]:
    """The networks of these names.

    Args:
        names: any of `RESIDUAL` and `LANGUAGE`.
        width: a factor on all widths.
    """
    makers = {RESIDUAL: _residual, LANGUAGE: _language}
    return {name: makers[name](width) for name in names}


def is_from_shapes(record: Record) -> bool:
    """Whether a record is one of these."""
    return _FIRST in record.metrics


def table(records: Sequence[Record]) -> str:
    """Seconds of both, their ratio, memory, and verdicts; empty if the records do not say it."""
    rows = []
    for network, runs in by_setting(list(filter(is_from_shapes, records)), "network").items():
        cells = [network]
        for call in (_FIRST, _SECOND):
            jaxpr, find = (values(where(runs, method), call) for method in (JAXPR, FIND))
            ratio = np.median(np.asarray(find) / np.asarray(jaxpr))
            cells += [f"{np.median(jaxpr):.2f}", f"{np.median(find):.2f}", f"{ratio:.1f}"]
        slowest = max(values(where(runs, FIND), _FIRST))
        memory = max(values(where(runs, FIND), _MEMORY))
        cells.append(f"{SECONDS_TARGET:g} s: {met(slowest, SECONDS_TARGET, at_most=True)}")
        verdict = met(memory, MEGABYTES_TARGET, at_most=True)
        rows.append([*cells, f"{memory:.0f} of {MEGABYTES_TARGET:g}: {verdict}"])
    if not rows:
        return ""
    header = [
        "network", f"first call, CPU s, {JAXPR}", FIND, "ratio", f"second call, {JAXPR}", FIND,
        "ratio", "target, first call", "peak memory, MB",
    ]  # fmt: skip
    return f"From shapes alone, nothing computed:\n\n{markdown(header, rows)}"


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as another object, of which JAX has kept nothing."""
    return lambda *arguments: function(*arguments)


def _cpu_seconds(method: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    begun = time.process_time()
    if method == FIND:
        find_gauge(function, *arguments)
    else:
        jax.make_jaxpr(function)(*arguments)
    return time.process_time() - begun


def _residual(width: float) -> Traceable:
    """ResNet-50 in training on ImageNet's images."""
    module = resnet(50, 1000, width=width, stem="7x7")
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    shapes = dict(jax.eval_shape(module.init, jax.random.key(0), images))
    params = shapes.pop("params")

    def logits(params: Any, rest: Any, images: Any) -> Any:
        variables = {"params": params, **rest}
        return module.apply(variables, images, train=True, mutable=list(rest))[0]

    return logits, (params, shapes, images)


def _language(width: float) -> Traceable:
    """GPT as it was published (Radford et al., 2019), of 124M parameters, but with ReLU.

    Layer norms with gain and bias, biases everywhere, the embedding tied to the head.
    """
    size = max(round(64 * width), 1)  # of a head
    channels, vocabulary, length = _HEADS * size, round(50257 * width), 1024

    def shaped(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def affine(name: str, into: int, out_of: int) -> dict[str, jax.ShapeDtypeStruct]:
        return {f"{name}_kernel": shaped(into, out_of), f"{name}_bias": shaped(out_of)}

    def norm(name: str) -> dict[str, jax.ShapeDtypeStruct]:
        return {f"{name}_gain": shaped(channels), f"{name}_bias": shaped(channels)}

    block = {
        **norm("first"),
        **affine("qkv", channels, 3 * channels),
        **affine("out", channels, channels),
        **norm("second"),
        **affine("up", channels, 4 * channels),
        **affine("down", 4 * channels, channels),
    }
    params = {
        "tokens": shaped(vocabulary, channels),
        "positions": shaped(length, channels),
        "blocks": [block] * _LAYERS,
        **norm("last"),
    }
    return _logits, (params, jax.ShapeDtypeStruct((2, length), jnp.int32))


def _logits(params: Any, tokens: Any) -> Any:
    x = params["tokens"][tokens] + params["positions"][None]
    for p in params["blocks"]:
        x = x + _attention(p, _normed(p, "first", x))
        hidden = jax.nn.relu(_affine(p, "up", _normed(p, "second", x)))
        x = x + _affine(p, "down", hidden)
    return _normed(params, "last", x) @ params["tokens"].T


def _attention(p: Mapping[str, Any], x: Any) -> Any:
    batch, length, channels = x.shape
    parts = jnp.split(_affine(p, "qkv", x), 3, axis=-1)
    query, key, value = (part.reshape(batch, length, _HEADS, -1) for part in parts)
    scores = jnp.einsum("bthd,bshd->bhts", query, key) / math.sqrt(channels // _HEADS)
    past = jnp.tril(jnp.ones((1, 1, length, length), bool))
    weights = jax.nn.softmax(jnp.where(past, scores, -1e9), axis=-1)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, value)
    return _affine(p, "out", mixed.reshape(x.shape))


def _affine(p: Mapping[str, Any], name: str, x: Any) -> Any:
    return x @ p[f"{name}_kernel"] + p[f"{name}_bias"][None, None]


def _normed(p: Mapping[str, Any], name: str, x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + 1e-5)
    return normed * p[f"{name}_gain"][None, None] + p[f"{name}_bias"][None, None]
