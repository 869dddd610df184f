"""A causal transformer with ReLU feed-forward layers, whose rescalings form a graph."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing

from common.networks.mlp import HE_NORMAL


class Transformer(nn.Module):
    r"""A decoder-only transformer: its output at a position depends on no later token.

    With embeddings $e$, positions $p$ and $\nu$ a layer norm without weights,

    $$x^0_t = e_{w_t} + p_t, \quad
      y^l = x^{l-1} + \sum_h A_h(\nu(x^{l-1}))\, V_h O_h, \quad
      x^l = y^l + \sigma(\nu(y^l) U + b) D + d,$$

    where head h attends from position t to positions $s \le t$ with softmax weights
    $A_{ts} \propto \exp(q_t \cdot k_s / \sqrt{n})$, q = ν(x) Q_h and k = ν(x) K_h of n dimensions,
    σ is ReLU, and the logits are $\nu(x^L) W + c$.

    A norm with a scale of its own would add a node for every channel, which `query`, `key` and
    `value` all leave: an entry of `key` would then have two nodes at its tail, and the rescaling
    group would be no graph. The layers behind a norm can express its scale and shift.

    Example:
        >>> network = Transformer(vocabulary=11, width=8, hidden=16, heads=2, layers=1, length=5)
        >>> tokens = jnp.array([[3, 1, 4, 1, 5]])
        >>> variables = jax.eval_shape(network.init, jax.random.key(0), tokens)
        >>> jax.eval_shape(network.apply, variables, tokens).shape
        (1, 5, 11)

    References:
        Vaswani et al., *Attention is all you need*, 2017, equations 1 and 2; the norms stand before
        the layers as in Xiong et al., *On layer normalization in the transformer architecture*,
        2020, and have no weights as in Groeneveld et al., *OLMo*, 2024.
    """

    vocabulary: int
    """How many tokens there are; as many logits a position."""
    width: int
    """Channels of the stream; a multiple of `heads`."""
    hidden: int
    """Units of each feed-forward layer."""
    heads: int
    layers: int
    length: int
    """The most tokens that fit in."""
    dtype: jax.typing.DTypeLike = jnp.float32
    """Of the computation: bfloat16 for mixed precision."""
    param_dtype: jax.typing.DTypeLike = jnp.float32
    """Of the parameters and of the logits returned."""

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes the logits of the token that follows each position.

        Args:
            tokens: integer, [batch, positions], from 0 to `vocabulary` - 1.
            train: accepted so that all networks are called alike; no layer here uses it.

        Returns:
            Logits [batch, positions, vocabulary].

        Raises:
            TypeError: if the tokens are not integers.
            ValueError: if they have the wrong shape or are too many, or a size does not fit.
        """
        del train
        self._check(tokens)
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        positions = self.param(
            "positions",
            nn.initializers.normal(self.width**-0.5),  # the scale of Flax's embeddings
            (self.length, self.width),
            self.param_dtype,
        )
        x = nn.Embed(self.vocabulary, self.width, name="embedding", **types)(tokens)
        x = x + positions[None, : tokens.shape[1]].astype(self.dtype)
        for i in range(self.layers):
            y = _norm(self.dtype, f"attention_norm_{i}")(x)
            x = x + _Attention(self.heads, **types, name=f"attention_{i}")(y)
            y = _norm(self.dtype, f"feed_forward_norm_{i}")(x)
            y = nn.Dense(self.hidden, kernel_init=HE_NORMAL, name=f"up_{i}", **types)(y)
            x = x + nn.Dense(self.width, name=f"down_{i}", **types)(nn.relu(y))
        y = _norm(self.dtype, "norm")(x)
        return nn.Dense(self.vocabulary, name="logits", **types)(y).astype(self.param_dtype)

    def _check(self, tokens: jax.Array) -> None:
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(
                f"a transformer's input must be integer tokens, got {tokens.dtype}: other inputs "
                "have no row in the embedding."
            )
        if tokens.ndim != 2 or tokens.shape[1] > self.length:
            raise ValueError(
                f"tokens must have shape [batch, positions], at most {self.length} positions, got "
                f"{tokens.shape}; make a network with a greater length for longer sequences."
            )
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of heads, got width {self.width} and {self.heads} heads."
            )


def _norm(dtype: jax.typing.DTypeLike, name: str) -> nn.LayerNorm:
    # One pass over x, Flax's default, loses digits where the mean is large beside the spread.
    return nn.LayerNorm(
        use_bias=False, use_scale=False, use_fast_variance=False, dtype=dtype, name=name
    )


class _Attention(nn.Module):
    """Attention of several heads, each position to itself and those before it; no biases."""

    heads: int
    dtype: jax.typing.DTypeLike
    param_dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the attention's contribution to the residual stream at each position.

        Args:
            x: [batch, positions, width].
        """
        width, size = x.shape[-1], x.shape[-1] // self.heads
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        query, key, value = (
            nn.DenseGeneral((self.heads, size), use_bias=False, name=name, **types)(x)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bthd,bshd->bhts", query, key) * jnp.asarray(size**-0.5, x.dtype)
        # Position t sees s <= t: the lower triangle.
        past = jnp.tril(jnp.ones((1, 1, x.shape[1], x.shape[1]), bool))
        scores = jnp.where(past, scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhts,bshd->bthd", nn.softmax(scores), value)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, name="out", **types)(mixed)
