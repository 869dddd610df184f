"""Networks on patches of images: ConvNeXt, MLP-Mixer, vision transformers."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.path_space.architectures.architecture import (
    Architecture,
    Form,
    images,
    linen,
    nnx_module,
    repeated,
)
from benchmarks.path_space.architectures.reasons import SOFTMAX


class _ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm, a wide pointwise pair, and a learnt scale of the branch."""

    form: Form

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.Conv(width, (3, 3), feature_group_count=width)(x)
        y = nn.LayerNorm(epsilon=self.form.epsilon)(y)
        y = nn.Dense(width)(nn.relu(nn.Dense(2 * width)(y)))
        gain = self.param("layer_gain", nn.initializers.constant(1e-6), (width,))
        return x + gain.reshape(1, 1, 1, -1) * y


class _ConvNeXt(nn.Module):
    """A patch stem and stages with normalised downsampling between."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(epsilon=self.form.epsilon)(nn.Conv(4, (2, 2), 2)(x))
        for stage, width in enumerate((4, 6)):
            if stage:
                x = nn.Conv(width, (2, 2), 2)(nn.LayerNorm(epsilon=self.form.epsilon)(x))
            x = repeated(lambda name: _ConvNeXtBlock(self.form, name=name), 2, x, self.form,
                         f"stack{stage}")  # fmt: skip
        x = nn.LayerNorm(epsilon=self.form.epsilon)(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(4)(x)


class _MixerBlock(nn.Module):
    """An MLP over tokens, then one over channels."""

    form: Form

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm(epsilon=self.form.epsilon)(x), 1, 2)
        y = nn.Dense(x.shape[1])(nn.relu(nn.Dense(5)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        y = nn.LayerNorm(epsilon=self.form.epsilon)(x)
        return x + nn.Dense(x.shape[2])(nn.relu(nn.Dense(7)(y)))


class _Mixer(nn.Module):
    """Linear patches, mixer blocks, and a dense layer on the mean over tokens."""

    form: Form

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (4, 4), 4)(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        x = repeated(lambda name: _MixerBlock(self.form, name=name), 2, x, self.form)
        return nn.Dense(4)(jnp.mean(nn.LayerNorm(epsilon=self.form.epsilon)(x), axis=1))


def squared_relu(x: Any) -> Any:
    """relu(x)^2.

    Args:
        x: an array.
    """
    return jnp.square(jax.nn.relu(x))


def _attended(q: Any, k: Any, v: Any, **_: Any) -> Any:
    """Softmax attention, of [b, t, h, d], in the precision of its inputs."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v)


class _Encoder(nnx.Module):
    """Attention, then an MLP, each behind a LayerNorm and added to the stream."""

    def __init__(self, width: int, form: Form, activation: Any, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=form.epsilon, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, width, decode=False, attention_fn=_attended, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, epsilon=form.epsilon, rngs=rngs)
        self.up = nnx.Linear(width, 6, rngs=rngs)
        self.down = nnx.Linear(6, width, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class _ViT(nnx.Module):
    """Patches, a class token, positions, a stack of encoders, and a head on the class token."""

    def __init__(self, form: Form, activation: Any, rngs: nnx.Rngs, width: int = 4):
        self.patches = nnx.Conv(3, width, (4, 4), 4, rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(jnp.zeros((1, 5, width)))

        def encoder(rngs):
            return _Encoder(width, form, activation, rngs)

        if form.scanned:
            keys = nnx.split_rngs(splits=2)
            make = nnx.vmap(encoder, in_axes=(nnx.StateAxes({...: 0}),), out_axes=0)
            self.stack = keys(make)(rngs)
        else:
            self.stack = nnx.List([encoder(rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(width, epsilon=form.epsilon, rngs=rngs)
        self.head = nnx.Linear(width, 4, rngs=rngs)
        self.scanned = form.scanned

    def __call__(self, x):
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        if self.scanned:
            x = nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
                x, self.stack
            )
        else:
            for layer in cast("nnx.List", self.stack):
                x = layer(x)
        return self.head(self.norm(x)[:, 0])


_IMAGES = images(8)


def _vit(name: str, source: str, activation: Any) -> Architecture:
    build = nnx_module(lambda form, rngs: _ViT(form, activation, rngs))
    return Architecture(name, source, "flax nnx", build, _IMAGES, {"exp": SOFTMAX}, stack=True)


PATCHES = [
    Architecture("ConvNeXt with ReLU", "Liu et al., 2022", "flax linen",
                 linen(_ConvNeXt, _IMAGES), _IMAGES, stack=True),
    Architecture("MLP-Mixer with ReLU", "Tolstikhin et al., 2021", "flax linen",
                 linen(_Mixer, _IMAGES), _IMAGES, stack=True),
    _vit("ViT with ReLU", "Dosovitskiy et al., 2020", jax.nn.relu),
    _vit("ViT with ReLU²", "Dosovitskiy et al., 2020; So et al., 2021", squared_relu),
]  # fmt: skip
