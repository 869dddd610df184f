"""DC-ASGD as an optimiser: compensation, then what the server does at its current weights."""

import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number
from dcasgd_jax.rules.compensation import delay_compensation


def dcasgd(
    learning_rate: optax.ScalarOrSchedule,
    lambda_: optax.ScalarOrSchedule,
    *,
    mean_square_decay: ArrayLike | None = None,
    num_workers: int | None = None,
    eps: ArrayLike = 1e-7,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Delay-compensated asynchronous SGD: what a parameter server does with a stale gradient.

    With u the compensated gradient of `delay_compensation`, α the weight decay, β the momentum:

        d = u + α w        (decay at the server's w, after compensation)
        b ← d + β b        (d + β b again for Nesterov's form)
        w ← w - η_t b

    Args:
        learning_rate: η, a scalar or a schedule by server step.
        lambda_: λ₀ of `delay_compensation`; 0.04 (DC-ASGD-c) and 2.0 (DC-ASGD-a) in the paper.
        mean_square_decay: None for DC-ASGD-c; m for DC-ASGD-a, 0.95 in the paper.
        num_workers: None for one mean square of DC-ASGD-a; M for one for each worker.
        eps: ε of DC-ASGD-a.
        momentum: β in [0, 1); None for none. Heavy-ball momentum narrows the range of steps that
            stale gradients allow, however well they are compensated.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: α, a scalar or a schedule; None for none.

    Returns:
        A transformation whose `update` needs `params` and the keyword `stale_params`, and with
        `num_workers` the keyword `worker`.

    Raises:
        ValueError: here, if an argument is out of its range, where schedules and traced numbers are
            let through; from `update`, if an argument that it needs is missing, a worker does not
            exist, or a snapshot's shape is not its parameter's.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = dcasgd(0.1, 2.0, mean_square_decay=0.95)
        >>> w, snapshot = jnp.array([1.0, 2.0]), jnp.array([1.5, 2.0])
        >>> state = tx.init(w)
        >>> updates, state = tx.update(jnp.array([1.0, -1.0]), state, w, stale_params=snapshot)
        >>> optax.apply_updates(w, updates)  # the first gradient pulled back; the second unmoved
        Array([1.347..., 2.1...], dtype=float32)

    References:
        Zheng et al., Asynchronous Stochastic Gradient Descent with Delay Compensation, ICML 2017
        (https://arxiv.org/abs/1609.08326).
    """
    check_number("learning_rate", learning_rate, schedule=True)
    if momentum is not None:
        check_number("momentum", momentum, bound=1.0)
    if weight_decay is not None:
        check_number("weight_decay", weight_decay, schedule=True)
    return optax.chain(
        delay_compensation(
            lambda_, mean_square_decay=mean_square_decay, num_workers=num_workers, eps=eps
        ),
        optax.identity() if weight_decay is None else optax.add_decayed_weights(weight_decay),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
