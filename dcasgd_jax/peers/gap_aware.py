"""Gap-Aware steps: each weight's step is divided by how many typical steps it has moved since."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number, require, scalar
from dcasgd_jax._masked_trees import check_same_structure, map_present, movement, working_zeros
from dcasgd_jax._precision import cast, cast_like, cast_strongly, working_dtype


class GapAwareState(NamedTuple):
    """State of `gap_aware`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far
    params: optax.Params  # the server's weights at the last update, float32 or wider
    mean_square: (
        optax.Params
    )  # of the server's steps, float32 or wider, not corrected for its start


def gap_aware(
    *, patent_acknowledged: bool = False, decay: ArrayLike = 0.999
) -> optax.GradientTransformationExtraArgs:
    r"""Divides each gradient entry by 1 + |w - w_stale| / C, elementwise.

    |w - w_stale| is the gap, and C the size of a typical step of that weight: the root of a
    running mean of the squares of the server's steps,

        v_t = ρ v_{t-1} + (1 - ρ) (w_t - w_{t-1})²,   C = √(v_t / (1 - ρ^t)).

    A weight that moved by one typical step since the snapshot has its gradient halved; one that
    stood still keeps it, however late it is. Since steps are read off the weights, it does not
    matter what follows in the chain.

    **Patented** in the United States (US 11,631,035 B2, assigned to the paper's authors'
    institution): it is here to be compared with in research, has to be asked for by name, and
    whoever uses it for anything else must see to a licence.

    Memory: two copies of the parameters in float32.

    Args:
        patent_acknowledged: must be True.
        decay: ρ in [0, 1) of the running mean.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params`
        (w_stale). Put it first in a chain.

    Raises:
        ValueError: here, if the patent is not acknowledged or `decay` out of range; from `update`,
            if an argument is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = gap_aware(patent_acknowledged=True)
        >>> w0, w1 = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
        >>> gradient = jnp.array([6.0, 6.0])
        >>> _, state = tx.update(gradient, tx.init(w0), w0, stale_params=w0)
        >>> tx.update(gradient, state, w1, stale_params=w0)[0]  # one step behind, and none
        Array([3..., 6...], dtype=float32)

    References:
        Barkai, Hakimi and Schuster, Gap-Aware Mitigation of Gradient Staleness, ICLR 2020
        (https://arxiv.org/abs/1909.10802). The running mean of squares, elementwise, is as
        reported in code of a later work from the same institution; ρ and the correction of the
        start are ours.
    """
    if patent_acknowledged is not True:
        raise ValueError(
            "gap_aware is covered by US patent 11,631,035 B2 and off by default; pass "
            "patent_acknowledged=True to say that you know and that your use is allowed."
        )
    check_number("decay", decay, bound=1.0)

    def init_fn(params: optax.Params) -> Any:
        return GapAwareState(
            step=jnp.zeros([], jnp.int32),
            params=working_zeros(params),
            mean_square=working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        stale_params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        require("gap_aware", params=params, stale_params=stale_params)
        check_same_structure(updates, params=params, stale_params=stale_params)
        started = state.step > 0  # before that, there is no step to measure

        def mean_square(w: Any, v: jax.Array, last: jax.Array) -> jax.Array:
            keep = scalar(decay, v.dtype)  # v ← ρ v + (1 - ρ) (w_t - w_{t-1})²
            now = keep * v + (1 - keep) * jnp.square(cast(w, v.dtype) - last)
            return jnp.where(started, now, v)

        def penalised(g: Any, w: Any, s: Any, v: jax.Array) -> jax.Array:
            gap = jnp.abs(movement(g, w, s))
            # C = √(v / (1 - ρ^t)): v began at zero, and has this share of its final weight.
            weight = 1 - cast(decay, v.dtype) ** cast(state.step, v.dtype)
            typical = jnp.sqrt(v / jnp.where(started, weight, 1))
            # A weight that moved by less than can be squared has no typical step: no penalty.
            steps = jnp.where(typical > 0, gap / jnp.where(typical > 0, typical, 1), 0)
            return cast_like(cast(g, gap.dtype) / (1 + cast(steps, gap.dtype)), g)

        v = map_present(mean_square, params, state.mean_square, state.params)
        return map_present(penalised, updates, params, stale_params, v), GapAwareState(
            step=jnp.asarray(optax.safe_increment(state.step)),
            params=map_present(lambda w: cast_strongly(w, working_dtype(w)) + 0.0, params),
            mean_square=v,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
