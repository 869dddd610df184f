"""What a simulated run says about its delays: how stale, what that cost, what a rule gave back."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from numpy.typing import ArrayLike as HostArrayLike
from optax import tree

from dcasgd_jax._precision import cast, working_dtype


class StalenessError(NamedTuple):
    """Sums over gradients, from which shares of the staleness error follow for any strength."""

    stale: jax.Array  # shape=(), float32 or wider: Σ |g - f|², what staleness costs
    along: jax.Array  # shape=(), float32 or wider: Σ c·(g - f)
    correction: jax.Array  # shape=(), float32 or wider: Σ |c|², what was added to the gradients


def staleness_histogram(staleness: HostArrayLike) -> np.ndarray:
    """How many gradients were how stale.

    Args:
        staleness: whole numbers >= 0, of any shape: `info.staleness`, or a schedule's column.

    Returns:
        Entry τ counts the gradients of staleness τ, from 0 to the largest; int64.

    Raises:
        ValueError: if one is negative.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> staleness_histogram(round_robin(3, 10).staleness)
        array([1, 1, 8])
    """
    values = np.asarray(staleness).ravel()
    if values.size and values.min() < 0:
        raise ValueError(f"staleness must be at least 0, got {values.min()}.")
    return np.bincount(values, minlength=1)


def distance_by_staleness(staleness: HostArrayLike, distance: HostArrayLike) -> np.ndarray:
    """How far the weights had moved, for the gradients of each staleness.

    Where gradients are mostly noise the weights diffuse, and the distance grows as the root of the
    staleness; where they drift it grows in proportion; and beyond the stable step without bound.

    Args:
        staleness: whole numbers >= 0: `info.staleness`.
        distance: |w - snapshot| at the same steps: `info.distance`.

    Returns:
        Entry τ is the root of the mean square of the distances at staleness τ, from 0 to the
        largest; NaN where there was none.

    Raises:
        ValueError: if the shapes differ, or a staleness is negative.

    Example:
        >>> distance_by_staleness([0, 2, 2], [0.0, 3.0, 1.0])
        array([0.        ,        nan, 2.23606798])
    """
    delays, moved = np.asarray(staleness), np.asarray(distance, np.float64)
    if delays.shape != moved.shape:
        raise ValueError(
            f"staleness and distance must have one shape, got {delays.shape} and {moved.shape}."
        )
    counts = staleness_histogram(delays)
    squares = np.bincount(delays.ravel(), weights=moved.ravel() ** 2, minlength=1)
    return np.sqrt(np.divide(squares, counts, out=np.full(counts.size, np.nan), where=counts > 0))


def staleness_error(
    stale: optax.Updates, compensated: optax.Updates, fresh: optax.Updates
) -> StalenessError:
    r"""What is left of the error of one stale gradient.

    With g the gradient at the snapshot, f the gradient of the same batch at the server's weights,
    and u = g + c the compensated one, the error of staleness is g - f, and what a compensator
    leaves of it is g + c - f. Sums of these quantities over many gradients tell the share left
    for any factor κ on the correction,

        left(κ)² = Σ |g + κ c - f|² / Σ |g - f|²,

    without running anything again, as long as κ does not change the run itself.

    Args:
        stale: g.
        compensated: u, of the structure of g.
        fresh: f, of the structure of g.

    Returns:
        The three sums for this one gradient; add them up with `jax.tree.map`.

    Example:
        >>> g, u, f = jnp.array([1.0, 0.0]), jnp.array([0.5, 0.0]), jnp.array([0.0, 0.0])
        >>> float(error_left(staleness_error(g, u, f)))
        0.5
    """

    def difference(a: Any, b: Any) -> Any:
        return jax.tree.map(
            lambda x, y: cast(x, working_dtype(x, y)) - cast(y, working_dtype(x, y)), a, b
        )

    error, correction = difference(stale, fresh), difference(compensated, stale)
    return StalenessError(
        stale=jnp.asarray(tree.vdot(error, error)),
        along=jnp.asarray(tree.vdot(correction, error)),
        correction=jnp.asarray(tree.vdot(correction, correction)),
    )


def error_left(sums: StalenessError, strength: ArrayLike = 1.0) -> jax.Array:
    """The share of the staleness error that is left: 1 without compensation, 0 at best.

    Args:
        sums: of any number of gradients.
        strength: κ, a factor on the correction as it was computed.

    Returns:
        At least 0; above 1 where compensation does harm; NaN where nothing was stale.
    """
    # Σ |(g - f) + κ c|², multiplied out.
    k = jnp.asarray(strength).astype(sums.stale.dtype)
    left = sums.stale + 2 * k * sums.along + k**2 * sums.correction
    return jnp.sqrt(jnp.maximum(left, 0.0) / sums.stale)


def best_strength(sums: StalenessError) -> jax.Array:
    """The factor on the correction that leaves least, and is not negative.

    Args:
        sums: of any number of gradients.

    Returns:
        κ = max(0, -Σ c·(g - f) / Σ |c|²); 0 where there was no correction.
    """
    some = sums.correction > 0
    return jnp.where(
        some, jnp.maximum(-sums.along / jnp.where(some, sums.correction, 1.0), 0.0), 0.0
    )


def time_to(losses: HostArrayLike, clock: HostArrayLike, target: float) -> float:
    """The simulated time at which a loss is first reached.

    Args:
        losses: shape [points].
        clock: simulated seconds at each point, ascending, shape [points].
        target: the loss asked for.

    Returns:
        Seconds; infinity if it never is. A loss that is not a number is none.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> time_to([2.0, 1.0, 0.4], [1.0, 2.0, 3.0], target=0.5)
        3.0
    """
    values, times = np.asarray(losses, np.float64), np.asarray(clock, np.float64)
    if values.ndim != 1 or values.shape != times.shape:
        raise ValueError(
            f"losses and clock must have one shape [points], got {values.shape} and {times.shape}."
        )
    reached = np.flatnonzero(values <= target)
    return float(times[reached[0]]) if reached.size else math.inf


def stable_step(delay: int) -> float:
    r"""Where ASGD with a constant delay τ stops being stable: $2 \sin(\pi / (2 (2 \tau + 1)))$.

    It bounds η h for a quadratic of curvature h and step η. Without delay it is 2.

    Args:
        delay: τ >= 0.

    Raises:
        ValueError: if the delay is negative.

    Example:
        >>> [round(stable_step(delay), 3) for delay in (0, 1, 7)]
        [2.0, 1.0, 0.209]
    """
    if delay < 0:
        raise ValueError(f"delay must be at least 0, got {delay}.")
    return 2 * math.sin(math.pi / (2 * (2 * delay + 1)))
