"""The networks once more, in float64 NumPy, from the papers' figures and not from our modules.

Parameters come as the nested dictionaries of the modules; batch statistics likewise.
"""

import numpy as np

EPSILON = 1e-5


def conv(x, kernel, stride, bias=None):
    """A convolution with kernel [k, k, in, out], centred: k // 2 zeros on every side."""
    size = kernel.shape[0]
    border = size // 2
    padded = np.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    height, width = (-(-n // stride) for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for n in range(len(x)):
        for i in range(height):
            for j in range(width):
                window = padded[n, i * stride : i * stride + size, j * stride : j * stride + size]
                out[n, i, j] = np.tensordot(window, kernel, axes=3)
    return out if bias is None else out + bias


def batch_norm(x, params, statistics, train):
    """Normalised output, and the running statistics after the batch (momentum 0.9)."""
    mean, variance = statistics["mean"], statistics["var"]
    if train:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
        statistics = {
            "mean": 0.9 * statistics["mean"] + 0.1 * mean,
            "var": 0.9 * statistics["var"] + 0.1 * variance,
        }
    out = (x - mean) / np.sqrt(variance + EPSILON) * params["scale"] + params["bias"]
    return out, statistics


def group_norm(x, params, group):
    group = min(group, x.shape[-1])
    split = x.reshape(*x.shape[:3], x.shape[-1] // group, group)
    mean = split.mean(axis=(1, 2, 4), keepdims=True)
    variance = split.var(axis=(1, 2, 4), keepdims=True)
    out = ((split - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    return out * params["scale"] + params["bias"]


def resnet(variables, images, *, stages, bottleneck, shortcut, norm, train=False, group=1):
    """Logits and new batch statistics of a residual (or, shortcut None, plain) network.

    Args:
        variables: {"params": ..., "batch_stats": ...}, float64.
        images: float64 [n, h, w, c].
        stages: blocks in each stage.
        bottleneck: whether blocks are 1x1, 3x3, 1x1.
        shortcut: "zero_pad", "projection" or None.
        norm: "batch", "group" or None.
        train: whether BatchNorm uses the batch.
        group: channels in each group of GroupNorm, at most.
    """
    updated = {}

    def unit(x, path, stride):
        params, statistics = variables["params"], variables.get("batch_stats", {})
        for name in path:
            params, statistics = params[name], statistics.get(name, {})
        x = conv(x, params["conv"]["kernel"], stride, params["conv"].get("bias"))
        if norm == "batch":
            x, new = batch_norm(x, params["norm"], statistics["norm"], train)
            updated["/".join((*path, "norm"))] = new
        elif norm == "group":
            x = group_norm(x, params["norm"], group)
        return x

    x = np.maximum(unit(images, ("stem",), 1), 0)
    for i, blocks in enumerate(stages):
        for j in range(blocks):
            name, stride = f"stage_{i}_block_{j}", 2 if i > 0 and j == 0 else 1
            strides = (1, stride, 1) if bottleneck else (stride, 1)
            y = x
            for k, s in enumerate(strides):
                y = unit(y if k == 0 else np.maximum(y, 0), (name, f"layer_{k}"), s)
            if shortcut is not None:
                if y.shape == x.shape:
                    carried = x
                elif shortcut == "projection":
                    carried = unit(x, (name, "shortcut"), stride)
                else:  # identity on every other pixel, new channels zero
                    carried = np.zeros(y.shape)
                    carried[..., : x.shape[-1]] = x[:, ::stride, ::stride]
                y = y + carried
            x = np.maximum(y, 0)
    head = variables["params"]["classifier"]
    return x.mean(axis=(1, 2)) @ head["kernel"] + head["bias"], updated


def resnet_20_family_parameters(n, classes=10):
    """Weights of the CIFAR network of depth 6n + 2 with option A, counted layer by layer."""
    total = 3 * 3 * 3 * 16 + 2 * 16  # stem and its BatchNorm
    channels = 16
    for stage in (16, 32, 64):
        for _ in range(2 * n):
            total += 3 * 3 * channels * stage + 2 * stage
            channels = stage
    return total + channels * classes + classes
