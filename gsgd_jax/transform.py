"""Any optax transformation in path space."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax.paths import (
    StepInfo,
    allocate,
    changes_at,
    chart_at,
    inverse_chain_rule,
    path_values,
    slopes_at,
    values_at,
)
from gsgd_jax.precision import check_number
from gsgd_jax.section import Section
from gsgd_jax.skeleton import Skeleton


class PathSpaceState(NamedTuple):
    """State of `in_path_space`."""

    inner_state: optax.OptState  # of the inner transformation, whose parameters are path values
    least_ratio: jax.Array  # shape=(), dtype=float32: smallest v'/v last asked for on the skeleton
    bounded: jax.Array  # shape=(), dtype=int32: how many skeleton steps were shortened so far


def in_path_space(
    inner: optax.GradientTransformation,
    skeleton: Skeleton | Section | None,
    *,
    max_ratio: chex.Numeric | None = 10.0,
    stale_gradients: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Runs an optax transformation on path values instead of weights.

    The gradient is pulled back to the path values v (`inverse_chain_rule`), the inner
    transformation steps on these, v' = v + u, and the weights are allocated anew (`allocate`). So a
    network and a rescaled copy of it, which are the same function, stay the same function at every
    step. G-SGD is `optax.sgd` inside; G-momentum, G-Adam and G-RMSProp are made likewise.

    It takes the step itself: the weights do not depend linearly on the learning rate, so the
    learning rate belongs inside, and `in_path_space` last in a chain. What comes before it in a
    chain acts on weight gradients and may break the invariance (clipping by norm does). What is
    inside acts on path values: weight decay decays them, `optax.masked` freezes them. Entries
    outside the group are stepped by the inner transformation like any other parameter.

    Sharded parameters keep their shardings, and so do updates and state, on meshes of automatic
    axes; no parameter is gathered, only vectors over nodes travel. (Under jit the zeros of a first
    state depend on no parameter, and small leaves that every device holds may come back shared out:
    there `out_shardings` decides.) On explicit axes, jax asks for the sharding of every vector over
    nodes, which is not given here.

    Signs. The sign of a skeleton entry is part of the coordinates. As the value v_s of a free
    skeleton path nears zero, the weights into its node grow without bound; if a step takes it
    through zero, they all change sign and the function jumps. (All other path values cross zero
    freely.) `max_ratio` = r bounds the step of those values, v'_s / v_s in [1/r, r]. Nothing else
    is changed or lost: all other path values arrive where the inner transformation sends them;
    steps inside the bound are the same to the bit; and where it acts, the next gradient is taken at
    the point really reached and asks for what is still missing. The state counts how often it
    acted. A value that presses against zero for long is badly chosen as a coordinate, and the bound
    would keep its sign for ever: where `skeleton_margin` is small, choose the skeleton anew from
    the present weights, which does not change the function, and go on with `change_skeleton`. So no
    function is out of reach.

    A gradient with NaN or infinity in it is let through, since nothing can be raised from a
    compiled step; `optax.apply_if_finite` around the whole transformation leaves such steps out.

    Args:
        inner: any optax transformation; it sees path values as parameters.
        skeleton: of the parameters' gauge, or a section of their group where that is no graph; None
            for no group, which is `inner` itself.
        max_ratio: r > 1; None for no bound, as published. Sections, and the basis "cycles", need
            none.
        stale_gradients: whether gradients were taken at other weights, which `update` then needs as
            `stale_params`: asynchronous SGD in path space. They are pulled back there, and `inner`
            is given the path values of those weights as `stale_params`, so that a delay
            compensation inside compensates in path space. Without it `stale_params` is handed on
            as it is, for what comes before in a chain may have compensated already.

    Returns:
        A transformation whose `update` needs `params`. Extra arguments are handed to `inner`; of
        those that optax's line searches take, `grad` and `value_fn` are translated to path values.

    Raises:
        ValueError: here, if max_ratio is not above 1; from `update`, if `params` is missing, or
            `stale_params` with `stale_gradients`, or the gradients are not of these parameters;
            from both functions, if the tree is not the gauge's or is masked.
        TypeError: from `update`, if gradients are no floating-point numbers.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> skeleton = choose_skeleton(mlp_gauge(params), params)
        >>> tx = in_path_space(optax.adam(1e-3), skeleton)
        >>> def loss(params):
        ...     return jnp.sum((jax.nn.relu(params[0]) @ params[1]) ** 2)
        >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params)
        >>> params = optax.apply_updates(params, updates)
        >>> params[0]  # the tree
        Array([[2., 3.]], dtype=float32)
        >>> path_values(params, skeleton)[1].ravel()
        Array([ 9.999, 20.999], dtype=float32)

    References:
        Meng et al., *G-SGD: optimizing ReLU neural networks in its positively scale-invariant
        space*, ICLR 2019, algorithm 1, for gradient descent and layers of equal width.
    """
    check_max_ratio(max_ratio)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> PathSpaceState:
        return first_state(inner, params, skeleton)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PathSpaceState]:
        if skeleton is None:
            updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
            return updates, state._replace(inner_state=inner_state)
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        here = chart_at(params, skeleton)
        _check_gradients(updates, params, skeleton)
        values, translated = values_at(here, params), _translate(extra_args, params, skeleton)
        if stale_gradients:
            stale_params = extra_args.get("stale_params")
            if stale_params is None:
                raise ValueError(
                    "in_path_space with stale_gradients needs the weights at which the gradient "
                    "was taken; call update(..., stale_params=...)."
                )
            there = chart_at(stale_params, skeleton)
            slopes = slopes_at(there, updates)
            translated["stale_params"] = values_at(there, stale_params)
        else:
            slopes = slopes_at(here, updates)
        steps, inner_state = inner.update(slopes, state.inner_state, values, **translated)
        updates, info = changes_at(here, steps, max_ratio)
        return updates, next_state(state, inner_state, info)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def first_state(
    inner: optax.GradientTransformation, params: optax.Params, skeleton: Skeleton | Section | None
) -> PathSpaceState:
    """The state before the first step.

    Args:
        inner: what steps on path values.
        params: the weights.
        skeleton: of their gauge; None for no group.
    """
    return PathSpaceState(
        inner_state=inner.init(initial_values(params, skeleton)),
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
        least_ratio=info.least_ratio.astype(jnp.float32),
        bounded=state.bounded + jnp.minimum(info.bounded, room),
    )


def check_max_ratio(max_ratio: chex.Numeric | None) -> None:
    """Refuses a bound on skeleton steps that would allow none.

    Args:
        max_ratio: None, or above 1; a traced one is let through.

    Raises:
        ValueError: naming what came.
    """
    concrete = max_ratio is not None and not isinstance(max_ratio, Tracer)
    if concrete and not np.all(np.asarray(max_ratio) > 1):
        raise ValueError(
            f"max_ratio must be above 1, got {max_ratio}: it is the factor by which a step may "
            "change a skeleton path value; give None for no bound."
        )


def gsgd(
    learning_rate: optax.ScalarOrSchedule,
    skeleton: Skeleton | Section | None,
    *,
    momentum: float | None = None,
    nesterov: bool = False,
    max_ratio: chex.Numeric | None = 10.0,
) -> optax.GradientTransformationExtraArgs:
    r"""G-SGD: gradient descent on path values, v' = v - η dL/dv.

    An alias of `in_path_space(optax.sgd(learning_rate, momentum, nesterov), skeleton)`; all that is
    said there holds here. It owns its learning rate and belongs last in a chain.

    Args:
        learning_rate: η, or a schedule of it.
        skeleton: of the parameters' gauge; None for no group, which is `optax.sgd`.
        momentum: of path values; None for none.
        nesterov: whether the momentum is Nesterov's.
        max_ratio: the largest factor, above 1, by which a step may change a free skeleton path
            value; None for no bound, as published.

    Returns:
        A transformation whose `update` needs `params`.

    Raises:
        ValueError: as `in_path_space`, and if the learning rate or the momentum can be read and is
            negative, or a momentum not below 1; schedules and traced numbers are let through.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> tx = gsgd(0.1, choose_skeleton(mlp_gauge(params), params))
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
    return in_path_space(
        optax.sgd(learning_rate, momentum, nesterov), skeleton, max_ratio=max_ratio
    )


def _check_gradients(
    gradients: optax.Updates, params: optax.Params, skeleton: Skeleton | Section
) -> None:
    """Refuses gradients that are not of these parameters."""
    # Which speaks of masks and shapes.
    leaves = (skeleton if isinstance(skeleton, Section) else skeleton.gauge).leaves(gradients)
    got, due = jax.tree.structure(gradients), jax.tree.structure(params)
    if got != due:
        raise ValueError(
            f"gradients must have the structure of the parameters, {due}, got {got}; take them "
            "with respect to the parameters that are passed."
        )
    for g, w in zip(leaves, jax.tree.leaves(params), strict=True):
        if jnp.issubdtype(w.dtype, jnp.inexact) and not jnp.issubdtype(g.dtype, jnp.inexact):
            raise TypeError(
                f"gradients of floating-point parameters are floating-point, got {g.dtype} for "
                f"{w.dtype}{list(w.shape)}; cast them."
            )


def initial_values(params: optax.Params, skeleton: Skeleton | Section | None) -> optax.Params:
    """Path values for `inner.init`, or a tree that stands for them where there are no values.

    optax initialises with placeholders to find out what in a state is like the parameters, and with
    bare shapes; path values have the parameters' shapes and dtypes, so these can stand for them.
    """
    if skeleton is None:
        return params
    kinds = (jax.Array, np.ndarray, optax.MaskedNode)  # the last is an error, and has a message
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode))
    there = leaves and all(isinstance(leaf, kinds) for leaf in leaves)
    return path_values(params, skeleton) if there else params


def _translate(
    extra_args: dict[str, Any], params: optax.Params, skeleton: Skeleton | Section
) -> dict[str, Any]:
    """The two extra arguments of optax's line searches that speak of weights, on path values."""
    translated = dict(extra_args)
    if translated.get("grad") is not None:
        translated["grad"] = inverse_chain_rule(extra_args["grad"], params, skeleton)
    if translated.get("value_fn") is not None:
        value_fn = extra_args["value_fn"]

        def value_of_values(values: optax.Params, *args: Any, **kwargs: Any) -> Any:
            return value_fn(allocate(values, params, skeleton), *args, **kwargs)

        translated["value_fn"] = value_of_values
    return translated
