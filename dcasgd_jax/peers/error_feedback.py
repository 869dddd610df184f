"""Error feedback: when the gradient that a step lacked arrives, the step is made good."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number, scalar
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast_like, cast_strongly, working_dtype
from dcasgd_jax.rules.queues import check_delays, delay_of_leaves, empty_queue, passed_on


class ErrorFeedbackState(NamedTuple):
    """State of `error_feedback`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far
    past: tuple[optax.Updates, ...]  # as many trees as the longest delay, float32 or wider, oldest
    # first: the inner rule's updates; a leaf of delay d is in the last d of them
    inner: optax.OptState


def error_feedback(
    inner: optax.GradientTransformation, delay: int | Any, *, strength: ArrayLike = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Adds to each update what the update of τ steps ago should have been and was not.

    At step t the rule makes its update d_t of a gradient that was taken τ steps ago; the one that
    belonged to the weights of step t arrives at step t + τ. Then the error of step t is known,
    e_t = d_{t+τ} - d_t, and is made good:

        u_t = d_t + κ (d_t - d_{t-τ}),       d_t the inner rule's update,

    with no correction before step τ; of a leaf with a delay of its own, none before its first τ
    gradients have come (`constant_delay` hands on zeros until the first). It is linear
    extrapolation of the updates over the delay: if they change at a constant rate, u_t is the
    update of a gradient that is not stale. The sum of all corrections is that of the last τ updates
    less the first τ, whatever happens between, so nothing is counted twice for good. Noise is the
    price: the variance of an update grows to (1 + κ)² + κ², five times for κ = 1, unless the inner
    rule averages over more than τ steps, as momentum does.

    Works with any optimiser inside, for it looks at updates alone: `optax.adam(1e-3)`, say, or
    `optax.contrib.muon(0.02)`. A learning rate that changes is part of the updates. With `delay=0`
    it is the inner rule.

    Memory: τ copies of the parameters in float32, beside the inner rule's own; of a leaf with delay
    d, d copies.

    Args:
        inner: the server's rule, its learning rate included.
        delay: τ >= 0, an int, or a tree prefix of ints as from `pipeline_delays`.
        strength: κ >= 0.

    Returns:
        A transformation that hands all its arguments on to `inner`; last in a chain.

    Raises:
        ValueError: here, if an argument is out of range; from `init`, if the delays are no tree
            prefix of the parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = error_feedback(optax.sgd(1.0), 1)
        >>> w, state = jnp.array(0.0), tx.init(jnp.array(0.0))
        >>> for gradient in (1.0, 2.0, 3.0):  # each is one step late: 2, 3 and 4 would be right
        ...     update, state = tx.update(jnp.array(gradient), state, w)
        ...     print(update)
        -1.0
        -3.0
        -4.0

    References:
        Zmushko et al., One-Step Gradient Delay is Not a Barrier for Large-Scale Asynchronous
        Pipeline Parallel LLM Pretraining, ICML 2026 (https://arxiv.org/abs/2606.30634), correct
        Muon and other optimisers by error feedback at τ = 1. Of it we could read the abstract
        only: the correction here is derived as above, and theirs may differ.
    """
    check_delays(delay)
    check_number("strength", strength)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        return ErrorFeedbackState(
            step=jnp.zeros([], jnp.int32),
            past=empty_queue(delay, working_zeros(params)),
            inner=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        made, after = inner.update(updates, state.inner, params, **extra_args)
        depths = delay_of_leaves(delay, updates)
        wide = map_present(lambda d: cast_strongly(d, working_dtype(d)), made)
        past, before = passed_on(state.past, wide, depths)

        known = _known(state.step, depths, extra_args.get("staleness"))

        def corrected(d: Any, now: jax.Array, then: jax.Array, there: jax.Array) -> jax.Array:
            # u_t = d_t + κ (d_t - d_{t-τ}), once there is a d_{t-τ}.
            error = jnp.where(there, now - then, jnp.zeros_like(now))
            return cast_like(now + scalar(strength, now.dtype) * error, d)

        step = jnp.asarray(optax.safe_increment(state.step))
        fed = map_present(corrected, made, wide, before, known)
        return fed, ErrorFeedbackState(step, past, after)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _known(step: jax.Array, depths: Any, staleness: Any) -> Any:
    """Of each leaf, whether the update of as many steps ago as its delay was of a gradient."""
    if staleness is None or jax.tree_util.all_leaves([staleness]):
        return map_present(lambda depth: step >= depth, depths)
    # Steps count from the first leaf's gradient. A later leaf's own is τ steps stale from its
    # τ-th on; by step 2 τ it has come for τ steps, whatever the staleness of a single one.
    return map_present(
        lambda depth, late: (step >= depth) & ((late >= depth) | (step >= 2 * depth)),
        depths,
        staleness,
    )
