"""Residual networks, and the plain networks they were compared with, for images of 32x32 and up.

Two families, both from He et al. 2016:

- CIFAR (section 4.2): depth 6n + 2, three stages of 2n layers with 16, 32 and 64 channels and
  parameter-free shortcuts (option A): ResNet-20, 32, 44, 56, 110 and the plain networks beside
  them.
- ImageNet (table 1): ResNet-18, 34, 50, 101, 152 and plain-18, 34, with 64, 128, 256 and 512
  channels and projection shortcuts where the shape changes (option B). Their stem, a 7x7
  convolution and pooling that quarter the resolution, is for 224x224 images; by default it is one
  3x3 convolution with stride 1 here too, as is usual for 32x32 ones.
"""

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.typing

from common.networks.blocks import Block, ConvNorm, Norm, Shortcut
from common.networks.inputs import check_images
from common.networks.mlp import HE_NORMAL

_IMAGENET = {  # table 1: blocks of each stage, and whether they are bottlenecks
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


Stem = Literal["3x3", "3x3, stride 2", "7x7"]
"""What comes before the first stage: a 3x3 convolution for images of 32x32, of stride 2 to have all
stages at half the resolution, for a quarter of the work; or, for images of about 224x224, a 7x7
convolution and a 3x3 maximum, each of stride 2."""

_STEMS = {"3x3": (3, 1), "3x3, stride 2": (3, 2), "7x7": (7, 2)}  # size and stride


class ResNet(nn.Module):
    """Stages of blocks between a stem and a linear classifier of the averaged features.

    The first block of every stage but the first halves the resolution. `resnet` and `plain` make
    the published ones.

    With norm None the last kernel of each residual branch starts smaller by the root of the number
    of blocks: the variances of branch and shortcut add, and would double block by block.
    """

    stage_sizes: tuple[int, ...]
    """Blocks in each stage."""
    stage_channels: tuple[int, ...]
    """Channels of each stage's 3x3 convolutions."""
    num_classes: int
    bottleneck: bool
    shortcut: Shortcut | None
    """None makes the plain network of the same layers."""
    norm: Norm | None
    """None for no normalisation."""
    use_bias: bool
    """Whether convolutions have biases; the classifier always has one."""
    dtype: jax.typing.DTypeLike = jnp.float32
    """Of the computation."""
    param_dtype: jax.typing.DTypeLike = jnp.float32
    """Of parameters, running averages and logits."""
    stem: Stem = "3x3"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes the logits.

        Args:
            images: floating-point, [batch, height, width, channels].
            train: whether BatchNorm uses the batch's statistics, and moves its running averages
                (then `batch_stats` must be mutable), or uses the averages.

        Returns:
            Logits [batch, num_classes], in `param_dtype`.

        Raises:
            TypeError: if the images are not floating-point.
            ValueError: if they are not [batch, height, width, channels], or there is no such stem.
        """
        if self.stem not in _STEMS:
            raise ValueError(f"stem is one of {list(_STEMS)}, got {self.stem!r}.")
        check_images(images, shape="[batch, height, width, channels]", ndim=4)
        conv_norm = partial(
            ConvNorm,
            norm=self.norm,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        adds_up = self.norm is None and self.shortcut is not None
        last_gain = sum(self.stage_sizes) ** -0.5 if adds_up else 1.0
        size, stride = _STEMS[self.stem]
        stem = conv_norm(self.stage_channels[0], size, stride, gain=1.0, name="stem")
        x = nn.relu(stem(images, train=train))
        if self.stem == "7x7":
            border: Any = ((1, 1), (1, 1))  # Flax takes pairs, though its annotation says str
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=border)
        for i, (blocks, channels) in enumerate(
            zip(self.stage_sizes, self.stage_channels, strict=True)
        ):
            for j in range(blocks):
                block = Block(
                    channels,
                    stride=2 if i > 0 and j == 0 else 1,
                    bottleneck=self.bottleneck,
                    shortcut=self.shortcut,
                    conv_norm=conv_norm,
                    last_gain=last_gain,
                    name=f"stage_{i}_block_{j}",
                )
                x = block(x, train=train)
        x = x.mean(axis=(1, 2))
        classifier = nn.Dense(
            self.num_classes,
            kernel_init=HE_NORMAL,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="classifier",
        )
        return classifier(x).astype(self.param_dtype)


def resnet(
    depth: int,
    num_classes: int,
    *,
    width: float = 1.0,
    norm: Norm | None = "batch",
    shortcut: Shortcut | None = None,
    use_bias: bool | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    stem: Stem = "3x3",
) -> ResNet:
    """ResNet-`depth`, for 32x32 images or, with `stem="7x7"`, for those of ImageNet.

    Args:
        depth: layers with weights. 18, 34, 50, 101 and 152 are of the ImageNet family, every other
            6n + 2 (8, 14, 20, 26, 32, 44, 56, 110, ...) of the CIFAR family.
        num_classes: outputs, at least 1.
        width: factor on every number of channels, above 0, the results rounded: 0.25 makes a thin
            network for a CPU.
        norm: "batch"; "group", in groups of 16 channels, or as many as divide both 16 and the
            width; or None for a network of convolutions and ReLUs alone.
        shortcut: "zero_pad" (option A) or "projection" (option B); None for the family's own, A
            for CIFAR, B for ImageNet.
        use_bias: whether convolutions have biases; None for where no normalisation follows.
        dtype: of the computation; bfloat16 for mixed precision.
        param_dtype: of parameters, running averages and logits.
        stem: what comes before the first stage.

    Returns:
        A linen module `(images [batch, height, width, channels], *, train) -> logits`.

    Raises:
        ValueError: if no ResNet has that depth, or a number is out of range.

    Example:
        >>> network = resnet(20, num_classes=10, width=0.25)
        >>> images = jnp.zeros((1, 32, 32, 3))
        >>> variables = jax.eval_shape(network.init, jax.random.key(0), images)
        >>> variables["params"]["stage_2_block_0"]["layer_0"]["conv"]["kernel"].shape
        (3, 3, 8, 16)

    References:
        He et al., *Deep residual learning for image recognition*, 2016, table 1 and section 4.2.
    """
    sizes, channels, bottleneck = _family("ResNet", depth, tuple(_IMAGENET))
    return ResNet(
        stage_sizes=sizes,
        stage_channels=_scaled_channels(channels, width, num_classes),
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=shortcut or ("projection" if depth in _IMAGENET else "zero_pad"),
        norm=norm,
        use_bias=norm is None if use_bias is None else use_bias,
        dtype=dtype,
        param_dtype=param_dtype,
        stem=stem,
    )


def plain(
    depth: int,
    num_classes: int,
    *,
    width: float = 1.0,
    norm: Norm | None = "batch",
    use_bias: bool | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
    param_dtype: jax.typing.DTypeLike = jnp.float32,
    stem: Stem = "3x3",
) -> ResNet:
    """plain-`depth` for 32x32 images: ResNet-`depth` without its shortcuts.

    Args:
        depth: layers with weights. 18 and 34 are of the ImageNet family, every other 6n + 2 but 50
            and 152 of the CIFAR family.
        num_classes: outputs, at least 1.
        width: factor on every number of channels, above 0, the results rounded.
        norm: "batch", "group" (in groups of 16 channels, or as many as divide both 16 and the
            width) or None.
        use_bias: whether convolutions have biases; None for where no normalisation follows.
        dtype: of the computation.
        param_dtype: of parameters, running averages and logits.
        stem: what comes before the first stage.

    Returns:
        A linen module `(images [batch, 32, 32, channels], *, train) -> logits`.

    Raises:
        ValueError: if no plain network has that depth, or a number is out of range.

    References:
        He et al., *Deep residual learning for image recognition*, 2016, figure 3 (plain-34) and
        section 4.2 (plain-20 to 56).
    """
    sizes, channels, bottleneck = _family("plain network", depth, (18, 34))
    return ResNet(
        stage_sizes=sizes,
        stage_channels=_scaled_channels(channels, width, num_classes),
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=None,
        norm=norm,
        use_bias=norm is None if use_bias is None else use_bias,
        dtype=dtype,
        param_dtype=param_dtype,
        stem=stem,
    )


def _family(
    kind: str, depth: int, imagenet: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Blocks and channels of each stage, and whether the blocks are bottlenecks."""
    if depth in imagenet:
        sizes, bottleneck = _IMAGENET[depth]
        return sizes, (64, 128, 256, 512), bottleneck
    if depth >= 8 and depth % 6 == 2 and depth not in _IMAGENET:
        return ((depth - 2) // 6,) * 3, (16, 32, 64), False
    cifar = [d for d in range(8, max(depth, 8) + 7, 6) if d not in _IMAGENET]
    near = min([*imagenet, *cifar], key=lambda d: abs(d - depth))
    raise ValueError(
        f"no {kind} has depth {depth}: did you mean {near}? Depths are "
        f"{', '.join(map(str, imagenet))} (ImageNet family) and 6n + 2 from 8 on (CIFAR family)."
    )


def _scaled_channels(channels: tuple[int, ...], width: float, num_classes: int) -> tuple[int, ...]:
    """Channels times the width, at least 1."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"width is a factor above 0 on the numbers of channels, got {width}.")
    return tuple(max(1, round(c * width)) for c in channels)
