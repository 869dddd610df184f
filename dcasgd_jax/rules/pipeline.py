"""Pipeline stages: how late each part of a network sees its gradients."""

from typing import Any

import jax
import optax

from dcasgd_jax.rules.queues import delay_of_leaves


def pipeline_delays(params: optax.Params, stages: Any) -> Any:
    """The delay of each leaf in an asynchronous pipeline: τ = stages - 1 - stage.

    A network is split into stages that follow each other, each on a device of its own, and every
    stage steps as soon as its gradients come back. Between a batch's way forward through stage s
    and its way back, the batches before it come back to that stage: S - 1 - s of them, with S
    stages. The first stage's gradients are the latest, the last stage's are on time.

    The delays go to `constant_delay`, in a training loop, or into schedules for `simulate`, which
    takes each gradient at the weights that the stages had when its batch went through them:
    `jax.tree.map(lambda tau: round_robin(tau + 1, num_steps), delays)`.

    Args:
        params: the parameters, or their shapes.
        stages: which stage each part is in: a tree prefix of `params` with ints >= 0, the first
            stage being 0. One more than the largest is the number of stages.

    Returns:
        A tree like `params`, of ints.

    Raises:
        ValueError: if the stages are no such tree, or one of them has no part.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"embed": jnp.ones(3), "blocks": [jnp.ones(2), jnp.ones(2)]}
        >>> pipeline_delays(params, {"embed": 0, "blocks": [0, 1]})
        {'blocks': [1, 0], 'embed': 1}

    References:
        Narayanan et al., PipeDream: Generalized Pipeline Parallelism for DNN Training, SOSP 2019,
        weight stashing, as reported.
    """
    present = jax.tree.leaves(stages)
    if not present or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in present):
        raise ValueError(f"stages must be a tree of ints >= 0, got {stages!r}.")
    last = max(present)
    if missing := sorted(set(range(last)) - set(present)):
        raise ValueError(
            f"stages are numbered from 0 without gaps, and no part is in {missing[0]} of "
            f"0, ..., {last}; renumber them."
        )
    return jax.tree.map(lambda stage: last - stage, delay_of_leaves(stages, params))
