"""Many runs on several versions of the same data, trained at once: all methods by one optimiser.

A version of the data (a seed's colours, a flipped set of labels) is a column: arrays are
[n, columns, ...], and each run reads its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from common.progress import Bar
from common.seeds import streams
from common.training import Execution, Fit, Keys, LossFn, init_state, train_step
from common.training import fit as fit_epochs
from lacim_jax import Examples


def of_column(examples: Examples, column: int | jax.Array) -> Examples:
    """One column of the data.

    Args:
        examples: arrays [n, columns, ...].
        column: which; may be traced.
    """
    return jax.tree.map(lambda leaf: leaf[:, column], examples)


def num_steps(train: Examples, *, batch_size: int, epochs: int) -> int:
    """How many steps a run takes.

    Args:
        train: the data.
        batch_size: examples a step.
        epochs: passes over them.
    """
    return len(train.labels) // batch_size * epochs


def warm_up(steps: int) -> optax.Schedule:
    """From 0 to 1 over the first third of training: of what is raised as a network learns.

    Args:
        steps: of the whole of it.
    """
    return optax.linear_schedule(0.0, 1.0, max(steps // 3, 1))


def fit(
    model: Any,
    loss: Any,
    train: Examples,
    *,
    inputs: tuple[Any, ...],
    seeds: Sequence[int],
    setups: Any,
    learning_rates: jax.Array,
    weight_decays: jax.Array,
    batch_size: int,
    epochs: int,
    bar: Bar,
    at_once: int | None = None,
) -> Fit:
    """Trains all runs by AdamW, each learning rate falling along a cosine to zero.

    Args:
        model: a Flax module.
        loss: as `common.training.train_step` takes it; its model state is one run's setup.
        train: arrays [n, columns, ...].
        inputs: what the model is initialised with, beside a key.
        seeds: of each run: its first weights, its order and its noise.
        setups: what tells runs apart within a method, leaves [runs, ...].
        learning_rates: [runs].
        weight_decays: [runs].
        batch_size: examples a step.
        epochs: passes over the data.
        bar: advanced by 1 an epoch.
        at_once: at most so many runs are trained side by side; None for all.
    """
    steps = num_steps(train, batch_size=batch_size, epochs=epochs)
    schedule = optax.cosine_decay_schedule(1.0, steps)

    def rule(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_schedule(schedule),
            optax.scale_by_learning_rate(learning_rate),
        )

    tunable = optax.inject_hyperparams(rule)

    def start(params: optax.Params, rate: Any, decay: Any, setup: Any) -> Any:
        return init_state(params, tunable(learning_rate=rate, weight_decay=decay), setup)

    init = jax.jit(model.init)
    initial = {seed: init(streams(seed).init, *inputs)["params"] for seed in set(seeds)}
    params = jax.tree.map(lambda *w: jnp.stack(w), *(initial[seed] for seed in seeds))
    keys = [streams(seed) for seed in seeds]
    return fit_epochs(
        train_step(cast("LossFn", loss), tunable(learning_rate=0.0, weight_decay=0.0)),
        jax.vmap(start)(params, learning_rates, weight_decays, setups),
        train,
        keys=Keys(jnp.stack([k.order for k in keys]), jnp.stack([k.noise for k in keys])),
        batch_size=batch_size,
        epochs=epochs,
        bar=bar,
        execution=Execution(at_once=at_once),
    )


class Start(NamedTuple):
    """What tells a run of `fit_from_starts` from another: carried as the model's own state."""

    column: jax.Array  # of the data; int32, scalar
    step: jax.Array  # steps taken; int32, scalar


def fit_from_starts(
    model: Any,
    objective: Any,
    train: Examples,
    *,
    inputs: tuple[Any, ...],
    seeds: Sequence[int],
    starts: int,
    learning_rate: float,
    batch_size: int,
    epochs: int,
    bar: Bar,
) -> tuple[Fit, list[int]]:
    """Trains a model on every column from several initialisations at once, as `fit` does.

    Args:
        model: a Flax module.
        objective: (params, step, examples of one column, key) -> (loss, (state, terms)).
        train: arrays [n, columns, ...].
        inputs: what the model is initialised with, beside a key.
        seeds: of the columns.
        starts: initialisations of each column; at least 1.
        learning_rate: of all runs.
        batch_size: examples a step.
        epochs: passes over the data.
        bar: advanced by 1 an epoch.

    Returns:
        All runs, and the column of each.
    """
    runs = [(c, start) for c in range(len(seeds)) for start in range(starts)]

    def loss(params: optax.Params, start: Start, batch: Examples, key: jax.Array) -> Any:
        value, (_, terms) = objective(params, start.step, of_column(batch, start.column), key)
        return value, (start._replace(step=start.step + 1), terms)

    index = jnp.asarray([c for c, _ in runs])
    found = fit(
        model,
        loss,
        train,
        inputs=inputs,
        # Starts of one seed are seeds of their own, beyond those that are asked for.
        seeds=[seeds[c] + 1000 * start for c, start in runs],
        setups=Start(index, jnp.zeros_like(index)),
        learning_rates=jnp.full(len(runs), learning_rate),
        weight_decays=jnp.zeros(len(runs)),
        batch_size=batch_size,
        epochs=epochs,
        bar=bar,
    )
    return found, [c for c, _ in runs]
