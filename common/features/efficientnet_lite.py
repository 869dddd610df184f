"""EfficientNet-Lite0: an image network of 4.7 million weights whose features carry over.

Lite is EfficientNet-B0 (Tan and Le, 2019, table 1) without squeeze-and-excitation and with ReLU6 in
place of swish. Stem, stages and head of Lite0 have B0's widths.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from common.networks import BatchNorm

STAGES = (  # table 1: expansion, channels, blocks, stride of the first, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, FEATURES, CLASSES = 32, 1280, 1000
_EPSILON = 1e-3  # of batch normalisation, as the weights were trained with


class DepthwiseConv(nn.Module):
    """A convolution of each channel with a kernel of its own; zeros around the image, as "SAME"."""

    kernel_size: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> the same, height and width divided by the stride."""
        n, s, channels = self.kernel_size, self.strides, x.shape[-1]
        shape = (n, n, 1, channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        per_channel = kernel.reshape(n, n, 1, 1, 1, channels)
        sizes = [-(-size // s) for size in x.shape[1:3]]
        # "SAME" puts the odd zero behind: what is needed in all is (out - 1) s + n - in.
        gaps = [
            max((out - 1) * s + n - size, 0) for out, size in zip(sizes, x.shape[1:3], strict=True)
        ]
        padded = jnp.pad(x, ((0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)))
        height, width = ((out - 1) * s + 1 for out in sizes)
        # n² shifted images times a number a channel: on CPU over ten times as fast as XLA's
        # grouped convolution.
        return sum(
            (
                padded[:, i : i + height : s, j : j + width : s] * per_channel[i, j]
                for i in range(n)
                for j in range(n)
            ),
            start=jnp.zeros([], x.dtype),
        )


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; added to its input where shapes allow (MBConv)."""

    expansion: int
    channels: int
    strides: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the block.

        Args:
            x: floating-point, [batch, height, width, channels in].

        Returns:
            [batch, height / strides, width / strides, channels], sizes rounded up.
        """
        inputs = x
        if self.expansion > 1:
            x = _pointwise(self.expansion * x.shape[-1], "expand")(x)
            x = nn.relu6(_norm("expand_norm")(x, train=False))
        x = DepthwiseConv(self.kernel_size, self.strides, name="depthwise")(x)
        x = nn.relu6(_norm("depthwise_norm")(x, train=False))
        x = _norm("project_norm")(_pointwise(self.channels, "project")(x), train=False)
        return x + inputs if self.strides == 1 and x.shape == inputs.shape else x


class EfficientNetLite0(nn.Module):
    """The network up to its averaged features; with `classify` up to ImageNet's logits."""

    classify: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the features, with the running averages of batch normalisation.

        Args:
            images: floating-point, [batch, height, width, 3], standardised as the weights expect
                (`common.features.extraction`); trained at 224 x 224, any size from 32 works.

        Returns:
            [batch, 1280], between 0 and 6; with `classify` logits [batch, 1000].
        """
        x = nn.Conv(STEM, (3, 3), 2, use_bias=False, name="stem")(images)
        x = nn.relu6(_norm("stem_norm")(x, train=False))
        index = 0
        for expansion, channels, repeats, strides, kernel_size in STAGES:
            for repeat in range(repeats):
                x = InvertedResidual(
                    expansion, channels, strides if repeat == 0 else 1, kernel_size,
                    name=f"block{index}",
                )(x)  # fmt: skip
                index += 1
        x = nn.relu6(_norm("head_norm")(_pointwise(FEATURES, "head")(x), train=False))
        x = x.mean(axis=(1, 2))
        return nn.Dense(CLASSES, name="classifier")(x) if self.classify else x


def _pointwise(channels: int, name: str) -> nn.Conv:
    return nn.Conv(channels, (1, 1), use_bias=False, name=name)


def _norm(name: str) -> BatchNorm:
    return BatchNorm(epsilon=_EPSILON, name=name)
