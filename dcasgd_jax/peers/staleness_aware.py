"""Staleness-aware steps: the older a gradient, the shorter its step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dcasgd_jax._arguments import require
from dcasgd_jax._masked_trees import scale_updates


def staleness_aware() -> optax.GradientTransformationExtraArgs:
    """Divides a gradient by its staleness: the step η becomes η / τ.

    A gradient of staleness 0 keeps its step, η / max(τ, 1). The paper writes it for servers that
    gather several gradients before they step; this is the case of one.

    Put it anywhere before the learning rate.

    Returns:
        A transformation whose `update` needs the keyword `staleness` (τ, int32 scalar; or a tree
        of them like the parameters, by which each leaf's step is divided).

    Raises:
        ValueError: from `update`, if `staleness` is missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(staleness_aware(), optax.sgd(1.0))
        >>> w = jnp.array([1.0, 2.0])
        >>> tx.update(w, tx.init(w), w, staleness=4)[0]
        Array([-0.25, -0.5 ], dtype=float32)

    References:
        Zhang, Gupta, Lian and Liu, Staleness-Aware Async-SGD for Distributed Deep Learning, IJCAI
        2016 (https://arxiv.org/abs/1511.05950), equation 3.
    """

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        staleness: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        require("staleness_aware", staleness=staleness)

        def factor(tau: Any) -> Any:
            return 1 / jnp.maximum(jnp.asarray(tau), 1).astype(jnp.result_type(float))

        return scale_updates(updates, jax.tree.map(factor, staleness)), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
