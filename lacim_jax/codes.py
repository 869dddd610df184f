"""Labels and domains that are names, or any whole numbers, as numbers from 0 on."""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Codes(NamedTuple):
    """Whole numbers from 0 on, and what each stands for."""

    codes: np.ndarray  # shape=[n], int32
    names: np.ndarray  # shape=[distinct]: names[codes] are the values


def coded(values: ArrayLike | list[Any]) -> Codes:
    """Numbers labels or domains through from 0, whatever they are called.

    Args:
        values: integers or strings, [n]: site codes 10 and 20, or names of classes.

    Returns:
        Codes for `Examples`, in the order of the sorted names, which lead back.

    Raises:
        ValueError: if there are none, they are not one-dimensional, or real numbers, which have no
            classes.

    Example:
        >>> coded(["dog", "cat", "dog"])
        Codes(codes=array([1, 0, 1], dtype=int32), names=array(['cat', 'dog'], dtype='<U3'))
        >>> coded([10, 20, 10]).codes
        array([0, 1, 0], dtype=int32)
    """
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iubUSO":
        raise ValueError(
            "labels and domains are integers or strings of shape [n], at least one, got "
            f"{array.dtype}{list(array.shape)}; use gaussian_likelihood for real-valued labels."
        )
    names, codes = np.unique(array, return_inverse=True)
    return Codes(codes.astype(np.int32), names)
