"""Local steps: a worker trains for a while by itself, and sends how far it has come."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def local_steps(
    grad_fn: Callable[[Any, Any], Any],
    inner: optax.GradientTransformation,
    *,
    keep_state: bool = False,
    unroll: bool = False,
) -> Callable[..., Any]:
    r"""What a worker sends that takes k steps between pull and push: the pseudo-gradient.

        w_0 = the snapshot,   w_{j+1} = w_j + inner(∇f(w_j; batch_j)),   it sends  w_0 - w_k

    It stands where a gradient function does, in `simulate` and for real workers: a batch is then k
    batches, stacked, and the server's rule is the outer one. By that rule, and its protocol, it is

    - FedAvg: inner `optax.sgd(η)`; server `optax.sgd(1.0)` on means by round and examples,
      `peers.weighted_aggregation`;
    - DiLoCo: inner `optax.adamw(...)`; server `optax.sgd(0.7, momentum=0.9, nesterov=True)` on
      means by round;
    - asynchronous local SGD: any inner rule; server `optax.chain(peers.delayed_nesterov(M),
      optax.sgd(η))`, or `peers.fedbuff`.

    **The inner rule's state.** It begins anew at each pull, as clients of federated learning begin
    that are seen once. DiLoCo's workers keep theirs: with `keep_state=True` it is the run's model
    state, `simulate(..., model_state=inner.init(params))`. Where each worker pulls upon its own
    arrival, as all do asynchronously unless they fail or leave, each goes on with exactly its own.
    In rounds all go on with that of the last to arrive, or with what `merge` makes of them.

    Args:
        grad_fn: (params, batch) -> gradients, as from `jax.grad`.
        inner: the worker's rule, any optax optimiser.
        keep_state: whether the state of `inner` is taken over from one pull to the next.
        unroll: whether the k steps are laid out one after another instead of in a loop: larger to
            compile, but convolutions on CPU run many times slower inside a loop.

    Returns:
        (params, batches) -> the pseudo-gradient, where each leaf of `batches` is of shape [k, ...];
        with `keep_state`, (params, state, batches) -> (the pseudo-gradient, the state after).

    Raises:
        ValueError: from what is returned, if a leaf of `batches` has no axis of steps.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from dcasgd_jax import round_robin, simulate
        >>> gradient = jax.grad(lambda w, x: 0.5 * (w - x) ** 2)
        >>> worker = local_steps(gradient, optax.sgd(0.5))
        >>> print(worker(jnp.array(1.0), jnp.zeros(3)))  # 1 - 1/8
        0.875
        >>> outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
        >>> w, _ = simulate(worker, jnp.array(1.0), outer, round_robin(1, 40), jnp.zeros((40, 3)))
        >>> bool(abs(w) < 0.05)
        True

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data,
        AISTATS 2017 (https://arxiv.org/abs/1602.05629); Douillard et al., DiLoCo: Distributed
        Low-Communication Training of Language Models, 2023 (https://arxiv.org/abs/2311.08105); Liu
        et al., Asynchronous Local-SGD Training for Language Modeling, 2024
        (https://arxiv.org/abs/2401.09135).
    """

    def descend(params: Any, state: Any, batches: Any) -> tuple[Any, Any]:
        def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
            w, opt_state = carry
            updates, opt_state = inner.update(grad_fn(w, batch), opt_state, w)
            return (optax.apply_updates(w, updates), opt_state), None

        if any(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(batches)):
            raise ValueError(
                "local_steps takes k batches, stacked: each leaf of shape [k, ...], got a scalar; "
                "for one step give it an axis of length 1."
            )
        # Weights of a weak type would change type in the loop.
        start = jax.tree.map(lambda w: jnp.asarray(w, jnp.result_type(w)), params), state
        (w, state), _ = jax.lax.scan(step, start, batches, unroll=unroll)
        return jax.tree.map(lambda first, last: first - last, params, w), state

    if keep_state:
        return descend
    return lambda params, batches: descend(params, inner.init(params), batches)[0]
