"""The reference code's treatment of networks with BatchNorm, to reproduce its results."""

from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax
from optax._src.base import NO_PARAMS_MSG  # optax's own wording, which it does not re-export

from gsgd_jax._extra_arguments import OF_WEIGHTS, shown
from gsgd_jax._precision import cast_like, check_choice
from gsgd_jax._update_checks import check_bound, check_gradients, check_state
from gsgd_jax.coordinates.skeleton import Skeleton, check_skeleton
from gsgd_jax.coordinates.skeleton_chart import skeleton_chart
from gsgd_jax.transform import PathSpaceState, first_state, next_state


def in_path_space_with_reference_norms(
    inner: optax.GradientTransformation,
    skeleton: Skeleton,
    *,
    scale: Literal["steps", "gradients"] = "steps",
    max_ratio: chex.Numeric | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Path space as the reference code has it where BatchNorm follows the convolutions.

    There a convolution's weights are invariant under scaling by themselves, and the reference
    multiplies what belongs to entry e by n_e, the norm of its kernel's weights over input channels,

        n_e = ||w[i, j, :, o]||₂     for an entry in tap (i, j) and output channel o,

    kernels being (height, width, in, out); all other leaves have n = 1. Which quantity is scaled is
    its option `mom_method`:

    - "steps" ("noweight"): the steps of the inner transformation, u_e -> n_e u_e;
    - "gradients" ("weight"): the gradients handed to it, dL/dv_e -> n_e dL/dv_e for entries off the
      skeleton, and dL/dv_s -> dL/dv_s / n_s for free skeleton entries.

    This is *not* invariant under rescaling: n_e moves with the representative, and with a norm in
    between the group is another (see `find_gauge`). It is here to reproduce published results; the
    exact treatment is `in_path_space` over the group that is found for the network as it is.

    Two deviations. Free skeleton entries stand in the last layers here and in the widest layer in
    the reference, which leaves the others where they are; so the weights are other representatives
    of path values, and n_s is another layer's: the rule is the reference's, its digits are not. And
    the reference knows no bound, which is the default here too.

    Args:
        inner: any optax transformation, `optax.sgd(learning_rate, momentum)` in the reference.
        skeleton: of the group of the network *without* its norms, which is what the reference uses,
            with the basis "paths".
        scale: "steps" or "gradients".
        max_ratio: as in `in_path_space`.

    Returns:
        A transformation whose `update` needs `params`. It takes no line search and no other
        transformation that asks for the loss or a gradient at other points: what it scales is not
        the step that these would look along.

    Raises:
        TypeError: here, if the skeleton is none; from `update`, if gradients are no floating-point
            numbers, or the state is another transformation's.
        ValueError: here, if an option is unknown or the basis is not "paths"; from `update`, if
            `params` is missing, the gradients are not of these parameters, the tree is not the
            gauge's, or `grad`, `value_fn`, `obj_fn` or `grad_fn` is given.

    Example:
        >>> from gsgd_jax import choose_skeleton, mlp_gauge
        >>> params = [jnp.array([[2.0, 3.0]]), jnp.array([[5.0], [7.0]])]
        >>> tx = in_path_space_with_reference_norms(
        ...     optax.sgd(0.1), choose_skeleton(mlp_gauge(params), params, basis="paths")
        ... )  # dense layers have n = 1, so this is G-SGD
        >>> grads = jax.tree.map(jnp.ones_like, params)
        >>> tx.update(grads, tx.init(params), params)[0][1].ravel()
        Array([-0.025     , -0.01111111], dtype=float32)

    References:
        The code published with Meng et al., *G-SGD: optimizing ReLU neural networks in its
        positively scale-invariant space*, ICLR 2019: gsgd_cnn/opt/gopt_SGD_method.py, ec_step_cnn.
    """
    check_choice("scale", scale, ("steps", "gradients"))
    check_bound("max_ratio", max_ratio)
    check_skeleton(skeleton, "in_path_space_with_reference_norms")
    if skeleton.basis != "paths":
        raise ValueError("the reference works with the basis 'paths', got a skeleton of 'cycles'.")
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> PathSpaceState:
        return first_state(inner, params, skeleton)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PathSpaceState]:
        check_state(state)
        if params is None:
            raise ValueError(NO_PARAMS_MSG)
        given = [name for name in OF_WEIGHTS if extra_args.get(name) is not None]
        if given:
            raise ValueError(
                "in_path_space_with_reference_norms takes no argument that speaks of the loss at "
                f"other weights, since it scales the steps, got {', '.join(given)}; take "
                "in_path_space, which translates them."
            )
        check_gradients(updates, params, skeleton)
        here = skeleton_chart(params, skeleton)
        slopes = here.slopes(updates)
        norms = [_input_norm(weight) for weight in skeleton.gauge.leaves(params)]
        if scale == "gradients":
            slopes = _scaled(slopes, norms, here.free)
        steps, inner_state = inner.update(slopes, state.inner_state, shown(here), **extra_args)
        if scale == "steps":
            steps = _scaled(steps, norms, None)
        changes, info = here.changes(steps, max_ratio=max_ratio)
        return changes, next_state(state, inner_state, info)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _input_norm(weight: jax.Array) -> jax.Array | None:
    """The norms n of a convolution, broadcasting to its kernel; None for any other leaf."""
    if weight.ndim != 4:
        return None
    return jnp.sqrt(jnp.sum(jnp.square(weight), axis=-2, keepdims=True))


def _scaled(
    tree: optax.Updates, norms: list[jax.Array | None], divided: list[jax.Array | None] | None
) -> optax.Updates:
    """A tree times the norms, divided by them at the entries named."""
    leaves, structure = jax.tree.flatten(tree)
    for i, norm in enumerate(norms):
        if norm is not None:
            mask = None if divided is None else divided[i]
            factor = norm if mask is None else jnp.where(mask, 1 / norm, norm)
            leaves[i] = cast_like(leaves[i] * factor.astype(leaves[i].dtype), leaves[i])
    return jax.tree.unflatten(structure, leaves)
