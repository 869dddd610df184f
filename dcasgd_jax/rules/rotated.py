"""Delay compensation by a diagonal in a learnt basis: the eigenvectors of Kronecker factors."""

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
    working_zeros,
)
from dcasgd_jax._precision import cast, cast_like, working_dtype
from dcasgd_jax.rules.directions import divide_or_zero
from dcasgd_jax.rules.kronecker_bases import (
    LeafBasis,
    empty_basis,
    is_sound,
    learn,
    rotated,
    rotated_back,
)


class LastArrival(NamedTuple):
    """What a learnt λ needs of the past."""

    changed: jax.Array  # shape=(), float32 or wider: Σ of the gradients' change along V ⊙ a
    moved: jax.Array  # shape=(), of the same dtype: Σ |V ⊙ a|², for snapshots that moved by a
    gradients: optax.Updates  # of the last arrival, float32 or wider
    stale_params: optax.Params  # where they were taken, float32 or wider


class RotatedCompensationState(NamedTuple):
    """State of `rotated_compensation`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far, the argument of a schedule
    learnt: jax.Array  # shape=(), dtype=int32: gradients that were learnt from
    bases: Any  # a tree like the parameters, with a `LeafBasis` for each leaf
    mean_square: optax.Params  # like the parameters, float32 or wider: of the rotated gradients
    last: LastArrival | None  # None where λ is given


def rotated_compensation(
    lambda_: optax.ScalarOrSchedule | None = None,
    *,
    strength: optax.ScalarOrSchedule = 0.75,
    decay: ArrayLike = 0.95,
    refresh: int = 40,
    max_dimension: int = 1024,
) -> optax.GradientTransformationExtraArgs:
    r"""Delay compensation by a diagonal, taken in the eigenbasis of the gradients' factors.

    DC-ASGD replaces the Hessian by λ diag(g gᵀ), and it is the axes that lose most: a network's
    sharp directions are none of them. Of a layer with weights W [m, n] and gradient G, Shampoo and
    SOAP know a better basis for the price of two small matrices. The layer's Fisher matrix is
    close to a Kronecker product of

        L = E[G Gᵀ]  [m, m]   and   R = E[Gᵀ G]  [n, n],

    so its eigenvectors are close to the products q_i r_jᵀ of theirs, and there its diagonal is the
    mean square of the gradient's coordinates. With L = Q_L Λ_L Q_Lᵀ, R = Q_R Λ_R Q_Rᵀ, and with
    ⊙ elementwise,

        V = E[(Q_Lᵀ G Q_R) ⊙ (Q_Lᵀ G Q_R)],
        U = G + λ Q_L (V ⊙ (Q_Lᵀ (W - W_stale) Q_R)) Q_Rᵀ.

    With Q_L = Q_R = 1 this is DC-ASGD-c with g ⊙ g averaged over time. The expectations are running
    means of the gradients that arrive, the present one among them. Every `refresh` arrivals (and at
    arrivals 1, 2, 4, 8, ...) the bases are computed anew, and V is carried over into the new ones
    by the squares of the cosines between both. A gradient that is not finite is let through and not
    learnt from.

    The scale. The Fisher matrix, and so V, has another unit than the Hessian, and grows and shrinks
    with the gradients. So by default λ is learnt: two successive arrivals (G, W_stale) and
    (G', W_stale') say how much the gradient changed where the snapshot moved, and with V̂ = V / |V|

        λ |V| = Σ ⟨G' - G, C (W_stale' - W_stale)⟩ / Σ |C (W_stale' - W_stale)|²,

    C being the product with V̂ in the rotated basis: the least squares fit of the change by it, over
    some hundred pairs, one in ten arrivals. It is taken `strength` times, and never below
    zero. On a quadratic with one sharp direction that is no axis, eight workers then bear a step of
    1.9 in units of its curvature, where sequential SGD bears 2, ASGD 0.21 and the exact diag(H) at
    most 0.31. Given as `lambda_`, λ is what it is, with V's means corrected for their start at
    zero: V is about 1 / B of the Fisher matrix's diagonal for batches of B (where the mean gradient
    is small beside its noise), which makes B the natural λ; but V grows with gradients that grow,
    so a given λ stabilises nothing.

    A vector has one axis; a leaf of more than two axes is taken for a matrix by its last one (a
    convolution's [height · width · in, out]). An axis longer than `max_dimension` keeps its own
    basis, as does one of length 1.

    What it removes, of the error that staleness makes in the gradients of perceptrons of 936
    weights (10-24-24-5, batches of 64, eight workers, step 0.2; three seeds): with tanh, 0.71 is
    left, where the Hessian leaves 0.49 and g ⊙ g 0.89; with relu 0.87, 0.69, 0.91. The bases may
    be old (0.71 at `refresh` of 1, 10 and 40), V may not: means of every tenth gradient left 0.81.

    Memory: one copy of the parameters in float32 for V, and 2 (m² + n²) numbers for a leaf [m, n]:
    five copies in all where it is square; a learnt λ takes two more copies. Time at each arrival:
    8 m n (m + n) operations, where a gradient on B examples takes 6 B m n: little only where B is
    much more than m + n. Every `refresh`-th arrival takes some 20 (m³ + n³) besides.

    Sharded parameters on explicit axes are refused by jax, unless they are matrices.

    Put it first in a chain. Under `optax.masked` and `optax.partition`, hidden leaves pass.

    Args:
        lambda_: None for a learnt λ; or λ >= 0, a scalar or a schedule of it by server step.
        strength: κ >= 0, what a learnt λ is multiplied by, a scalar or a schedule. An error of the
            curvature is harmless while κ times it stays in [1/2, 1] of the true one; 1 removes most
            of a gradient's error where nothing is unstable.
        decay: ρ in [0, 1) of all running means.
        refresh: k >= 1: at one arrival in k the bases are computed anew.
        max_dimension: axes up to this length are rotated, >= 1.

    Returns:
        A transformation whose `update` needs `params` (w) and the keyword `stale_params` (w_stale).
        The sums are formed in float32 or wider.

    Raises:
        ValueError: here, if an argument is out of its range; from `update`, if `params` or
            `stale_params` is missing or a snapshot's shape is not its parameter's.

    Example:
        A gradient along (1, 1), and a movement of which half is along it:

        >>> import jax.numpy as jnp
        >>> tx = rotated_compensation(lambda_=0.5)
        >>> w, w_stale, gradient = jnp.array([1.0, 0.0]), jnp.zeros(2), jnp.array([1.0, 1.0])
        >>> updates, _ = tx.update(gradient, tx.init(w), w, stale_params=w_stale)
        >>> updates.round(3)  # g + 0.5 g gᵀ (1, 0), where DC-ASGD-c would have changed one weight
        Array([1.5..., 1.5...], dtype=float32)

    References:
        Gupta, Koren and Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, ICML 2018
        (https://arxiv.org/abs/1802.09568), for the factors; Vyas et al., SOAP: Improving and
        Stabilizing Shampoo using Adam, 2024 (https://arxiv.org/abs/2409.11321), for a diagonal in
        their eigenbasis; and for why stale gradients want one, "basis rotation", ICML 2026
        (https://arxiv.org/abs/2602.03515), as reported. To compensate in it is ours.
    """
    _check_arguments(lambda_, strength, decay, counts=(refresh, max_dimension))

    def init_fn(params: optax.Params) -> Any:
        return RotatedCompensationState(
            step=jnp.zeros([], jnp.int32),
            learnt=jnp.zeros([], jnp.int32),
            bases=map_present(lambda w: empty_basis(w, max_dimension), params),
            mean_square=working_zeros(params),
            last=_no_arrival(params) if lambda_ is None else None,
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
        require("rotated_compensation", params=params, stale_params=stale_params)
        check_same_structure(updates, params=params, stale_params=stale_params)
        state = jax.tree.map(jnp.asarray, state)  # a restored one may be of numpy
        # In float32 throughout: accelerators would multiply matrices in fewer digits.
        with jax.default_matmul_precision("highest"):
            sound = is_sound(updates)
            # Early on every gradient says much that is new: at arrivals 0, 1, 2, 4, 8, ... too.
            turn = (state.step % refresh == 0) | (state.step & (state.step - 1) == 0)
            pair = state.step % min(refresh, _PAIR_EVERY) == 0
            old = state.bases, state.mean_square
            bases, mean_square = jax.lax.cond(
                sound, lambda: learn(updates, *old, decay, turn=turn), lambda: old
            )
            learnt = jnp.where(sound, state.learnt + 1, state.learnt)
            if state.last is None:
                assert lambda_ is not None
                last, factor = None, _given(at_step(lambda_, state.step), decay, learnt)
            else:
                arrived = _Arrived(updates, params, stale_params)
                last = _with_arrival(
                    state.last, arrived, bases, mean_square, due=sound & pair, sound=sound
                )
                slope = jnp.maximum(divide_or_zero(last.changed, last.moved), 0)
                factor = cast(at_step(strength, state.step), slope.dtype) * divide_or_zero(
                    slope, _length(mean_square)
                )

            def compensated(g: Any, w: Any, s: Any, basis: LeafBasis, v: jax.Array) -> jax.Array:
                moved = cast(movement(g, w, s), v.dtype)
                along = v * rotated(moved, basis)  # V ⊙ (Q_Lᵀ (W - W_stale) Q_R)
                added = cast(factor, v.dtype) * rotated_back(along, basis)
                return cast_like(cast(g, v.dtype) + added, g)

            made = map_present(compensated, updates, params, stale_params, bases, mean_square)
        step = jnp.asarray(optax.safe_increment(state.step))
        return made, RotatedCompensationState(step, learnt, bases, mean_square, last)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_arguments(lambda_: Any, strength: Any, decay: Any, *, counts: tuple[int, int]) -> None:
    """Refuses hyperparameters out of their ranges."""
    if lambda_ is not None:
        check_number("lambda_", lambda_, schedule=True)
    check_number("strength", strength, schedule=True)
    check_number("decay", decay, bound=1.0)
    for name, value in zip(("refresh", "max_dimension"), counts, strict=True):
        check_count(name, value)


def _given(strength: ArrayLike, decay: ArrayLike, learnt: jax.Array) -> jax.Array:
    """A given λ over what the running means still lack of their weight; zero at the beginning."""
    # E[x] = (1 - ρ) Σ ρ^i x_i / (1 - ρ^t) after t gradients.
    dtype = jnp.result_type(float)
    weight = 1 - cast(decay, dtype) ** learnt.astype(dtype)
    return divide_or_zero(cast(strength, dtype), jnp.where(learnt > 0, weight, 0))


def _length(mean_square: Any) -> jax.Array:
    """|V| over all leaves: V changes its scale with the gradients', a curvature does not."""
    leaves = [
        leaf for leaf in jax.tree.leaves(mean_square, is_leaf=is_hidden) if not is_hidden(leaf)
    ]
    return jnp.sqrt(dot(leaves, leaves))


class _Arrived(NamedTuple):
    """What arrived, as it came."""

    gradients: Any
    params: Any
    stale_params: Any


_PAIR_EVERY, _PAIR_DECAY = 10, 0.99
"""Arrivals from pair to pair, at most; and what is kept of the sums over pairs at each further one:
a hundred of them tell λ."""


def _no_arrival(params: optax.Params) -> LastArrival:
    """Before the first one."""
    zero = jnp.zeros([], working_dtype(*jax.tree.leaves(params)))
    return LastArrival(zero, zero, working_zeros(params), working_zeros(params))


def _with_arrival(
    last: LastArrival,
    now: _Arrived,
    bases: Any,
    mean_square: Any,
    *,
    due: jax.Array,
    sound: jax.Array,
) -> LastArrival:
    """What is known after one more arrival, which makes a pair with the last one if it is time."""
    last = jax.lax.cond(due, lambda: _with_pair(last, now, bases, mean_square), lambda: last)
    return _remembered(last, now, sound)


def _with_pair(last: LastArrival, now: _Arrived, bases: Any, mean_square: Any) -> LastArrival:
    """The sums with one more pair of successive arrivals in, if these tell of the curvature."""
    size = _length(mean_square)

    def sums(g: Any, w: Any, s: Any, basis: LeafBasis, v: Any, g0: Any, s0: Any) -> Any:
        travelled = cast(s, v.dtype) - s0
        moved = divide_or_zero(v, cast(size, v.dtype)) * rotated(travelled, basis)
        change = rotated(cast(g, v.dtype) - g0, basis)
        squares = [jnp.sum(jnp.square(x)) for x in (g0, movement(g, w, s), travelled)]
        return jnp.stack([jnp.sum(moved * change), jnp.sum(moved * moved), *squares])

    each = map_present(sums, *now, bases, mean_square, last.gradients, last.stale_params)
    rows = [
        cast(r, last.moved.dtype)
        for r in jax.tree.leaves(each, is_leaf=is_hidden)
        if not is_hidden(r)
    ]
    changed, moved, *seen = sum(rows, start=jnp.zeros(5, last.moved.dtype))
    # Where w has moved since w_stale was pulled, the last gradient is not part of w_stale.
    usable = jnp.all(jnp.stack(seen) > 0)
    keep = jnp.asarray(_PAIR_DECAY, last.moved.dtype)
    return last._replace(
        changed=jnp.where(usable, keep * last.changed + changed, last.changed),
        moved=jnp.where(usable, keep * last.moved + moved, last.moved),
    )


def _remembered(last: LastArrival, now: _Arrived, sound: jax.Array) -> LastArrival:
    """The arrival in place of the last one, if it is sound."""

    def taken(g: Any, value: Any, old: Any) -> Any:
        return old if is_hidden(g) else jnp.where(sound, cast(value, old.dtype), old)

    g, _, s = now
    return last._replace(
        gradients=jax.tree.map(taken, g, g, last.gradients, is_leaf=is_hidden),
        stale_params=jax.tree.map(taken, g, s, last.stale_params, is_leaf=is_hidden),
    )
