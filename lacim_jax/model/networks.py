"""Encoder trunks, decoders and classifiers of usual sizes; any other module can take their place.

What LaCIM asks of a module is its call alone:

- an encoder trunk maps images [batch, ...] to features [batch, features],
- a decoder maps latents [batch, s_dim + v_dim] to the likelihood's parameters [batch, ...],
- a classifier maps s [batch, s_dim] to the label likelihood's parameters, logits [batch, classes].

Each must treat the examples of a batch apart, so normalise by layer or by group, never by batch:
latents are searched example by example, and the result must not depend on the rest of the batch.

Each computes in the dtype of its inputs and parameters, or in `dtype`: bfloat16 for mixed
precision, where parameters and outputs, and with them all densities, stay float32.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class _Sized(nn.Module):
    """A module whose sizes may be given as lists; it keeps tuples, so that it can be hashed."""

    def __post_init__(self):
        """Makes tuples of sizes, since compiled functions tell modules apart by their hash."""
        for name in ("shape", "widths", "channels"):
            if isinstance(getattr(self, name, None), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()


class MLP(_Sized):
    """Fully connected layers with ReLU between them: the classifier p(y|s).

    Example:
        >>> import jax
        >>> classifier = MLP(widths=(64, 2))
        >>> key, hidden = jax.random.key(0), jax.numpy.ones((5, 16))
        >>> logits, _ = jax.jit(classifier.init_with_output)(key, hidden)
        >>> logits.shape
        (5, 2)
    """

    widths: Sequence[int]
    """Of the layers; the last is the number of outputs."""
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Applies the layers; the last one has no activation."""
        hidden = inputs
        for i, width in enumerate(self.widths):
            hidden = nn.Dense(width, dtype=self.dtype)(nn.relu(hidden) if i else hidden)
        return hidden if self.dtype is None else hidden.astype(inputs.dtype)


class MLPEncoder(_Sized):
    """Flattened images through fully connected layers, each followed by ReLU."""

    widths: Sequence[int] = (512, 256)
    """Of the layers; the last is the number of features."""
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, images: Float[Array, " batch *image"]) -> Float[Array, "batch features"]:
        """Features of images of any size, [batch, widths[-1]]."""
        return nn.relu(MLP(self.widths, self.dtype)(images.reshape(images.shape[0], -1)))


class MLPDecoder(_Sized):
    """Latents through fully connected layers with ReLU between them, to one number per pixel."""

    shape: Sequence[int]
    """Of one example's likelihood parameters: (28, 28, 2), or (dim,) for vectors."""
    widths: Sequence[int] = (256, 512)
    """Of the hidden layers."""
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, latents: Float[Array, "batch dim"]) -> Float[Array, " batch *image"]:
        """Likelihood parameters, [batch, *shape]."""
        pixels = MLP((*self.widths, math.prod(self.shape)), self.dtype)(latents)
        return pixels.reshape(latents.shape[0], *self.shape)


class ConvEncoder(_Sized):
    """Convolutions of stride 2, each followed by group normalisation and ReLU; a dense layer.

    The feature map is flattened and not averaged, since digits differ in where their strokes are.
    Images may have any size; 28x28 ones can be halved twice, 32x32 and 64x64 ones more often.
    """

    channels: Sequence[int] = (32, 64)
    """Of each convolution; each halves height and width. Multiples of `group_size`."""
    features: int = 256
    group_size: int = 8
    """Channels normalised together."""
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Features, [batch, features]."""
        hidden = images
        for width in self.channels:
            hidden = nn.Conv(width, (3, 3), strides=2, dtype=self.dtype)(hidden)
            hidden = nn.relu(_normalised(hidden, self.group_size))
        hidden = hidden.reshape(images.shape[0], -1)
        features = nn.relu(nn.Dense(self.features, dtype=self.dtype)(hidden))
        return features if self.dtype is None else features.astype(images.dtype)


def _normalised(hidden: jax.Array, group_size: int) -> jax.Array:
    # Means and variances are taken in float32 at least, whatever the rest is computed in.
    wide = hidden.dtype if jnp.finfo(hidden.dtype).bits >= 32 else jnp.float32
    norm = nn.GroupNorm(num_groups=None, group_size=group_size)
    return norm(hidden.astype(wide)).astype(hidden.dtype)


class ConvDecoder(_Sized):
    """One dense layer, then transposed convolutions that double height and width.

    They are computed as products of matrices: XLA has fast ones on CPU too, and inside loops.
    """

    shape: Sequence[int]
    """Of one example's likelihood parameters, (height, width, channels): height and width must be
    divisible by 2 to the number of `channels`."""
    channels: Sequence[int] = (64, 32)
    """Of the feature maps, from the smallest on. Multiples of `group_size`."""
    group_size: int = 8
    """Channels normalised together."""
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, latents: Float[Array, "batch dim"]
    ) -> Float[Array, "batch height width channels"]:
        """Likelihood parameters, [batch, *shape].

        Raises:
            ValueError: if height or width cannot be halved so often.
        """
        height, width, outputs = self.shape
        scale = 2 ** len(self.channels)
        if height % scale or width % scale:
            raise ValueError(
                f"height and width must be divisible by {scale}, 2 to the number of channels "
                f"{tuple(self.channels)}, got {height}x{width}; give fewer channels."
            )
        size = height // scale * (width // scale) * self.channels[0]
        hidden = nn.Dense(size, dtype=self.dtype)(latents)
        hidden = hidden.reshape(-1, height // scale, width // scale, self.channels[0])
        for index, channels in enumerate((*self.channels[1:], outputs)):
            hidden = nn.relu(_normalised(hidden, self.group_size))
            # As flax calls its own, whose weights these are.
            name = f"ConvTranspose_{index}"
            hidden = _Doubling(channels, dtype=self.dtype, name=name)(hidden)
        return hidden if self.dtype is None else hidden.astype(latents.dtype)


class _Doubling(nn.Module):
    """`flax.linen.ConvTranspose` with a kernel of 4x4 and strides of 2, as a product of matrices.

    A kernel of twice the stride covers every pixel equally: no checkerboard.
    """

    channels: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch twice_height twice_width channels"]:
        shape = (4, 4, hidden.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,), jnp.float32)
        hidden, kernel, bias = promote_dtype(hidden, kernel, bias, dtype=self.dtype)
        # Pixel j adds to the outputs 2j - 1 to 2j + 2, by the kernel from its end on. XLA's
        # transposed convolutions multiply the zeros between the pixels too on CPU, and the
        # gradients of their kernels take six times as long.
        patches = jnp.einsum("nhwc,abco->nhawbo", hidden, kernel[::-1, ::-1])
        return _overlapped(_overlapped(patches, 1), 2) + bias[None, None, None]


def _overlapped(patches: jax.Array, axis: int) -> jax.Array:
    """The sum of patches, each two after the last one: [..., n, 4, ...] to [..., 2n, ...].

    Of the first patch and the last, one at the edge is cut off.
    """
    before, after = patches.shape[:axis], patches.shape[axis + 2 :]
    ends = [part.reshape(*before, -1, *after) for part in jnp.split(patches, 2, axis + 1)]
    rest = len(after)

    def shifted(part: jax.Array, rows: slice, zeros: tuple[int, int]) -> jax.Array:
        kept = part[(slice(None),) * axis + (rows,)]
        return jnp.pad(kept, [(0, 0)] * axis + [zeros] + [(0, 0)] * rest)

    return shifted(ends[0], slice(1, None), (0, 1)) + shifted(ends[1], slice(None, -1), (1, 0))
