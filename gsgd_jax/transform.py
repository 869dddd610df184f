"""Any optax transformation in path space."""

import functools
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax._extra_arguments import in_path_values, shown
from gsgd_jax._factors import Group
from gsgd_jax._precision import check_number
from gsgd_jax._update_checks import check_bound, check_gradients, check_state
from gsgd_jax.coordinates.frame import ARRAYS
from gsgd_jax.coordinates.paths import coordinates_of
from gsgd_jax.coordinates.protocol import Coordinates, StepInfo


class PathSpaceState(NamedTuple):
    """State of `in_path_space`."""

    inner_state: optax.OptState  # of the inner transformation, whose parameters are path values
    frame: Any  # what the coordinates keep fixed along a run: the balanced frame of its start
    least_ratio: jax.Array  # shape=(), dtype=float32: smallest v'/v last asked for on the skeleton
    bounded: jax.Array  # shape=(), dtype=int32: how many skeleton steps were shortened so far


def in_path_space(
    inner: optax.GradientTransformation,
    coordinates: Coordinates | Group | None,
    *,
    max_ratio: chex.Numeric | None = 10.0,
    max_growth: chex.Numeric | Literal["advised"] | None = "advised",
    stale_gradients: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs an optax transformation on path values instead of weights.

    The gradient is pulled back to the path values v (`inverse_chain_rule`), the inner
    transformation steps on these, v' = v + u, and the weights are changed accordingly. So a network
    and a rescaled copy of it, which are the same function, stay the same function at every step.
    G-SGD is `optax.sgd` inside; G-momentum, G-Adam and G-RMSProp are made likewise.

    Given a rescaling group, path values are the weights of the copy of the start that is balanced:
    every node's incoming and outgoing weights have equal norms. This is the default, and what we
    advise: the coordinates are never singular, no entry is frozen, and any optax transformation
    trains as it does on weights, from the balanced copy of the start. A last layer may begin at
    zero, or small (`Balanced`). Others are asked for by name: `choose_skeleton(..., basis="paths")`
    gives the papers' directed paths, `choose_section` pivots of one's own.

    It takes the step itself, so the learning rate belongs inside, and `in_path_space` last in a
    chain. What is inside acts on path values: weight decay decays them, and
    `optax.chain(inner, optax.masked(optax.set_to_zero(), frozen))` freezes those marked in
    `frozen`. (`optax.masked(inner, trained)` does not: it hands on the others' gradients as steps,
    uphill.) In balanced coordinates, cycles and sections their weights stand still too; of directed
    paths only the values do, and weights on them move with others. What comes before it acts on
    weight gradients and may break the invariance (clipping by norm does). What comes behind it is
    given a finished change of weights, and nothing can see that it does. Balanced weights are a
    fixed multiple of the weights, so a link behind that treats every entry by a number of its own
    (`optax.scale`, a schedule, `optax.ema`, weight decay) does what it does inside, but for the
    bounds below, which it may lift; others (clipping by norm, Adam) break the invariance, and with
    directed paths half a step is not the step of half the learning rate. The next step starts from
    the weights that come, whoever has changed them. Entries outside the group are stepped by the
    inner transformation like any other parameter.

    Sharded parameters keep their shardings, and so do updates and state, on meshes of automatic
    axes; no parameter is gathered, only vectors over nodes travel. (Under jit the zeros of a first
    state depend on no parameter, and small leaves that every device holds may come back shared out:
    there `out_shardings` decides.) On explicit axes, jax asks for the sharding of every vector over
    nodes, which is not given here.

    Bounds. No step takes a weight of the balanced copy beyond `max_growth` times the largest one
    of the start (or 1, if that is more). At a step size that is far too large some runs end there
    instead of in an overflow, not all. Where targets are of the size of the start's outputs,
    training that works does not come near it; targets ten thousand times as large need weights
    beyond it, and `max_growth=None`, or targets that are divided by their size. Weights further out
    already, loaded or rescaled in mid-run, are never forced back.

    The papers' directed paths are singular: as the value v_s of a free skeleton path nears zero,
    the weights into its node grow without bound, and through zero they all change sign and the
    function jumps. `max_ratio` = r keeps the step of those values, v'_s / v_s, in [1/r, r], so
    that one step multiplies no weight into the node by more than r (besides its own path value's
    step), and `max_growth` bounds what many such steps make of it. All other path values arrive
    where the inner transformation sends them, and where the bound acts, the next gradient is taken
    at the point really reached and asks for what is still missing. A value that presses against
    zero for long is badly chosen as a coordinate: where `skeleton_margin` is small, choose the
    skeleton anew from the present weights, which does not change the function, and go on with
    `change_skeleton`.

    The state counts in `bounded` how often the first of the two has acted, over all steps. What
    `max_growth` cuts is not counted, which would take a third of a step's time on CPU: to know
    whether it acts on a run, compare with `max_growth=None`.

    A gradient with NaN in it is let through, since nothing can be raised from a compiled step. The
    step of an infinite one is cut at the bounds like any that is too long: to see a run overflow,
    look at gradients or losses, not at weights. `optax.apply_if_finite` around the whole
    transformation looks at gradients, and leaves both kinds of steps out.

    Args:
        inner: any optax transformation; it sees path values as parameters, and zero at entries
            that have none of their own: those of a skeleton's tree, a section's pivots.
        coordinates: the rescaling group of the parameters, as `find_gauge` or `mlp_gauge` gives it;
            or a skeleton or section chosen for it; None for no group, which is `inner` itself.
        max_ratio: r > 1, for directed paths; None for no bound, as published. Others need none.
        max_growth: the bound on weights, above 1: "advised" is 100 for balanced coordinates, and
            1,024 for others, which it would keep from places that they go through; None for none,
            as published.
        stale_gradients: whether gradients were taken at other weights, which `update` then needs as
            `stale_params`: asynchronous SGD in path space. They are pulled back there, and `inner`
            is given the path values of those weights as `stale_params`, so that a delay
            compensation inside compensates in path space. Without it `stale_params` is handed on
            as it is, for what comes before in a chain may have compensated already.

    Returns:
        A transformation whose `update` needs `params`. Extra arguments are handed to `inner`; of
        those that optax's transformations take, `grad`, `value_fn`, `obj_fn` and `grad_fn` are
        translated to path values. What a line search keeps in its state is of path values too:
        `gsgd_jax.value_and_grad_from_state` gives it back as a gradient of weights, where that of
        optax would not.

    Raises:
        TypeError: here, if `inner` is no transformation, or the coordinates are none; from
            `init`, if parameters are plain numbers; from `update`, if gradients are no
            floating-point numbers, or the state is another transformation's.
        ValueError: here, if a bound is not above 1; from `update`, if `params` is missing, or
            `stale_params` with `stale_gradients`, or the gradients are not of these parameters;
            from both functions, if the tree is not the group's or is masked.

    Example:
        >>> from gsgd_jax import mlp_gauge, path_values
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]  # balanced: 2 and 2
        >>> tx = in_path_space(optax.sgd(0.1), mlp_gauge(params))
        >>> def loss(params):
        ...     return jnp.sum((jax.nn.relu(params[0]) @ params[1]) ** 2) / 2
        >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> params  # the balanced copy goes from (2, 2) to (1.2, 1.2); this is 2 and 1/2 times it
        [Array([[2.4]], dtype=float32), Array([[0.6]], dtype=float32)]

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, algorithm 1, for gradient descent on directed paths and layers of equal
        width. Stock et al., *Equi-normalization of neural networks*, ICLR 2019, for balance.
    """
    check_bound("max_ratio", max_ratio)
    if not isinstance(max_growth, str):
        check_bound("max_growth", max_growth)
    elif max_growth != "advised":
        raise ValueError(f'max_growth is a number, "advised" or None, got "{max_growth}".')
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            "in_path_space needs an optax transformation first and coordinates second, got "
            f"{type(inner).__name__} first; in_path_space(optax.adam(1e-3), gauge)."
        )
    inner = optax.with_extra_args_support(inner)
    chosen = None if coordinates is None else coordinates_of(coordinates)
    if isinstance(max_growth, str):
        max_growth = None if chosen is None else chosen.advised_growth

    def init_fn(params: optax.Params) -> PathSpaceState:
        return first_state(inner, params, chosen)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PathSpaceState]:
        check_state(state)
        if chosen is None:
            updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
            return updates, state._replace(inner_state=inner_state)
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        here = chosen.at(params, state.frame)
        check_gradients(updates, params, chosen)
        at = functools.partial(chosen.at, frame=state.frame)
        translated = in_path_values(extra_args, here, at)
        if stale_gradients:
            stale_params = extra_args.get("stale_params")
            if stale_params is None:
                raise ValueError(
                    "in_path_space with stale_gradients needs the weights at which the gradient "
                    "was taken; call update(..., stale_params=...)."
                )
            there = chosen.at(stale_params, state.frame)
            slopes = there.slopes(updates)
            translated["stale_params"] = shown(there)
        else:
            slopes = here.slopes(updates)
        steps, inner_state = inner.update(slopes, state.inner_state, shown(here), **translated)
        updates, info = here.changes(steps, max_ratio=max_ratio, max_growth=max_growth)
        return updates, next_state(state, inner_state, info)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def first_state(
    inner: optax.GradientTransformation, params: optax.Params, coordinates: Coordinates | None
) -> PathSpaceState:
    """The state before the first step.

    optax initialises with placeholders to find out what in a state is like the parameters, and with
    bare shapes; path values have the parameters' shapes and dtypes, so these can stand for them.

    Args:
        inner: what steps on path values.
        params: the weights.
        coordinates: of their group; None for no group.
    """
    frame, values = (), params
    if coordinates is not None:
        kinds = (*ARRAYS, optax.MaskedNode)  # the last is an error with a message
        leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
        numbers = [
            type(leaf).__name__
            for leaf in leaves
            if isinstance(leaf, int | float | complex) and not isinstance(leaf, ARRAYS)
        ]
        if numbers:  # which a list of numbers is made of, too
            raise TypeError(
                f"parameters must be a tree of arrays, got a Python {numbers[0]} in it; convert "
                "numbers and lists of them with jnp.asarray."
            )
        there = bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)
        if there:
            coordinates.leaves(params)  # or an error, before anything is worked out
        frame = coordinates.frame(params)
        values = shown(coordinates.at(params, frame)) if there else params
    return PathSpaceState(
        inner_state=inner.init(values),
        frame=frame,
        least_ratio=jnp.ones([], jnp.float32),
        bounded=jnp.zeros([], jnp.int32),
    )


def next_state(
    state: PathSpaceState, inner_state: optax.OptState, info: StepInfo
) -> PathSpaceState:
    """The state after a step.

    Args:
        state: before it.
        inner_state: the inner transformation's, after it.
        info: what the step reported.
    """
    room = jnp.iinfo(jnp.int32).max - state.bounded
    return PathSpaceState(
        inner_state=inner_state,
        frame=state.frame,
        least_ratio=info.least_ratio.astype(jnp.float32),
        bounded=state.bounded + jnp.minimum(info.bounded, room),
    )


def gsgd(
    learning_rate: optax.ScalarOrSchedule,
    coordinates: Coordinates | Group | None,
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    max_ratio: chex.Numeric | None = 10.0,
    max_growth: chex.Numeric | Literal["advised"] | None = "advised",
) -> optax.GradientTransformationExtraArgs:
    r"""G-SGD: gradient descent on path values, v' = v - η dL/dv.

    An alias of `in_path_space(optax.sgd(learning_rate, momentum, nesterov), coordinates)`; all that
    is said there holds here. It owns its learning rate and belongs last in a chain. The papers'
    algorithm has `choose_skeleton(gauge, params, basis="paths")` for coordinates.

    Args:
        learning_rate: η, or a schedule of it.
        coordinates: the parameters' rescaling group, or a skeleton or section chosen for it; None
            for no group, which is `optax.sgd`.
        momentum: of path values; None for none.
        nesterov: whether the momentum is Nesterov's.
        max_ratio: with directed paths the largest factor, above 1, by which a step may change a
            free skeleton path value; None for no bound, as published.
        max_growth: how many times the largest balanced weight of the start a balanced weight may
            reach, above 1; see `in_path_space`.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: as `in_path_space`, and if the learning rate or the momentum can be read and is
            negative, or a momentum not below 1; schedules and traced numbers are let through.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> tx = gsgd(0.1, choose_skeleton(mlp_gauge(params), params, basis="paths"))
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> tx.update(grads, tx.init(params), params)[0][1].ravel()  # -0.1 g / α²
        Array([-0.025     , -0.01111111], dtype=float32)

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, algorithm 1.
    """
    check_number("learning_rate", learning_rate, schedule=True)
    if momentum is not None:
        check_number("momentum", momentum, bound=1.0)
    inner = optax.sgd(learning_rate, momentum, nesterov)
    return in_path_space(inner, coordinates, max_ratio=max_ratio, max_growth=max_growth)
