"""Weight prediction: workers are sent where the weights will be when their gradients arrive."""

from typing import Any, NamedTuple

import jax
import optax
from jax.typing import ArrayLike

from dcasgd_jax._arguments import check_number, scalar
from dcasgd_jax._masked_trees import map_present, working_zeros
from dcasgd_jax._precision import cast, cast_like, cast_strongly
from dcasgd_jax.rules.sending import SendingRule, state_of


class WeightPredictionState(NamedTuple):
    """State of `weight_prediction`."""

    last: optax.Updates  # like the parameters, float32 or wider: how they moved last
    inner: optax.OptState


def weight_prediction(inner: optax.GradientTransformation, horizon: ArrayLike | Any) -> SendingRule:
    r"""Sends the weights as they will be after s more steps like the last one.

        ŵ = w + s Δw,   Δw the inner rule's last update,

    s being the staleness that is expected, M - 1 with M workers of one speed. A rule whose steps
    change slowly is what makes it true: with momentum, `weight_prediction(optax.sgd(0.1, 0.9), s)`
    is SpecTrain's ŵ = w - s η v; with Adam, `weight_prediction(optax.adam(1e-3), s)` is XPipe's
    ŵ = w - s η m̂ / (√v̂ + ε); with `optax.contrib.muon(0.02)` it goes along Muon's orthogonalised
    step. Any optimiser will do, for its last update is all that is looked at; weight decay and a
    schedule of the learning rate are in it.

    In a pipeline, whose stages know their s exactly, each leaf has a horizon of its own::

        delays = pipeline_delays(params, stages)
        plan = jax.tree.map(lambda tau: round_robin(tau + 1, num_steps), delays)
        simulate(gradient, params, weight_prediction(optax.adam(1e-3), delays), plan, batches)

    Memory: one copy of the parameters in float32, beside the inner rule's own: in all 3 copies
    beside the weights with Adam, 2 with momentum or Muon, whatever the horizons.

    Args:
        inner: the server's rule, its learning rate included.
        horizon: s >= 0, a number, or a tree prefix of numbers.

    Returns:
        A `SendingRule` for `simulate`.

    Raises:
        ValueError: here, if a horizon is out of its range; when weights are sent, if the horizons
            are no tree prefix of the parameters.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> rule = weight_prediction(optax.sgd(0.1, momentum=0.9), 3)
        >>> w = jnp.array(1.0)
        >>> update, state = rule.tx.update(jnp.array(2.0), rule.tx.init(w), w)
        >>> w = optax.apply_updates(w, update)
        >>> round(float(w), 6), round(float(rule.send(w, state)), 6)
        (0.8, 0.2)

    References:
        Chen, Yang and Cheng, Efficient and Robust Parallel DNN Training through Model Parallelism
        on Multi-GPU Platform (SpecTrain), 2018 (https://arxiv.org/abs/1809.02839); Guan et al.,
        XPipe: Efficient Pipeline Model Parallelism for Multi-GPU DNN Training, 2019
        (https://arxiv.org/abs/1911.04610); both as reported.
    """
    for number in jax.tree.leaves(horizon):
        check_number("horizon", number)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> Any:
        return WeightPredictionState(last=working_zeros(params), inner=inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        moved, after = inner.update(updates, state.inner, params, **extra_args)
        last = map_present(lambda u, old: cast_strongly(u, old.dtype), moved, state.last)
        return moved, WeightPredictionState(last, after)

    def send(params: optax.Params, opt_state: optax.OptState) -> optax.Params:
        state = state_of(opt_state, WeightPredictionState)

        def ahead(w: jax.Array, last: jax.Array, s: ArrayLike) -> jax.Array:
            # ŵ = w + s Δw
            return cast_like(cast(w, last.dtype) + scalar(s, last.dtype) * last, w)

        return map_present(ahead, params, state.last, _of_leaves(horizon, params))

    return SendingRule(optax.GradientTransformationExtraArgs(init_fn, update_fn), send)


def _of_leaves(horizon: Any, params: optax.Params) -> Any:
    """The horizon of each leaf."""
    try:
        return jax.tree.map(lambda s, part: map_present(lambda _: s, part), horizon, params)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "horizon must be one number, or a tree prefix of the parameters with a number for each "
            f"part, got {jax.tree.structure(horizon)} for {jax.tree.structure(params)}."
        ) from error
