"""Delay-adaptive steps: shortened only for gradients later than is usual among n workers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number, require
from dcasgd_jax._masked_trees import scale_updates


def delay_adaptive(num_workers: ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Scales a gradient by n / max(n, τ): the step η up to staleness n, η n / τ beyond it.

    With n workers the staleness is n - 1 on average at most, so it is stragglers' gradients that
    are shortened, and the sum of the steps is hardly less than without. In the paper the step is
    bounded by a constant over the delay; in this form, with the constants made one, it is commonly
    run as a baseline.

    Put it anywhere before the learning rate.

    Args:
        num_workers: n >= 1.

    Returns:
        A transformation whose `update` needs the keyword `staleness` (τ, int32 scalar; or a tree
        of them like the parameters, leaf by leaf).

    Raises:
        ValueError: here, if `num_workers` is below 1; from `update`, if `staleness` is missing.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.chain(delay_adaptive(4), optax.sgd(1.0))
        >>> w = jnp.array(1.0)
        >>> [tx.update(w, tx.init(w), staleness=delay)[0].item() for delay in (0, 4, 16)]
        [-1.0, -1.0, -0.25]

    References:
        Mishchenko, Bach, Even and Woodworth, Asynchronous SGD Beats Minibatch SGD Under Arbitrary
        Delays, NeurIPS 2022 (https://arxiv.org/abs/2206.07638); Koloskova, Stich and Jaggi,
        Sharper Convergence Guarantees for Asynchronous SGD, NeurIPS 2022
        (https://arxiv.org/abs/2206.08307). This form: as reported of the experiments of the
        authors of Ringmaster ASGD, ICML 2025.
    """
    check_number("num_workers", num_workers, least=1.0)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        staleness: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        require("delay_adaptive", staleness=staleness)
        workers = jnp.asarray(num_workers).astype(jnp.result_type(float))

        def factor(tau: Any) -> Any:
            age = jnp.asarray(tau).astype(jnp.result_type(float))
            return workers / jnp.maximum(workers, age)

        return scale_updates(updates, jax.tree.map(factor, staleness)), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
