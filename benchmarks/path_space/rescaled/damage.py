"""Networks whose scale is bad because of what was done to them: pruned, merged, equalised.

All take and return the parameters of `common.networks.MLP`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

PRUNED = "pruned"
MERGED = "merged"
EQUALISED = "equalised"
RANGES = "ranges at 1"
DAMAGES = (PRUNED, MERGED, EQUALISED, RANGES)


def kept_largest(params: Any, share: float) -> Any:
    """The mask of magnitude pruning: 1 at the largest entries of every kernel, and at biases.

    Args:
        params: trained weights.
        share: of each kernel's entries, that are kept.
    """

    def mask(leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.ones_like(leaf)
        sizes = jnp.abs(leaf)
        return (sizes >= jnp.quantile(sizes, 1 - share)).astype(leaf.dtype)

    return jax.tree.map(mask, params)


def merged(one: Any, other: Any, images: jax.Array) -> Any:
    """The average of two networks after the units of the other are matched to those of the one.

    Units of a layer are assigned to one another so that the correlations of their activations add
    up to the most (Li et al., *Convergent learning*, 2016).

    Args:
        one: parameters.
        other: parameters of the same shapes.
        images: on which activations are compared, [n, ...].
    """
    layers = [f"layer_{i}" for i in range(len(one))]
    hidden = [np.asarray(images).reshape(len(images), -1)] * 2
    order = np.arange(hidden[0].shape[1])
    total = {}
    for name in layers:
        ours, theirs = ({k: np.asarray(w) for k, w in p[name].items()} for p in (one, other))
        # What this layer of the other reads is in our order by now.
        theirs["kernel"] = theirs["kernel"][order]
        outputs = [h @ w["kernel"] + w["bias"] for h, w in zip(hidden, (ours, theirs), strict=True)]
        order = np.arange(outputs[0].shape[1])
        if name != layers[-1]:
            hidden = [np.maximum(z, 0) for z in outputs]
            order = linear_sum_assignment(_correlations(*hidden), maximize=True)[1]
            hidden[1] = hidden[1][:, order]
        theirs = {"kernel": theirs["kernel"][:, order], "bias": theirs["bias"][order]}
        total[name] = {k: jnp.asarray((ours[k] + theirs[k]) / 2) for k in ours}
    return total


def _correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between all pairs of columns, [units, units]; 0 for a unit that is constant."""
    scaled = []
    for h in (one, other):
        centred = h - h.mean(0)
        sd = centred.std(0)
        scaled.append(centred / np.where(sd > 0, sd, 1))
    return scaled[0].T @ scaled[1] / len(one)


def equalised(params: Any, *, rounds: int = 50) -> Any:
    """Cross-layer equalisation: each hidden unit's largest weights before and behind it are equal.

    Args:
        params: weights.
        rounds: sweeps over the layers.

    References:
        Nagel et al., *Data-free quantization through weight equalization and bias correction*,
        2019, equation 11.
    """
    for _ in range(rounds):
        params = _scaled(params, lambda before, behind: jnp.sqrt(behind / before))
    return params


def ranges_at_one(params: Any) -> Any:
    """Each hidden unit's incoming kernel entries are at most 1 in size, and one is.

    So all channels of a layer use the whole range of one quantiser; what is left of the scale lies
    in the last layer.

    Args:
        params: weights.
    """
    return _scaled(params, lambda before, behind: 1 / before)


def _scaled(params: Any, scale: Any) -> Any:
    """Rescales hidden units, layer after layer, by a function of the ranges beside them."""
    layers = {name: dict(layer) for name, layer in params.items()}
    for i in range(len(layers) - 1):
        here, following = layers[f"layer_{i}"], layers[f"layer_{i + 1}"]
        before = jnp.abs(here["kernel"]).max(0)
        behind = jnp.abs(following["kernel"]).max(1)
        alive = (before > 0) & (behind > 0)
        one = jnp.ones_like(before)
        c = jnp.where(alive, scale(jnp.where(alive, before, one), jnp.where(alive, behind, one)), 1)
        here["kernel"] = here["kernel"] * c[None]
        here["bias"] = here["bias"] * c
        following["kernel"] = following["kernel"] / c[:, None]
    return layers
