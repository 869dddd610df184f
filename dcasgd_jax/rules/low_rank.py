"""A compensator of low rank, which learns the sharp directions from the gradients that arrive."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import at_step, check_count, check_number, require
from dcasgd_jax._masked_trees import (
    check_same_structure,
    dot,
    is_hidden,
    map_present,
    movement,
    present_leaves,
    with_present_leaves,
    working_zeros,
)
from dcasgd_jax._precision import cast, cast_like, working_dtype
from dcasgd_jax.rules.directions import (
    direction_lengths,
    divide_or_zero,
    inner_products,
    update_directions,
)


class PairSums(NamedTuple):
    """What pairs of arrivals say of the curvature, in coordinates along k directions.

    A pair moved by a and changed its gradient by b; every sum is discounted by the decay.
    """

    moved: jax.Array  # shape=(rank, rank), float32 or wider: Σ a aᵀ
    changed: jax.Array  # shape=(rank, rank), of the same dtype: Σ b aᵀ
    spread: jax.Array  # shape=(rank, rank), of the same dtype: Σ b bᵀ
    number: jax.Array  # shape=(rank,), of the same dtype: pairs that each direction has seen


class LowRankCompensationState(NamedTuple):
    """State of `low_rank_compensation`.

    Directions are a tuple of trees, not a tree of stacked arrays: each is a parameter tree to
    `optax.tree.map_params`, to sharding rules and to checkpoints.
    """

    step: jax.Array  # shape=(), dtype=int32: updates so far, the argument of a schedule
    directions: tuple[optax.Params, ...]  # rank trees, float32 or wider: orthogonal, the longest
    # first; the squared length of one is the mean square of the gradients along it
    pairs: PairSums
    gradients: optax.Updates  # of the last arrival learnt from, float32 or wider
    stale_params: optax.Params  # where they were taken, float32 or wider


def low_rank_compensation(
    rank: int,
    *,
    strength: optax.ScalarOrSchedule = 0.75,
    decay: ArrayLike = 0.999,
    confidence: ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Compensates a stale gradient along the few directions in which that is needed.

    Staleness destabilises the sharp directions first, and in networks these are few and far from
    the axes, where a diagonal compensator cannot reach them. This one keeps k orthonormal
    directions v_i with a curvature θ_i each, learnt from what a server sees anyway, gradients and
    the snapshots they were taken at, and needs no further derivative:

        u = g + κ Σ_i θ_i (v_i·(w - w_stale)) v_i

    - Directions: the leading principal components of the gradients seen, Σ_t ρ^(T-t) g_t g_tᵀ,
      followed by an incremental singular value decomposition. Gradients lie mostly in the sharp
      directions: by their mean where training is unstable, by their noise where it is not.
    - Curvatures: two successive arrivals (g, w_stale), (g', w_stale') give a pair
      a_i = v_i·(w_stale' - w_stale), b_i = v_i·(g' - g), with b_i = h_i a_i + noise where v_i is
      an eigenvector of curvature h_i. θ_i is the regression of b_i on a_i over all pairs, each
      discounted by ρ for every later one. The sums are turned with the directions.
    - Trust: of θ_i, `confidence` standard errors of the regression are taken off, and what is left
      is kept if it is positive. Where pairs are few or noise hides the curvature, nothing is
      added: the rule falls back to ASGD. An arrival that is not finite, or whose squares could
      not be summed, is compensated by what is known and not learnt from.

    A pair is used only where the earlier gradient is not part of the later snapshot (the weights
    have moved since the latter was pulled): otherwise its noise is in both b and a, and would
    look like curvature.

    On a quadratic with k sharp directions and the rest below ASGD's own limit, the largest stable
    step becomes that of sequential SGD, whatever the delay. An error of θ_i is harmless while
    κ θ_i / h_i stays in [1/2, 1]; the default κ = 3/4 leaves a third on both sides.

    What it removes elsewhere: of the error that staleness makes in the gradients of a tanh network
    (20-64-64-10, batches of 128, eight workers, step 0.2, κ = 1) it left 0.94 to 1.00 with k = 1,
    0.81 to 0.92 with 4 and 0.74 to 0.86 with 16, after 500 to 3,000 arrivals; the exact diag(H)
    left 0.98 to 0.99, the Hessian of the same batch 0.26 to 0.35. At batches of 8 and step 0.1,
    noise hid the curvature: 0.99 to 1.00 was left with any k, where `confidence=0` did harm (up to
    1.06) and `decay=0.99` more (up to 1.13, and 1.98 with both).

    Where it fails: if more than k directions are sharp, the first one left out sets the limit. In
    noise, the error of η θ_i after N pairs is about √(2 / N), for step η, so that curvature is seen
    late unless it has begun to diverge; and a change of the curvature within some 1 / (1 - ρ)
    arrivals is missed. In synchronous rounds no pair is free of the noise above: nothing is learnt.
    Heavy-ball momentum behind it takes the guarantee away, as from any compensator.

    Memory: k + 2 copies of the parameters in float32 or wider. Time: about 2 (k + 1)² operations a
    parameter and arrival, and one eigendecomposition of order k + 1.

    Under `optax.masked` and `optax.partition`, the curvature is that of the leaves it is given.

    Args:
        rank: k >= 1.
        strength: κ >= 0, a scalar or a schedule of it by server step.
        decay: ρ in [0, 1), how much of what was seen is kept from arrival to arrival.
        confidence: standard errors taken off each curvature, >= 0.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params` (w_stale).
        Put it first in a chain, before weight decay and the optimiser.

    Raises:
        ValueError: here, if an argument is out of its range; from `update`, if `params` or
            `stale_params` is missing or a snapshot's shape is not its parameter's.

    Example:
        Two valleys at right angles, turned by 45 degrees; eight workers, a step at which ASGD
        diverges:

        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import round_robin, simulate
        >>> curvature = jnp.array([[0.51, 0.49], [0.49, 0.51]])  # 1 and 0.02
        >>> def final_distance(tx):
        ...     w, _ = simulate(lambda w, _: curvature @ w, jnp.array([1.0, 0.0]), tx,
        ...                     round_robin(8, 400), jnp.zeros(400))
        ...     return float(jnp.linalg.norm(w))
        >>> final_distance(optax.sgd(1.0)) > 1e6
        True
        >>> final_distance(optax.chain(low_rank_compensation(1), optax.sgd(1.0))) < 1e-2
        True

    References:
        Brand, Incremental Singular Value Decomposition of Uncertain Data with Missing Values, ECCV
        2002, for the directions; Gur-Ari, Roberts and Dyer, Gradient Descent Happens in a Tiny
        Subspace, 2018 (https://arxiv.org/abs/1812.04754), for why they are the sharp ones. The
        compensator itself is ours: we know of no published one of low rank.
    """
    check_count("rank", rank)
    check_number("strength", strength, schedule=True)
    check_number("decay", decay, bound=1.0)
    check_number("confidence", confidence)

    def init_fn(params: optax.Params) -> Any:
        square = jnp.zeros((rank, rank), working_dtype(*jax.tree.leaves(params)))
        return LowRankCompensationState(
            step=jnp.zeros([], jnp.int32),
            directions=tuple(working_zeros(params) for _ in range(rank)),
            pairs=PairSums(square, square, square, jnp.zeros_like(square[0])),
            gradients=working_zeros(params),
            stale_params=working_zeros(params),
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
        require("low_rank_compensation", params=params, stale_params=stale_params)
        check_same_structure(updates, params=params, stale_params=stale_params)
        arrival = _leaves_of_arrival(updates, params, stale_params)
        # In float32 throughout: accelerators would multiply matrices in fewer digits.
        with jax.default_matmul_precision("highest"):
            learnt = _learn(_leaves_of_state(state, params), arrival, decay)
            factor = cast(at_step(strength, state.step), learnt.pairs.number.dtype)
            weights = factor * _curvatures(learnt.pairs, confidence)
            compensated = _compensated(arrival, learnt.directions, weights)
        return (
            map_present(
                lambda g, u: cast_like(u, g), updates, with_present_leaves(compensated, params)
            ),
            LowRankCompensationState(
                step=jnp.asarray(optax.safe_increment(state.step)),
                directions=tuple(
                    with_present_leaves([leaf[i] for leaf in learnt.directions], params)
                    for i in range(rank)
                ),
                pairs=learnt.pairs,
                gradients=with_present_leaves(learnt.gradients, params),
                stale_params=with_present_leaves(learnt.snapshot, params),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _ArrivalLeaves(NamedTuple):
    """What arrived, leaf by leaf, float32 or wider."""

    gradients: list[jax.Array]
    moved: list[jax.Array]  # w - w_stale
    snapshot: list[jax.Array]


def _leaves_of_arrival(updates: Any, params: Any, stale_params: Any) -> _ArrivalLeaves:
    """What arrived, leaf by leaf; a leaf without a gradient counts as one that stands still."""
    arrival = _ArrivalLeaves([], [], [])
    for g, w, s in zip(
        present_leaves(updates, params),
        present_leaves(params, params),
        present_leaves(stale_params, params),
        strict=True,
    ):
        dtype = working_dtype(w)  # of the state, whatever the gradient's
        moved = cast(movement(w if is_hidden(g) else g, w, s), dtype)
        arrival.gradients.append(jnp.zeros_like(moved) if is_hidden(g) else cast(g, dtype))
        arrival.moved.append(jnp.zeros_like(moved) if is_hidden(g) else moved)
        arrival.snapshot.append(cast(s, dtype))
    return arrival


class _Learnt(NamedTuple):
    """What has been learnt from arrivals, leaf by leaf."""

    directions: list[jax.Array]  # leaves [k, *s]
    pairs: PairSums
    gradients: list[jax.Array]  # of the last arrival that was learnt from
    snapshot: list[jax.Array]


def _leaves_of_state(state: LowRankCompensationState, params: Any) -> _Learnt:
    """What the state holds, leaf by leaf."""
    state = jax.tree.map(jnp.asarray, state)  # a restored one may be of numpy
    leaves = zip(*(present_leaves(d, params) for d in state.directions), strict=True)
    return _Learnt(
        directions=[jnp.stack(leaf) for leaf in leaves],
        pairs=state.pairs,
        gradients=present_leaves(state.gradients, params),
        snapshot=present_leaves(state.stale_params, params),
    )


def _learn(old: _Learnt, arrival: _ArrivalLeaves, decay: ArrayLike) -> _Learnt:
    """What is known after one more arrival."""
    sums, (rank,) = old.pairs, old.pairs.number.shape
    keep = jnp.asarray(decay, sums.number.dtype)  # never weakly typed
    # Below this the discounted sums of squared differences stay finite; NaN is not below.
    most = jnp.finfo(keep.dtype).max * (1 - keep) / 8
    steps = _minus(arrival.snapshot, old.snapshot)
    size = jnp.maximum(*(cast(_square(x), most.dtype) for x in (arrival.gradients, steps)))
    sound = size < most
    gradients = _where(sound, arrival.gradients, old.gradients)
    snapshot = _where(sound, arrival.snapshot, old.snapshot)
    travelled, change = _minus(snapshot, old.snapshot), _minus(gradients, old.gradients)
    # In the directions that were known before: the new gradient's noise is not in them.
    a = _coordinates(old.directions, travelled, like=sums.number)
    b = _coordinates(old.directions, change, like=sums.number)
    # Where w has moved since w_stale was pulled, the last gradient is not part of w_stale.
    usable = (_square(old.gradients) > 0) & (_square(arrival.moved) > 0) & (_square(travelled) > 0)
    pair = PairSums(jnp.outer(a, a), jnp.outer(b, a), jnp.outer(b, b), jnp.ones_like(a))
    sums = jax.tree.map(lambda s, x: jnp.where(usable, keep * s + x, s), sums, pair)

    # An arrival that is not learnt from is added with weight 1 - ρ = 0.
    keep = jnp.where(sound, keep, jnp.ones_like(keep))
    directions, cosines = update_directions(old.directions, gradients, keep, rank=rank)
    # Of what was known of a direction, as much is left as there is of it in the new ones.
    turned = PairSums(
        *(cosines @ total @ cosines.T for total in (sums.moved, sums.changed, sums.spread)),
        number=jnp.square(cosines) @ sums.number,
    )
    return _Learnt(directions, turned, gradients, snapshot)


def _curvatures(pairs: PairSums, confidence: ArrayLike) -> jax.Array:
    """Slopes of the regressions less some standard errors, never negative; shape [k]."""
    moved, changed, spread = (
        jnp.diagonal(total) for total in (pairs.moved, pairs.changed, pairs.spread)
    )
    slope = divide_or_zero(changed, moved)
    # Σ (b - θ a)² = Σ b² - θ Σ b a for θ = Σ b a / Σ a²; its standard error is the root of that
    # over Σ a² and the degrees of freedom.
    residual = jnp.maximum(spread - slope * changed, 0.0)
    # One pair has gone into the slope, and one into the direction, itself fitted to gradients.
    freedom = jnp.maximum(pairs.number - 2, 0.0)
    error = jnp.sqrt(divide_or_zero(residual, moved * freedom))
    known = (moved > 0) & (freedom > 0)
    return jnp.where(known, jnp.maximum(slope - cast(confidence, slope.dtype) * error, 0.0), 0.0)


def _compensated(
    arrival: _ArrivalLeaves, directions: Sequence[jax.Array], weights: jax.Array
) -> list[jax.Array]:
    """Every g + Σ_i weight_i (v_i·moved) v_i, leaf by leaf, for unit vectors v_i."""
    length = direction_lengths(directions, rank=weights.size, dtype=weights.dtype)
    along = divide_or_zero(weights * _coordinates(directions, arrival.moved, like=weights), length)
    return [
        g + jnp.tensordot(cast(along, g.dtype), leaf, 1)
        for g, leaf in zip(arrival.gradients, directions, strict=True)
    ]


def _coordinates(
    directions: Sequence[jax.Array], x: Sequence[jax.Array], *, like: jax.Array
) -> jax.Array:
    """Of x along the unit vectors of the directions, shape [k], in the dtype of `like`."""
    rank, dtype = like.size, like.dtype
    along = inner_products(directions, [y[None] for y in x], shape=(rank, 1), dtype=dtype)[:, 0]
    return divide_or_zero(along, direction_lengths(directions, rank=rank, dtype=dtype))


def _minus(x: Sequence[jax.Array], y: Sequence[jax.Array]) -> list[jax.Array]:
    """The difference x - y, leaf by leaf."""
    return [a - b for a, b in zip(x, y, strict=True)]


def _square(x: Sequence[jax.Array]) -> jax.Array:
    """|x|² over all leaves."""
    return dot(x, x)


def _where(condition: jax.Array, x: Sequence[jax.Array], y: Sequence[jax.Array]) -> list[jax.Array]:
    """Leaves of x where the condition, a scalar, holds; else those of y."""
    return [jnp.where(condition, a, b) for a, b in zip(x, y, strict=True)]
