"""Language models: transformers with gated units, experts, and the speed-run form of GPT."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    dense,
    function,
    kernel,
    layered,
    tokens,
)
from benchmarks.path_space.architectures.patches import squared_relu
from benchmarks.path_space.architectures.reasons import (
    POSITIONS,
    SIGMOID_GATE,
    SILU,
    SOFT_CAP,
    SOFTMAX,
    SOFTMAX_ROUTER,
)

VOCABULARY, LENGTH, WIDTH, HEADS, HIDDEN = 6, 5, 4, 2, 6
_SIZE = WIDTH // HEADS
Layer = Callable[[Mapping[str, Any], Any, Form], Any]


def rms_norm(x: Any, epsilon: float) -> Any:
    """Entries over their root mean square along the last axis.

    Args:
        x: an array.
        epsilon: added to the mean square.
    """
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


def _gained(p: Mapping[str, Any], name: str, x: Any, form: Form) -> Any:
    gain = p[f"{name}_gain"]
    return rms_norm(x, form.epsilon) * gain.reshape((1,) * (x.ndim - 1) + gain.shape)


def _rotary(x: Any) -> Any:
    """Turns pairs of dimensions by angles that grow with the position; x is [b, t, h, d]."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = jnp.arange(x.shape[1], dtype=x.dtype)[:, None] * rates[None, :]
    cosine, sine = (f(angles)[None, :, None, :] for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cosine + second * sine, second * cosine - first * sine], -1)


def _heads(x: Any) -> Any:
    return x.reshape(*x.shape[:-1], HEADS, -1)


def _attended(q: Any, k: Any, v: Any) -> Any:
    """Causal attention; all of [b, t, h, d]. Gives [b, t, h d]."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(q.shape[-1]).astype(q.dtype)
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)
    y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)
    return y.reshape(*y.shape[:2], -1)


def _attention(p: Mapping[str, Any], x: Any) -> Any:
    q, k, v = (_heads(dense(p, x, name)) for name in ("q_", "k_", "v_"))
    return dense(p, _attended(_rotary(q), _rotary(k), v), "o_")


_ATTENTION = {
    name: shape
    for part in ("q_", "k_", "v_", "o_")
    for name, shape in kernel(WIDTH, WIDTH, part, bias=False).items()
}
_NORMS = {"attention_gain": (WIDTH,), "mlp_gain": (WIDTH,)}


def _gated_mlp(gate: Callable[[Any], Any], p: Mapping[str, Any], x: Any) -> Any:
    return dense(p, gate(dense(p, x, "gate_")) * dense(p, x, "up_"), "down_")


_GATED = {
    **kernel(WIDTH, HIDDEN, "gate_", bias=False),
    **kernel(WIDTH, HIDDEN, "up_", bias=False),
    **kernel(HIDDEN, WIDTH, "down_", bias=False),
}


def _decoder(mlp: Any, form: Form, params: Any, ids: Any) -> Any:
    """Pre-norm transformer with RMSNorm, rotary positions, and a head of its own."""

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        x = x + _attention(p, _gained(p, "attention", x, form))
        return x + mlp(p, _gained(p, "mlp", x, form))

    x = layered(layer, params["stack"], params["embedding"][ids], form)
    return dense(params, _gained(params, "last", x, form), "head_")


def _decoder_shapes(mlp: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embedding": (VOCABULARY, WIDTH),
        "stack": [{**_ATTENTION, **_NORMS, **mlp} for _ in range(2)],
        "last_gain": (WIDTH,),
        **kernel(WIDTH, VOCABULARY, "head_", bias=False),
    }


def _waves(length: int, dtype: Any) -> Any:
    """Sines and cosines of the position, [length, WIDTH]."""
    rates = 10000.0 ** (-2 * jnp.arange(WIDTH // 2, dtype=dtype) / WIDTH)
    angles = jnp.arange(length, dtype=dtype)[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _post_norm(form: Form, params: Any, ids: Any) -> Any:
    """The first transformer: LayerNorm behind each addition, waves of the position, tied output."""

    def normed(p: Mapping[str, Any], name: str, x: Any) -> Any:
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        return _gained(p, name, x, form) + p[f"{name}_shift"].reshape(1, 1, -1)

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        q, k, v = (_heads(dense(p, x, name)) for name in ("q_", "k_", "v_"))
        x = normed(p, "attention", x + dense(p, _attended(q, k, v), "o_"))
        return normed(p, "mlp", x + dense(p, jax.nn.relu(dense(p, x, "up_")), "down_"))

    table = params["embedding"]
    x = WIDTH**0.5 * table[ids] + _waves(ids.shape[1], table.dtype)[None]
    return layered(layer, params["stack"], x, form) @ table.T


_POST_NORM = {
    **_ATTENTION,
    **_NORMS,
    "attention_shift": (WIDTH,),
    "mlp_shift": (WIDTH,),
    **kernel(WIDTH, HIDDEN, "up_"),
    **kernel(HIDDEN, WIDTH, "down_"),
}


def _experts(p: Mapping[str, Any], x: Any) -> Any:
    """The two experts of the highest scores, weighted by their softmax (Shazeer et al., 2017)."""
    scores = dense(p, x, "router_")
    best, which = jax.lax.top_k(scores, 2)
    weights = jax.nn.softmax(best, axis=-1)
    chosen = jax.nn.one_hot(which, scores.shape[-1], dtype=x.dtype)  # [b, t, 2, e]
    share = jnp.einsum("btke,btk->bte", chosen, weights)
    hidden = jax.nn.relu(jnp.einsum("btc,ech->bteh", x, p["up"]))
    return jnp.einsum("bteh,ehc,bte->btc", hidden, p["down"], share)


_EXPERTS = {
    **kernel(WIDTH, 3, "router_", bias=False),
    "up": (3, WIDTH, HIDDEN),
    "down": (3, HIDDEN, WIDTH),
}


def _switch(p: Mapping[str, Any], x: Any) -> Any:
    """The expert of the highest probability, times that (Fedus et al., 2021)."""
    probabilities = jax.nn.softmax(dense(p, x, "router_"), axis=-1)
    best = jnp.argmax(probabilities, axis=-1)
    chosen = jax.nn.one_hot(best, probabilities.shape[-1], dtype=x.dtype) * probabilities
    hidden = jax.nn.relu(jnp.einsum("btc,ech->bteh", x, p["up"]))
    return jnp.einsum("bteh,ehc,bte->btc", hidden, p["down"], chosen)


def _gpt(form: Form, params: Any, ids: Any, *, tied: bool = False) -> Any:
    """The speed-run form: norms without gain, normed queries and keys, ReLU², a soft cap."""
    embedded = rms_norm(params["embedding"][ids], form.epsilon)
    extra = _heads(params["values"][ids])

    def layer(p: Mapping[str, Any], x: Any) -> Any:
        x = p["lambda_x"] * x + p["lambda_0"] * embedded
        y = rms_norm(x, form.epsilon)
        q, k, v = (_heads(dense(p, y, name)) for name in ("q_", "k_", "v_"))
        q, k = (_rotary(rms_norm(part, form.epsilon)) for part in (q, k))
        v = p["lambda_v"] * v + p["lambda_e"] * extra
        x = x + dense(p, _attended(q, k, v), "o_")
        y = rms_norm(x, form.epsilon)
        return x + dense(p, squared_relu(dense(p, y, "up_")), "down_")

    x = rms_norm(layered(layer, params["stack"], embedded, form), form.epsilon)
    logits = x @ params["embedding"].T if tied else dense(params, x, "head_")
    return 15.0 * jnp.tanh(logits / 15.0)


def _gpt_shapes(*, tied: bool) -> dict[str, Any]:
    layer = {
        **_ATTENTION,
        **kernel(WIDTH, HIDDEN, "up_", bias=False),
        **kernel(HIDDEN, WIDTH, "down_", bias=False),
        **dict.fromkeys(("lambda_x", "lambda_0", "lambda_v", "lambda_e"), ()),
    }
    head = {} if tied else kernel(WIDTH, VOCABULARY, "head_", bias=False)
    tables = {"embedding": (VOCABULARY, WIDTH), "values": (VOCABULARY, WIDTH)}
    return {**tables, "stack": [layer, layer], **head}


def _row(name: str, source: str, network: Any, shapes: Any, **pins: str) -> Architecture:
    return Architecture(name, source, "JAX", function(network, shapes),
                        tokens(VOCABULARY, LENGTH), pins, stack=True)  # fmt: skip


def _gated_row(name: str, source: str, gate: Callable[[Any], Any], **pins: str) -> Architecture:
    network = functools.partial(_decoder, functools.partial(_gated_mlp, gate))
    return _row(name, source, network, _decoder_shapes(_GATED), exp=SOFTMAX, **pins)


def _identity(x: Any) -> Any:
    return x


LANGUAGE = [
    _row("transformer, post-norm", "Vaswani et al., 2017", _post_norm,
         {"embedding": (VOCABULARY, WIDTH), "stack": [_POST_NORM, _POST_NORM]},
         add=POSITIONS, exp=SOFTMAX),
    _row("GPT with QK-norm, ReLU², value embeddings, soft cap; untied", "Jordan et al., 2024",
         _gpt, _gpt_shapes(tied=False), tanh=SOFT_CAP),
    _row("GPT with QK-norm, ReLU², value embeddings, soft cap; tied", "Jordan et al., 2024",
         functools.partial(_gpt, tied=True), _gpt_shapes(tied=True), tanh=SOFT_CAP),
    _gated_row("transformer with bilinear GLU", "Shazeer, 2020", _identity),
    _gated_row("transformer with GLU", "Dauphin et al., 2016", jax.nn.sigmoid,
               logistic=SIGMOID_GATE),
    _gated_row("transformer with ReGLU", "Shazeer, 2020", jax.nn.relu),
    _gated_row("transformer with SwiGLU", "Touvron et al., 2023", jax.nn.silu, logistic=SILU),
    _row("mixture of experts, two of many", "Shazeer et al., 2017",
         functools.partial(_decoder, _experts), _decoder_shapes(_EXPERTS), exp=SOFTMAX_ROUTER),
    _row("mixture of experts, Switch", "Fedus et al., 2021",
         functools.partial(_decoder, _switch), _decoder_shapes(_EXPERTS), exp=SOFTMAX_ROUTER),
]  # fmt: skip
