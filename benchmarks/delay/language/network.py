"""A byte-level decoder: what is trained under delay, and which part of it is in which stage."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing

BYTES = 256
"""The vocabulary."""


class Decoder(nn.Module):
    r"""A decoder-only transformer over bytes, with RMS norms and learnt positions.

    With ν the RMS norm and a scale for each channel, a block is two units,

        y = x + Attention(ν(x)),      x ← y + gelu(ν(y) U) D,

    causal, without biases. Every matrix of a block is two-dimensional, [in, out], as Muon needs it.
    Embedding and positions start at a variance of 1, weights at one of 1 / in, the projections back
    into the stream smaller by √(2 layers) as in GPT-2, the logits at zero. Logits have a bias.
    """

    width: int
    """Channels of the stream; a multiple of `heads`."""
    heads: int
    layers: int
    length: int
    """The most bytes that fit in."""
    dtype: jax.typing.DTypeLike = jnp.float32
    """Of the computation; parameters and logits are float32."""

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits [batch, positions, 256], float32, of the byte that follows each position.

        Args:
            tokens: integer, [batch, positions], below 256.
        """
        start = nn.initializers.normal(1.0)
        x = nn.Embed(BYTES, self.width, embedding_init=start, dtype=self.dtype, name="embedding")(
            tokens
        )
        positions = self.param("positions", start, (self.length, self.width))
        x = x + positions[None, : tokens.shape[1]].astype(self.dtype)
        for i in range(self.layers):
            out = 1 / math.sqrt(2 * self.layers)
            x = x + _Attention(self.heads, out, self.dtype, name=f"attention_{i}")(x)
            x = x + _FeedForward(out, self.dtype, name=f"feed_forward_{i}")(x)
        return _Head(self.dtype, name="head")(x)


def stage_of_parts(params: Mapping[str, Any], stages: int) -> dict[str, int]:
    """The pipeline stage of each part of a `Decoder`: a tree prefix of its parameters.

    The units (attention 0, feed-forward 0, attention 1, ..., head) are shared out in order, as
    evenly as they go; embedding and positions are with the first.

    Raises:
        ValueError: if there are fewer units than stages.
    """
    layers = sum(name.startswith("attention_") for name in params)
    units = [f"{kind}_{i}" for i in range(layers) for kind in ("attention", "feed_forward")]
    units.append("head")
    if not 1 <= stages <= len(units):
        raise ValueError(
            f"a network of {layers} layers has {len(units)} units, which make 1 to {len(units)} "
            f"stages, got {stages}."
        )
    first = {"embedding": 0, "positions": 0}
    return first | {unit: i * stages // len(units) for i, unit in enumerate(units)}


def next_byte_loss(network: Decoder, params: Any, windows: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats a byte, of windows [batch, positions + 1] of bytes."""
    logits = network.apply({"params": params}, windows[:, :-1])
    assert isinstance(logits, jax.Array)
    likely = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(likely, windows[:, 1:, None], axis=-1).mean()


@dataclasses.dataclass(frozen=True)
class Size:
    """What a `Decoder` is made of."""

    width: int = 16
    heads: int = 2
    layers: int = 1
    length: int = 32
    bfloat16: bool = False

    def network(self) -> Decoder:
        """The module."""
        dtype = jnp.bfloat16 if self.bfloat16 else jnp.float32
        return Decoder(self.width, self.heads, self.layers, self.length, dtype)


def _dense(features: int, dtype: Any, name: str, scale: float = 1.0) -> nn.Dense:
    """Without a bias; weights start at a standard deviation of `scale` / √in."""
    start = nn.initializers.variance_scaling(scale**2, "fan_in", "normal")
    return nn.Dense(features, use_bias=False, kernel_init=start, dtype=dtype, name=name)


class _Attention(nn.Module):
    """Attention of several heads to what came before, with its norm."""

    heads: int
    out_scale: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        query, key, value = (
            _dense(width, self.dtype, name)(x).reshape(batch, length, self.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        mixed = mixed.reshape(batch, length, width)
        return _dense(width, self.dtype, "out", self.out_scale)(mixed)


class _FeedForward(nn.Module):
    """Two layers, four times as wide between them, with their norm."""

    out_scale: float
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        x = nn.gelu(_dense(4 * width, self.dtype, "up")(x))
        return _dense(width, self.dtype, "down", self.out_scale)(x)


class _Head(nn.Module):
    """The logits, with the last norm."""

    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        logits = nn.Dense(BYTES, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="logits")
        return logits(x).astype(jnp.float32)
