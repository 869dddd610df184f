"""How long weights and updates are on their way, from their bytes and each worker's bandwidth."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from dcasgd_jax.schedules.checks import check_at_least


class Transfers(NamedTuple):
    """Seconds that workers wait for their links, a scalar or one for each: for `cluster_times`."""

    download: float | np.ndarray = 0.0
    """From a pull to when the weights are there, >= 0; a scalar, or shape [num_workers]."""
    upload: float | np.ndarray = 0.0
    """From when an update is computed to its arrival, >= 0; a scalar, or shape [num_workers]."""


def transfer_times(
    params: Any,
    *,
    download: float | ArrayLike,
    upload: float | ArrayLike,
    latency: float | ArrayLike = 0.0,
    compression: float = 1.0,
    snapshot_dtype: DTypeLike | None = None,
) -> Transfers:
    r"""Upload and download times from the bytes of the parameters and the bandwidths of workers.

        download:  l + bytes(w) / b_down,        upload:  l + bytes(w) / (c b_up)

    with latency l, bandwidths b and a compression c of what is sent up. Each worker has its link
    for itself; the server's own is taken to be as wide as all of them together.

    Args:
        params: the parameters, or their shapes and dtypes (`jax.ShapeDtypeStruct`).
        download: b_down, bytes a second from the server, > 0: a scalar, or one for each worker,
            shape [num_workers].
        upload: b_up, bytes a second to the server, likewise.
        latency: l, seconds a message, >= 0, likewise.
        compression: c > 0, how many times fewer bytes an update has than the parameters: 16 for 2
            bits instead of 32. What compression does to the numbers is the rule's business.
        snapshot_dtype: of the weights that are sent down, as for `simulate`; None for the
            parameters' own.

    Returns:
        Seconds for each direction, float64.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> link = transfer_times(jnp.zeros(1_000_000), download=1e6, upload=[1e6, 2e6])
        >>> print(link.download, link.upload)
        4.0 [4. 2.]

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        AISTATS 2017 (https://arxiv.org/abs/1602.05629), whose clients upload at 1 MB/s or less.
    """
    check_at_least("compression", compression, 0.0, positive=True)
    for name, value, positive in (
        ("download", download, True),
        ("upload", upload, True),
        ("latency", latency, False),
    ):
        _check_each(name, value, positive=positive)
    sizes = {np.shape(number) for number in (download, upload, latency)} - {()}
    if len(sizes) > 1:
        raise ValueError(
            "download, upload and latency must each be a scalar or have one number for each "
            f"worker, got {sorted(size for (size,) in sizes)} numbers."
        )
    leaves = jax.tree.leaves(jax.eval_shape(lambda tree: tree, params))  # plain numbers too
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    sent = size
    if snapshot_dtype is not None:
        sent = sum(leaf.size for leaf in leaves) * jnp.dtype(snapshot_dtype).itemsize
    wait = np.asarray(latency, np.float64)
    return Transfers(
        download=wait + sent / np.asarray(download, np.float64),
        upload=wait + size / (compression * np.asarray(upload, np.float64)),
    )


def of_workers(name: str, seconds: float | ArrayLike, num_workers: int) -> np.ndarray:
    """Seconds of each worker, shape [num_workers]; refuses another number of them."""
    _check_each(name, seconds, positive=False)
    array = np.asarray(seconds, np.float64)
    if array.shape not in ((), (num_workers,)):
        raise ValueError(
            f"{name} must be a scalar or of shape [num_workers] = ({num_workers},), got shape "
            f"{array.shape}; give one number for each worker."
        )
    return np.broadcast_to(array, (num_workers,))


def _check_each(name: str, value: float | ArrayLike, *, positive: bool) -> None:
    """Refuses numbers that are not finite, or not above zero (or at zero, unless `positive`)."""
    array = np.asarray(value)
    real = array.ndim <= 1 and array.dtype.kind in "iuf"
    if not (real and np.isfinite(array).all() and (array > 0 if positive else array >= 0).all()):
        bound = "> 0" if positive else ">= 0"
        raise ValueError(
            f"{name} must be finite and {bound}, a scalar or one for each worker, got {value}."
        )
