"""Networks on sequences: recurrent ones, and causal convolutions."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    dense,
    function,
    kernel,
    layered,
    linen,
    series,
)
from benchmarks.path_space.architectures.reasons import GATED_STATE, GATED_TANH, TANH

_SERIES = series(6, 3)


def _relu_rnn(form: Form, params: Any, x: Any) -> Any:
    """Two layers of h' = relu(W h + V x + b), and an output at every step."""
    for name in ("first_", "second_"):
        x = _over_time(functools.partial(_relu_cell, params, name), jnp.zeros_like(x[:, 0, :1])
                       + jnp.zeros((1, 4), x.dtype), x, form)  # fmt: skip
    return dense(params, x)


def _relu_cell(params: Mapping[str, Any], name: str, h: Any, x: Any) -> tuple[Any, Any]:
    h = jax.nn.relu(dense(params, h, f"{name}hidden_") + dense(params, x, f"{name}in_"))
    return h, h


def _over_time(cell: Any, start: Any, x: Any, form: Form) -> Any:
    """The outputs of a cell at all steps of x, [batch, time, ...]."""
    if form.scanned:
        return jnp.swapaxes(jax.lax.scan(cell, start, jnp.swapaxes(x, 0, 1))[1], 0, 1)
    state, outputs = start, []
    for t in range(x.shape[1]):
        state, y = cell(state, x[:, t])
        outputs.append(y)
    return jnp.stack(outputs, axis=1)


class _Recurrent(nn.Module):
    """A linear layer, a cell over time, and a linear output at every step."""

    form: Form
    cell: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x)
        cell = self.cell(4)
        state = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        state = jax.tree.map(lambda zeros: zeros.astype(x.dtype), state)
        if self.form.scanned:
            scan = nn.scan(
                lambda cell, state, x: cell(state, x),
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=1,
                out_axes=1,
            )
            return nn.Dense(4)(scan(cell, state, x)[1])
        outputs = []
        for t in range(x.shape[1]):
            state, y = cell(state, x[:, t])
            outputs.append(y)
        return nn.Dense(4)(jnp.stack(outputs, axis=1))


class _WeightNormConv(nn.Module):
    """A causal convolution with kernels gain * v / |v|."""

    channels: int
    dilation: int

    @nn.compact
    def __call__(self, x):
        v = self.param("v", nn.initializers.normal(), (2, x.shape[-1], self.channels))
        gain = self.param("gain", nn.initializers.ones, (1, 1, self.channels))
        bias = self.param("bias", nn.initializers.zeros, (1, 1, self.channels))
        norm = jnp.sqrt(jnp.sum(v * v, axis=(0, 1), keepdims=True))
        return causal(x, gain * v / norm, self.dilation) + bias


def causal(x: Any, taps: Any, dilation: int) -> Any:
    """A convolution that sees the past alone.

    Args:
        x: [batch, time, in].
        taps: [length, in, out].
        dilation: steps between taps.
    """
    padding = [((taps.shape[0] - 1) * dilation, 0)]
    return jax.lax.conv_general_dilated(
        x, taps, (1,), padding, rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )


class _TemporalConvolution(nn.Module):
    """Blocks of two causal convolutions with weight norm, dilated more and more."""

    @nn.compact
    def __call__(self, x):
        for level, channels in enumerate((4, 4, 3)):
            y = x
            for _ in range(2):
                y = nn.relu(_WeightNormConv(channels, 2**level)(y))
                y = nn.Dropout(0.2, deterministic=True)(y)
            x = nn.Dense(channels)(x) if x.shape[-1] != channels else x
            x = nn.relu(x + y)
        return nn.Dense(4)(x)


def _wavenet(form: Form, params: Any, x: Any) -> Any:
    """Gated causal convolutions; a stream that all add to, and skips that the output sums."""

    def cycle(p: Mapping[str, Any], carry: Any) -> Any:
        x, skips = carry
        for dilation, part in ((1, "near_"), (2, "far_")):
            filtered, gate = (
                causal(x, p[f"{part}{name}"], dilation) for name in ("filter", "gate")
            )
            z = jnp.tanh(filtered) * jax.nn.sigmoid(gate)
            x, skips = x + dense(p, z, f"{part}stream_"), skips + dense(p, z, f"{part}skip_")
        return x, skips

    x = causal(x, params["first"], 1)
    skips = jnp.zeros((*x.shape[:2], 4), x.dtype)
    _, skips = layered(cycle, params["stack"], (x, skips), form)
    return dense(params, jax.nn.relu(dense(params, jax.nn.relu(skips), "hidden_")), "out_")


def _wavenet_shapes() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    for part in ("near_", "far_"):
        cycle |= {f"{part}filter": (2, 3, 4), f"{part}gate": (2, 3, 4)}
        cycle |= kernel(4, 3, f"{part}stream_") | kernel(4, 4, f"{part}skip_")
    return {"first": (2, 3, 3), "stack": [cycle, cycle], **kernel(4, 5, "hidden_"),
            **kernel(5, 4, "out_")}  # fmt: skip


_RELU_RNN = {
    **kernel(3, 4, "first_in_"),
    **kernel(4, 4, "first_hidden_", bias=False),
    **kernel(4, 4, "second_in_"),
    **kernel(4, 4, "second_hidden_", bias=False),
    **kernel(4, 4),
}


def _cell(name: str, source: str, cell: Any) -> Architecture:
    build = linen(lambda form: _Recurrent(form, cell), _SERIES)
    pins = {"tanh": TANH, "logistic": GATED_STATE}
    return Architecture(name, source, "flax linen", build, _SERIES, pins, stack=True)


RECURRENT = [
    Architecture("ReLU RNN", "Le et al., 2015", "JAX", function(_relu_rnn, _RELU_RNN), _SERIES,
                 stack=True),
    _cell("GRU", "Cho et al., 2014", nn.GRUCell),
    _cell("LSTM", "Hochreiter and Schmidhuber, 1997", nn.OptimizedLSTMCell),
    Architecture("TCN", "Bai et al., 2018", "flax linen",
                 linen(lambda _: _TemporalConvolution(), _SERIES), _SERIES),
    Architecture("WaveNet", "van den Oord et al., 2016", "JAX",
                 function(_wavenet, _wavenet_shapes()), _SERIES,
                 {"tanh": TANH, "logistic": GATED_TANH}, stack=True),
]  # fmt: skip
