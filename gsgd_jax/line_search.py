"""The value and gradient that a line search in path space has kept."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gsgd_jax._factors import Group
from gsgd_jax._precision import cast_like
from gsgd_jax.coordinates.paths import coordinates_of
from gsgd_jax.coordinates.protocol import Coordinates
from gsgd_jax.transform import PathSpaceState


def value_and_grad_from_state(
    value_fn: Callable[..., jax.typing.ArrayLike], coordinates: Coordinates | Group | None
) -> Callable[..., tuple[jax.typing.ArrayLike, optax.Updates]]:
    r"""The value and gradient of a loss, as a line search inside of `in_path_space` has kept them.

    `optax.lbfgs`, and `optax.scale_by_backtracking_linesearch` with `store_grad=True`, end a step
    with the value and gradient at the point that they chose, so that the next step need not work
    these out again. In path space that gradient is dL/dv. `optax.value_and_grad_from_state` would
    hand it out as it is; here it comes back as one with respect to the weights,

        dL/dw_e = Σ_f dL/dv_f dv_f/dw_e,

    in balanced coordinates the kept gradient times the frame's factors. Where none has been kept
    yet, or the value is not finite, both are computed.

    What was kept is of the point that the line search chose: if the weights have been changed since
    by something else, or a bound of `in_path_space` has cut the step (`max_ratio=None` and
    `max_growth=None` switch these off), take `jax.value_and_grad`.

    Args:
        value_fn: the loss, a function of the weights and perhaps more, as `update` is given it.
        coordinates: as `in_path_space` was given them.

    Returns:
        A function like `jax.value_and_grad(value_fn)` that takes besides the keyword `state`, the
        state of `in_path_space` or of a chain that it is in.

    Raises:
        TypeError: if the coordinates are none.
        ValueError: from the function returned, if the state has not one part that is of
            `in_path_space`, or no value and gradient are in it.

    Example:
        >>> from gsgd_jax import in_path_space, mlp_gauge
        >>> params = [jnp.array([[4.0]]), jnp.array([[1.0]])]
        >>> def loss(params):
        ...     return jnp.sum((jax.nn.relu(params[0]) @ params[1] - 1) ** 2)
        >>> gauge = mlp_gauge(params)
        >>> tx, value_and_grad = (
        ...     in_path_space(optax.lbfgs(), gauge), value_and_grad_from_state(loss, gauge)
        ... )
        >>> state = tx.init(params)
        >>> for _ in range(5):
        ...     value, grads = value_and_grad(params, state=state)
        ...     updates, state = tx.update(
        ...         grads, state, params, value=value, grad=grads, value_fn=loss
        ...     )
        ...     params = optax.apply_updates(params, updates)
        >>> bool(loss(params) < 1e-3)
        True
    """
    if coordinates is None:
        return optax.value_and_grad_from_state(value_fn)
    chosen = coordinates_of(coordinates)

    def value_and_grad(
        params: optax.Params, *args: Any, state: optax.OptState, **kwargs: Any
    ) -> tuple[jax.Array, optax.Updates]:
        own = _own_part(state)
        value, kept = (optax.tree.get(own.inner_state, name) for name in ("value", "grad"))
        if value is None or kept is None:
            raise ValueError(
                "the state must have a value and a gradient in it, as a line search keeps them, "
                "got none; take optax.lbfgs or store_grad=True, or else jax.value_and_grad."
            )

        def from_state(params: optax.Params) -> tuple[jax.Array, optax.Updates]:
            values, pull = jax.vjp(lambda w: chosen.at(w, own.frame).values(), params)
            (grads,) = pull(jax.tree.map(cast_like, kept, values))
            return jnp.asarray(value), grads

        def anew(params: optax.Params) -> tuple[jax.Array, optax.Updates]:
            found, grads = jax.value_and_grad(value_fn)(params, *args, **kwargs)
            return cast_like(found, value), grads

        return jax.lax.cond(jnp.isfinite(value), from_state, anew, params)

    return value_and_grad


def _own_part(state: optax.OptState) -> PathSpaceState:
    """The part of a state that is of `in_path_space`."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, PathSpaceState))
    own = [part for part in parts if isinstance(part, PathSpaceState)]
    if len(own) != 1:
        raise ValueError(
            f"a state must have one part that is of in_path_space, got {len(own)} in a "
            f"{type(state).__name__}; pass that of the transformation, or "
            "optax.value_and_grad_from_state if it is on weights."
        )
    return own[0]
