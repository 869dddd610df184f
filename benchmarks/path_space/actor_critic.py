r"""Advantage actor-critic: the loss of a rollout, for one network that gives logits and a value.

$$L = -\frac1n \sum_t \hat A_t \log \pi(a_t | s_t) + \frac{c_V}{n} \sum_t (V(s_t) - R_t)^2
      - \frac{c_H}{n} \sum_t H(\pi(\cdot | s_t)),$$

with advantages $A_t$ by generalised estimation, $R_t = A_t + V(s_t)$ held fixed and $\hat A$ the
advantages of a rollout brought to mean 0 and standard deviation 1. Rewards are multiplied by
1 - γ, so that values are averages of rewards and steps of one size suit policy and value.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.data.generated.environments import Experience


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """What the loss depends on."""

    discount: float = 0.99
    """Of a reward one step later: gamma."""
    trace: float = 0.95
    """Lambda of the advantages: 0 for one step, 1 for all that follow."""
    value_weight: float = 0.5
    """c_V, of the squared error of values."""
    entropy_weight: float = 0.01
    """c_H, of the policy's entropy."""


class Targets(NamedTuple):
    """What a rollout says should change; float32, [time, episodes]."""

    advantages: jax.Array
    returns: jax.Array


Network = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
"""`observations [..., observations] -> (logits [..., actions], values [...])`."""


def targets(
    rewards: jax.Array, values: jax.Array, next_values: jax.Array, terminated: jax.Array,
    truncated: jax.Array, *, discount: float, trace: float,
) -> Targets:  # fmt: skip
    r"""Generalised advantage estimation.

    $A_t = \delta_t + γλ A_{t+1}$ within an episode, $\delta_t = r_t + γ V(s'_t) - V(s_t)$, where
    $s'_t$ is the state that the step led to and $V(s'_t)$ is 0 if the episode terminated there. One
    that was truncated there, or goes on after the rollout, is taken to be worth $V(s'_t)$.

    Arrays are [time, episodes]; discount is γ, trace λ.

    References:
        Schulman et al., *High-dimensional continuous control using generalized advantage
        estimation*, 2016, equation 16.
    """
    worth = jnp.where(terminated, 0, next_values)
    errors = rewards + discount * worth - values
    carried = discount * trace * (~(terminated | truncated)).astype(errors.dtype)

    def back(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, factor = now
        advantage = error + factor * later
        return advantage, advantage

    _, advantages = jax.lax.scan(back, jnp.zeros_like(errors[0]), (errors, carried), reverse=True)
    return Targets(advantages, advantages + values)


def actor_critic_loss(network: Network, seen: Experience, settings: ActorCritic) -> jax.Array:
    """A rollout's loss; its gradient flows through logits and values of the states acted in."""
    logits, values = network(seen.observation)
    _, next_values = network(seen.moved.observation)
    wanted = jax.lax.stop_gradient(
        targets(
            (1 - settings.discount) * seen.moved.reward,
            values,
            next_values,
            seen.moved.terminated,
            seen.moved.truncated,
            discount=settings.discount,
            trace=settings.trace,
        )
    )
    advantages = wanted.advantages - wanted.advantages.mean()
    advantages = advantages / (advantages.std() + 1e-8)
    log_policy = jax.nn.log_softmax(logits)
    log_chosen = jnp.take_along_axis(log_policy, seen.action[..., None], axis=-1)[..., 0]
    entropy = -(jnp.exp(log_policy) * log_policy).sum(-1)
    return (
        -(advantages * log_chosen).mean()
        + settings.value_weight * ((values - wanted.returns) ** 2).mean()
        - settings.entropy_weight * entropy.mean()
    )
