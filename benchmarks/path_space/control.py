"""A ReLU policy that balances a pole: does path space help, and make the step size matter less?

Advantage actor-critic (`actor_critic.py`) on the cart and pole of Barto, Sutton and Anderson
as in Gym's CartPole-v1, 500 steps at most. One perceptron, ReLU layers with biases, gives
the logits of the two actions and the value of the state; its group has a node for every hidden
unit. Every method gets the same number of environment steps, one update per rollout.

Rows: SGD and Adam, on weights and in path space, each pair from the same weights, once the usual
ones and once the papers' initialisation, skeleton weights at 1. All at every step size of a grid,
SGD's and Adam's being different ones, falling linearly to zero; no momentum and no weight decay.

A score is the mean return of whole episodes in which actions are drawn from the policy: after
training, and on average over evaluations at even distances, which tells how fast it got there. Step
sizes are chosen by the former on some episodes and scored on others; all methods of a seed meet the
same beginnings. After training has diverged there is no score.

Cost: cpu 2 minutes on one core; day 40, with twenty seeds: from three, no difference that one would
hope for is visible. Full is sized for one accelerator and was not run.
Command: python -m benchmarks gsgd_control --preset day --seeds 20
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from benchmarks.harness.registry import Context
from benchmarks.path_space.actor_critic import ActorCritic, Network, actor_critic_loss
from benchmarks.path_space.jobs import (
    METHODS,
    Curves,
    Job,
    Reports,
    run_all,
)
from benchmarks.path_space.methods import Grid
from benchmarks.path_space.rates import Score
from common.data.generated.environments import Environment, cart_pole, episode_returns, rollout
from common.networks import MLP
from common.progress import Bar
from common.results.records import Record
from common.results.tables import number
from common.seeds import streams

RETURN = Score(
    "test_return", "validation_return", "return", unit="", tolerance=25.0, scale=1.0,
    show=functools.partial(number, digits=1),
)  # fmt: skip
IN_TRAINING = RETURN._replace(metric="mean_test_return", name="return in training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Grid):
    """What the experiment depends on."""

    methods: tuple[str, ...] = tuple(method.name for method in METHODS)
    max_steps: int = 500
    """After which an episode is broken off."""
    widths: tuple[int, ...] = (64, 64)
    """Of the hidden layers."""
    episodes: int = 16
    """Played side by side in training."""
    rollout: int = 32
    """Steps of each of them between two updates."""
    updates: int = 600
    evaluations: int = 8
    """How often in training, at even distances, the last time at its end."""
    scored: int = 64
    """Episodes of each evaluation, and as many again to choose by."""
    learning_rates: tuple[float, ...] = (
        0.003, 0.0056, 0.01, 0.018, 0.03, 0.056, 0.1, 0.18, 0.3, 0.56, 1.0
    )  # fmt: skip
    """As close as this since a setting that diverged from one seed is not chosen: were the next
    smaller one a third of it, a rule that diverges early would be left far from its best step."""
    adaptive_rates: tuple[float, ...] = (
        3e-4, 5.6e-4, 1e-3, 1.8e-3, 3e-3, 5.6e-3, 1e-2, 1.8e-2, 3e-2, 5.6e-2, 1e-1
    )  # fmt: skip
    loss: ActorCritic = dataclasses.field(default_factory=ActorCritic)


PRESETS = {
    "smoke": Settings(
        methods=("SGD", "G-SGD", "Adam", "G-Adam"), max_steps=200, updates=100, evaluations=4,
        scored=32, learning_rates=(0.1, 0.3), adaptive_rates=(0.003, 0.01),
    ),
    "cpu": Settings(
        max_steps=200, updates=200, learning_rates=(0.03, 0.1, 0.3), adaptive_rates=(0.003, 0.01)
    ),
    "day": Settings(),
    "full": Settings(episodes=64, updates=2000, evaluations=20, scored=256),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, learning rate and seed.

    Raises:
        ValueError: if a method is unknown, or evaluations cannot be at even distances.
    """
    if settings.evaluations < 1 or settings.updates % settings.evaluations:
        raise ValueError(
            f"updates must be a multiple of evaluations, got {settings.updates} updates and "
            f"{settings.evaluations} evaluations."
        )
    environment = cart_pole(max_steps=settings.max_steps)
    dtype = jnp.bfloat16 if settings.bfloat16 else jnp.float32
    module = MLP((*settings.widths, environment.num_actions + 1), dtype=dtype)
    between = settings.updates // settings.evaluations * settings.episodes * settings.rollout
    steps: list[float] = [between * (i + 1) for i in range(settings.evaluations)]

    def train(job: Job, bar: Bar) -> Curves:
        curves = _train(job, module, environment, settings)
        bar.advance(note=job.method.name)
        return {"environment_steps": steps}, curves

    def in_training(curve: Mapping[str, list[float]]) -> dict[str, float]:
        return {"mean_test_return": float(np.mean(curve["test_return"]))}

    example = jnp.zeros((1, environment.num_observations), jnp.float32)
    yield from run_all(settings, context, module, example, train, also=in_training)


def actor_and_critic(module: nn.Module, params: Any) -> Network:
    """A network's logits and values: its last output is the value."""

    def network(observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = observations.reshape(-1, observations.shape[-1])
        outputs: Any = module.apply({"params": params}, flat)
        outputs = outputs.reshape(*observations.shape[:-1], -1)
        return outputs[..., :-1], outputs[..., -1]

    return network


class _Training(NamedTuple):
    """All that a run carries from update to update."""

    params: Any
    opt_state: Any
    episodes: Any
    finite: jax.Array
    """Whether no loss and no weight has left the numbers so far; bool, scalar."""


def _train(
    job: Job, module: nn.Module, environment: Environment, settings: Settings
) -> dict[str, np.ndarray]:
    """The curves of all runs of a job, columns [evaluations, runs]; NaN from divergence on."""

    def policy(params: Any) -> Callable[[jax.Array], jax.Array]:
        return lambda observations: actor_and_critic(module, params)(observations)[0]

    def one_run(params: Any, rate: jax.Array, begin: jax.Array, noise: jax.Array) -> Any:
        def schedule(count: ArrayLike) -> jax.Array:
            return rate * (1 - jnp.asarray(count).astype(jnp.float32) / settings.updates)

        tx = job.make(schedule)

        def update(carry: _Training, key: jax.Array) -> tuple[_Training, jax.Array]:
            episodes, seen = rollout(
                environment, policy(carry.params), carry.episodes, key, steps=settings.rollout
            )

            def loss_fn(params: Any) -> jax.Array:
                return actor_critic_loss(actor_and_critic(module, params), seen, settings.loss)

            loss, grads = jax.value_and_grad(loss_fn)(carry.params)
            steps, opt_state = tx.update(grads, carry.opt_state, carry.params)
            params = optax.apply_updates(carry.params, steps)
            finite = carry.finite & jnp.isfinite(loss)
            for leaf in jax.tree.leaves(params):
                finite &= jnp.isfinite(leaf).all()
            return _Training(params, opt_state, episodes, finite), loss

        def stretch(carry: _Training, number: jax.Array) -> tuple[_Training, Any]:
            keys = jax.random.split(jax.random.fold_in(noise, number), 3)
            each = settings.updates // settings.evaluations
            carry, losses = jax.lax.scan(update, carry, jax.random.split(keys[0], each))

            def score(key: jax.Array) -> jax.Array:
                played = episode_returns(
                    environment, policy(carry.params), key, episodes=settings.scored
                )
                return played.mean()

            validation, test = jax.vmap(score)(keys[1:])
            row = {"loss": losses.mean(), "validation_return": validation, "test_return": test}
            return carry, jax.tree.map(lambda x: jnp.where(carry.finite, x, jnp.nan), row)

        episodes = jax.vmap(environment.reset)(jax.random.split(begin, settings.episodes))
        carry = _Training(params, tx.init(params), episodes, jnp.array(True))
        return jax.lax.scan(stretch, carry, jnp.arange(settings.evaluations))[1]

    keys = [streams(seed) for seed in job.seeds]
    curves = jax.jit(jax.vmap(one_run, out_axes=1))(
        job.params,
        job.rates,
        jnp.stack([k.order for k in keys]),
        jnp.stack([k.noise for k in keys]),
    )
    return jax.device_get(curves)


_REPORTS = Reports(
    scores=(RETURN, IN_TRAINING), label="return after training", file="returns.png",
    curve=("environment_steps", "test_return"), labels=("environment steps", "return"),
)  # fmt: skip
tables, plots, CAPTIONS = _REPORTS.tables, _REPORTS.plots, _REPORTS.captions
