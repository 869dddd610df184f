"""Delay-corrected Nesterov: look so far ahead along the momentum that staleness hardly matters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number, scalar
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast, cast_like


class DelayCorrectedNesterovState(NamedTuple):
    """State of `delay_corrected_nesterov`."""

    step: jax.Array  # shape=(), dtype=int32: updates so far
    product: jax.Array  # shape=(), float32 or wider: of all look-aheads μ_1, ..., μ_t
    momentum: optax.Updates  # like the parameters, float32 or wider
    mean_square: optax.Updates  # like the parameters, float32 or wider


def delay_corrected_nesterov(
    *,
    momentum: ArrayLike = 0.99,
    momentum_decay: ArrayLike = 0.004,
    mean_square_decay: ArrayLike = 0.999,
    epsilon: ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Nesterov's look-ahead along a long momentum, with the stale gradient itself discounted.

        m ← β m + (1 - β) g,          v ← β₂ v + (1 - β₂) g²,
        μ_t = β (1 - 0.96^{t ψ} / 2),  P_t = μ_1 ... μ_t,
        u = [ μ_{t+1} m / (1 - P_{t+1}) + (1 - μ_t) g / (1 - P_t) ] / (√(v / (1 - β₂^t)) + ε)

    In an asynchronous pipeline each stage's gradient is τ steps old. Weights move along m, so with
    β = 0.99 the step μ m carries them to about where they will be when a gradient taken now
    arrives: the look-ahead is the correction. The gradient that arrives late enters directly only
    by 1 - μ, a hundredth. It is NAdam, with a longer momentum than is usual; put weight decay and
    the learning rate behind it::

        optax.chain(
            delay_corrected_nesterov(),
            optax.add_decayed_weights(0.01),
            optax.scale_by_learning_rate(3e-4),
        )

    Memory: two copies of the parameters in float32, whatever the delays, as for Adam.

    Args:
        momentum: β in [0, 1).
        momentum_decay: ψ >= 0, how soon μ grows from β / 2 to β.
        mean_square_decay: β₂ in [0, 1).
        epsilon: ε >= 0.

    Returns:
        A transformation; it reads no extra arguments.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = delay_corrected_nesterov(momentum=0.5, momentum_decay=0.0)  # μ = 1/4 throughout
        >>> update, state = tx.update(jnp.array(4.0), tx.init(jnp.array(0.0)))
        >>> print(f"{update:.4f}")  # (1/4) (1/2) / (1 - 1/16) + 1
        1.1333

    References:
        Ajanthan et al., Nesterov Method for Asynchronous Pipeline Parallel Optimization, ICML 2025
        (https://arxiv.org/abs/2505.01099). Of the paper we could read the abstract; the rule is
        that of the authors' code (PluralisResearch/AsyncPP, `run.bash` and `optim/nadamw.py`),
        which takes PyTorch's NAdam with β = 0.99. NAdam is due to Dozat, Incorporating Nesterov
        Momentum into Adam, 2016.
    """
    check_number("momentum", momentum, bound=1.0)
    check_number("momentum_decay", momentum_decay)
    check_number("mean_square_decay", mean_square_decay, bound=1.0)
    check_number("epsilon", epsilon)

    def init_fn(params: optax.Params) -> Any:
        return DelayCorrectedNesterovState(
            step=jnp.zeros([], jnp.int32),
            product=jnp.ones([], jnp.result_type(float)),
            momentum=working_zeros(params),
            mean_square=working_zeros(params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        step = jnp.asarray(optax.safe_increment(state.step))
        dtype = state.product.dtype

        def look_ahead(t: jax.Array) -> jax.Array:
            # μ_t = β (1 - 0.96^{t ψ} / 2)
            gone = jnp.exp(jnp.log(jnp.asarray(0.96, dtype)) * t * scalar(momentum_decay, dtype))
            return jnp.asarray(scalar(momentum, dtype), dtype) * (1 - gone / 2)

        now, following = look_ahead(step.astype(dtype)), look_ahead((step + 1).astype(dtype))
        product = state.product * now
        of_momentum = following / (1 - product * following)
        of_gradient = (1 - now) / (1 - product)
        of_square = 1 - jnp.asarray(scalar(mean_square_decay, dtype), dtype) ** step.astype(dtype)

        def moving(rate: ArrayLike, power: int) -> Any:
            def mean(g: Any, old: jax.Array) -> jax.Array:
                kept = jnp.asarray(scalar(rate, old.dtype), old.dtype)
                return kept * old + (1 - kept) * cast(g, old.dtype) ** power

            return mean

        first = map_present(moving(momentum, 1), updates, state.momentum)
        second = map_present(moving(mean_square_decay, 2), updates, state.mean_square)

        def direction(g: Any, m: jax.Array, v: jax.Array) -> jax.Array:
            ahead = cast(of_momentum, m.dtype) * m + cast(of_gradient, m.dtype) * cast(g, m.dtype)
            size = jnp.sqrt(v / cast(of_square, v.dtype)) + scalar(epsilon, v.dtype)
            return cast_like(ahead / size, g)

        return map_present(direction, updates, first, second), DelayCorrectedNesterovState(
            step, product, first, second
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
