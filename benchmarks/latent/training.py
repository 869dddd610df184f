"""Many runs on several versions of the same data, trained at once: all methods by one optimiser.

A version of the data (a seed's colours, a flipped set of labels) is a column: arrays are
[n, columns, ...], and each run reads its own.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.progress import Bar
from common.seeds import streams
from common.training import Execution, Fit, Keys, LossFn, init_state, train_step
from common.training import fit as fit_epochs
from common.training.classification import evaluator
from lacim_jax import ERM, Examples, LaCIM, elbo

Version = TypeVar("Version")


def side_by_side(versions: Iterable[Version]) -> Version:
    """Versions of the same data, arrays [n, ...], as the columns of one: [n, columns, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *versions)


def of_column(examples: Examples, column: int | jax.Array) -> Examples:
    """One column of the data, arrays [n, columns, ...]; which one may be traced."""
    return jax.tree.map(lambda leaf: leaf[:, column], examples)


def num_steps(train: Examples, *, batch_size: int, epochs: int) -> int:
    """How many steps a run takes."""
    return len(train.labels) // batch_size * epochs


def warm_up(steps: int) -> optax.Schedule:
    """From 0 to 1 over the first third of training: of what is raised as a network learns."""
    return optax.linear_schedule(0.0, 1.0, max(steps // 3, 1))


@functools.cache
def adam(learning_rate: float) -> optax.GradientTransformation:
    """One object a rate, so that searches share a compilation."""
    return optax.adam(learning_rate)


def variables_of(state: Any, run: int) -> dict[str, Any]:
    """The variables of one of many runs."""
    return {"params": jax.tree.map(lambda leaf: leaf[run], state.params)}


class Runs(NamedTuple):
    """What tells runs apart that are trained at once; one entry a run."""

    seeds: Sequence[int]  # of first weights, order and noise
    setups: Any  # what tells them apart within a method: the loss's model state, [runs, ...]
    learning_rates: jax.Array  # [runs]
    weight_decays: jax.Array  # [runs]


def fit(
    model: Any, loss: Any, train: Examples, runs: Runs, *, inputs: tuple[Any, ...],
    batch_size: int, epochs: int, bar: Bar, at_once: int | None = None,
) -> Fit:  # fmt: skip
    """Trains all runs by AdamW, each learning rate falling along a cosine to zero.

    Examples are [n, columns, ...]. The bar is advanced by 1 an epoch.
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
    initial = {seed: init(streams(seed).init, *inputs)["params"] for seed in set(runs.seeds)}
    params = jax.tree.map(lambda *w: jnp.stack(w), *(initial[seed] for seed in runs.seeds))
    keys = [streams(seed) for seed in runs.seeds]
    return fit_epochs(
        train_step(cast("LossFn", loss), tunable(learning_rate=0.0, weight_decay=0.0)),
        jax.vmap(start)(params, runs.learning_rates, runs.weight_decays, runs.setups), train,
        keys=Keys(jnp.stack([k.order for k in keys]), jnp.stack([k.noise for k in keys])),
        batch_size=batch_size, epochs=epochs, bar=bar, execution=Execution(at_once=at_once),
    )  # fmt: skip


def inputs_of(model: Any, examples: Examples) -> tuple[jax.Array, ...]:
    """What a model is initialised with, beside a key: an image, and a domain if it asks for one."""
    images = examples.images[:1]
    return (images,) if isinstance(model, ERM) else (images, examples.domains[:1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Starting:
    """How a model is trained from several initialisations."""

    batch_size: int = 250
    epochs: int
    learning_rate: float
    num_samples: int = 1
    """K, draws from the encoder for each example."""
    starts: int = 1
    """Initialisations of each network."""


class Start(NamedTuple):
    """What tells a run of `best_starts` from another: carried as the model's own state."""

    column: jax.Array  # of the data; int32, scalar
    step: jax.Array  # steps taken; int32, scalar


class Best(NamedTuple):
    """The best start of one column."""

    variables: dict[str, Any]
    merit: float
    """-inf where every start diverged."""
    diverged: int
    """How many starts did."""


def best_starts(
    model: Any, objective: Any, merit: Callable[[Any, Examples], jax.Array], train: Examples,
    held_out: Examples, seeds: Sequence[int], settings: Starting, bar: Bar,
) -> list[Best]:  # fmt: skip
    """Trains a model on every column from several initialisations at once, and keeps the best.

    The objective is (params, step, examples of one column, key) -> (loss, (state, terms)); by
    merit, (params, held-out examples of one column) -> [n], a start is chosen.
    """
    runs = [(c, start) for c in range(len(seeds)) for start in range(settings.starts)]

    def loss(params: optax.Params, start: Start, batch: Examples, key: jax.Array) -> Any:
        value, (_, terms) = objective(params, start.step, of_column(batch, start.column), key)
        return value, (start._replace(step=start.step + 1), terms)

    def measure(state: Any, batch: Any) -> dict[str, jax.Array]:
        return {"merit": merit(state.params, of_column(batch, state.model_state.column))}

    index = jnp.asarray([c for c, _ in runs])
    trained = fit(
        model,
        loss,
        train,
        Runs(
            # Starts of one seed are seeds of their own, beyond those that are asked for.
            seeds=[seeds[c] + 1000 * start for c, start in runs],
            setups=Start(index, jnp.zeros_like(index)),
            learning_rates=jnp.full(len(runs), settings.learning_rate),
            weight_decays=jnp.zeros(len(runs)),
        ),
        inputs=inputs_of(model, of_column(train, 0)),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        bar=bar,
    )
    merits = evaluator(measure, held_out, many_runs=True)(trained.state)["merit"]
    merits = np.where((trained.diverged_at < 0) & np.isfinite(merits), merits, -np.inf)
    best = []
    for c in range(len(seeds)):
        tried = [i for i, (column, _) in enumerate(runs) if column == c]
        first = tried[int(np.argmax(merits[tried]))]
        diverged = int(np.sum(~np.isfinite(merits[tried])))
        best.append(Best(variables_of(trained.state, first), float(merits[first]), diverged))
    return best


def bound_of(model: LaCIM) -> Callable[[Any, Examples], jax.Array]:
    """A merit to choose a start by: the bound of each held-out example, by eight draws."""

    def bound(params: Any, part: Examples) -> jax.Array:
        return elbo(model, {"params": params}, part, jax.random.key(0), num_samples=8).bound

    return bound


def encoded(model: LaCIM, variables: Any, part: Examples) -> np.ndarray:
    """The posterior means of examples of known domains, float64 [n, s_dim + v_dim]."""
    posterior: Any = model.apply(variables, part.images, part.domains, method="encode")
    return np.asarray(posterior.mean, np.float64)
