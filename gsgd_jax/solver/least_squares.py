"""The group element that makes the weights' sum of squares least, by Newton's method."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gsgd_jax.solver.incidence import Arrays, Incidence
from gsgd_jax.solver.knots import adrift

_SWEEPS = 40
"""How many steps of every node by itself are taken at most, before Newton's."""


class Due(NamedTuple):
    """Sums of squares, of what enters and of what leaves each node; float64 [num_nodes] each."""

    alone: tuple[np.ndarray, np.ndarray]  # for a node with weights on one side alone
    outside: tuple[np.ndarray, np.ndarray]  # for a node of a knot: of entries from or to outside it


class Least(NamedTuple):
    """Where the sum of squares is least."""

    logs: Any  # x = log c, in the dtype of the squares, [num_nodes]; NaN where squares are
    totals: Any  # of every factor the sum of squares of the entries that share it there, [factors]


def least_squares(
    incidence: Incidence,
    may_move: np.ndarray,
    due: Due | None,
    squares: Sequence[Any],
    *,
    knots: np.ndarray | None = None,
    pulls: tuple[np.ndarray, np.ndarray] | None = None,
    arrays: Arrays,
    tolerance: float,
    max_steps: int,
) -> Least:
    r"""The x that minimises F(x) = ½ Σ_e w_e² exp(2 Σ_h k_eh x_h) - Σ_h p_h x_h, [num_nodes].

    p_h is 0 for a node with weights on both sides, what is due to it for one with incoming weights
    alone, and minus that for one with outgoing ones alone: the sum of squares that they end with.
    In the same way it is what is due to the nodes of a knot that nothing but zeros leaves, or
    enters: with p = 0 their common scale would run away to where what joins them to the rest
    vanishes. As p depends only on which weights are zero, the copy at the minimum is the same for
    all that the group connects. Or p is given, as the difference of two pulls. Newton's method:

        ∂F/∂x_h = Σ_e k_eh size_e - p_h,    ∂²F/∂x_h∂x_g = 2 Σ_e k_eh k_eg size_e,

    size_e being w_e² of the copy at x. The damping needs no line search. It is slow far from the
    minimum, so steps of every node by itself come first, which are exact for one alone: with I_h
    and O_h the two sums of squares at a node, x_h + ¼ log(O_h / I_h) makes them equal. Taken
    together, steps 1/n as long never overshoot where at most n nodes scale an entry, F being
    convex.

    Args:
        incidence: which nodes scale which entries.
        may_move: which nodes may move, bool [num_nodes].
        due: sums of squares for nodes with weights on one side alone, and for knots; None for such
            nodes to keep their scale, and such knots the geometric mean of their nodes' scales.
        squares: w_e² of every leaf, in the working dtype, of size 1 along axes on which no factor
            depends.
        knots: of every node the knot that it is in, see `knots_of`; None where there is none.
        pulls: instead of `due`, numbers added to the incoming and to the outgoing sum of squares
            of every node, none negative: p is the second minus the first; float64 [num_nodes] each.
        arrays: where this is worked out.
        tolerance: relative difference of a node's two sums of squares at which to stop.
        max_steps: after how many steps of either kind to stop in any case.

    Returns:
        The minimum; the totals are those that it was told by, to the tolerance.

    References:
        Sun and Tran-Dinh, *Generalized self-concordant functions: a recipe for Newton-type
        methods*, Mathematical Programming, 2019, for the damping.
    """
    xp, dtype = arrays.xp, squares[0].dtype
    start = xp.zeros(len(may_move), dtype)
    live = [(s != 0).astype(dtype) for s in squares]  # NaN too, for it to be met below
    present = incidence.totals(live, incidence.logs(start, xp), arrays)
    sides = incidence.sums(present, (lambda k: k > 0, lambda k: k < 0), arrays)
    entered, left = (side > 0.5 for side in sides)
    moves = (entered & left if due is None and pulls is None else entered | left) & may_move
    held = None  # nodes of knots that keep their common scale
    if pulls is None:
        loose = None if knots is None else adrift(incidence, knots, live, (entered, left), arrays)
        pulls = _pulls(due, (entered, left), loose, start, arrays)
        held = None if due is not None or loose is None else (loose[0] | loose[1]) & moves
    centred = functools.partial(_centred, knots=knots, held=held, arrays=arrays)
    alone_step = incidence.longest_steps().astype(dtype)

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        """From (x, steps, ...) to the next x, from the last one to itself; its error and totals."""
        x, steps, *_ = state
        logs = incidence.logs(x, xp)
        totals = incidence.totals(squares, logs, arrays)
        weighings = (lambda k: np.maximum(k, 0), lambda k: np.maximum(-k, 0), np.square)
        *sides, squared = incidence.sums(totals, weighings, arrays)
        entering, leaving = (
            xp.where(moves, side + pull, 1) for side, pull in zip(sides, pulls, strict=True)
        )
        if held is not None:  # what holds a common scale pulls at each node of its set alike
            common = entering - leaving - centred(entering - leaving)
            entering, leaving = entering + xp.maximum(-common, 0), leaving + xp.maximum(common, 0)
        error = xp.max(xp.abs(entering - leaving) / (entering + leaving), initial=0)
        far = (error > 0.1) & (steps < min(_SWEEPS, max_steps))
        on = (error > enough) & (steps < max_steps)

        def hessian(direction: Any) -> Any:
            along = incidence.logs(direction, xp)
            slopes = incidence.slopes(squares, logs, totals, along, arrays)
            curved = incidence.sums(slopes, (np.positive,), arrays)[0]
            return xp.where(moves, centred(curved), direction)

        # Where the target is 0, nothing is solved.
        target = xp.where(on & ~far, centred(leaving - entering), 0)
        diagonal = xp.where(moves, 2 * squared, 1)
        if held is not None:  # alike in a set, for the solution to leave its common scale alone
            diagonal = xp.where(held, diagonal - centred(diagonal), diagonal)
        newton = _damped(conjugate_gradients(hessian, target, diagonal, arrays), incidence, xp)
        own = alone_step * (xp.log(leaving) - xp.log(entering))
        return x + centred(xp.where(far, own, newton)), steps + 1, error, totals

    # Relative differences of a node's two sums of squares.
    enough = np.asarray(max(tolerance / 2, 64 * float(jnp.finfo(dtype).eps)), dtype)
    first = (start, 0, xp.full([], np.inf, dtype), xp.zeros_like(present))
    x, _, error, totals = arrays.loop(
        lambda state: (state[2] > enough) & (state[1] <= max_steps), step, first
    )
    # A trace cannot raise, and x would be the start.
    return Least(xp.where(xp.isnan(error), error, x), totals)


def _damped(direction: Any, incidence: Incidence, xp: Any) -> Any:
    """Newton's step, shortened where it is long, so that no line search is needed."""
    furthest = incidence.most_parts * xp.max(xp.abs(incidence.logs(direction, xp)), initial=0)
    # At least by how much the logarithm of any entry moves.
    longest = 2 * furthest + jnp.finfo(direction.dtype).tiny
    return direction * xp.log1p(longest) / longest


def _pulls(
    due: Due | None, sides: Any, loose: Any | None, nothing: Any, arrays: Arrays
) -> tuple[Any, Any]:
    """What is added to the incoming and to the outgoing sum of squares of every node."""
    if due is None:
        return nothing, nothing
    xp, (entered, left) = arrays.xp, sides
    # What enters a node that nothing leaves is weighed against what is due to it, and so on.
    pulls = xp.where(left & ~entered, due.alone[1], 0), xp.where(entered & ~left, due.alone[0], 0)
    if loose is not None:
        before, behind = loose
        # A knot with neither moves no other weight with its common scale, which may stay.
        pulls = (
            pulls[0] + xp.where(before & ~behind, due.outside[1], 0),
            pulls[1] + xp.where(behind & ~before, due.outside[0], 0),
        )
    return pulls[0].astype(nothing.dtype), pulls[1].astype(nothing.dtype)


def _centred(vector: Any, *, knots: np.ndarray | None, held: Any | None, arrays: Arrays) -> Any:
    """A vector less its mean over the nodes of each knot that are held; the same elsewhere."""
    if knots is None or held is None:
        return vector
    xp, ids = arrays.xp, np.maximum(knots, 0)
    columns = xp.stack([xp.where(held, vector, 0), held.astype(vector.dtype)], axis=1)
    sums = arrays.add_at(ids, columns, int(ids.max()) + 1)
    means = sums[:, 0] / xp.maximum(sums[:, 1], 1)
    return xp.where(held, vector - means[ids], vector)


def conjugate_gradients(
    matrix: Callable[[Any], Any], target: Any, diagonal: Any, arrays: Arrays
) -> Any:
    """Solves a positive definite system, to four digits: Newton's method corrects the rest.

    Of libraries, scipy's is no dependency and jax's would have the host compile a program first.
    """
    zero, first = arrays.xp.zeros_like(target), target / diagonal
    size = target @ first
    tiny = jnp.finfo(target.dtype).tiny

    def step(state: tuple[Any, ...]) -> tuple[Any, ...]:
        solution, residual, search, size, count = state
        image = matrix(search)
        length = size / (search @ image + tiny)
        solution, residual = solution + length * search, residual - length * image
        scaled = residual / diagonal
        new_size = residual @ scaled
        return solution, residual, scaled + new_size / (size + tiny) * search, new_size, count + 1

    return arrays.loop(
        lambda state: (state[3] > 1e-8 * size) & (state[4] < 200),
        step,
        (zero, target, first, size, 0),
    )[0]
