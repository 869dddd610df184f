"""Control tasks as pure functions, and playing a policy in them.

    environment = cart_pole()
    state = environment.reset(key)
    state, moved = environment.step(state, action)       # one step of one episode

`rollout` takes a fixed number of steps in many episodes at once, a finished one being followed by a
new one; `episode_returns` plays whole episodes. Both are scans, to be composed with `jax.jit`,
`jax.vmap` and `jax.grad` like everything else.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp


class Moved(NamedTuple):
    """What a step of an environment returns beside the next state."""

    observation: jax.Array
    """Of the state reached, before any new episode begins; float32, [observations]."""
    reward: jax.Array
    """float32, scalar."""
    terminated: jax.Array
    """Whether the episode ends in the state reached, whose value is then 0; bool, scalar."""
    truncated: jax.Array
    """Whether the episode is cut off for its length, which does not change the value of its state;
    bool, scalar. Never together with `terminated`."""


class Environment(NamedTuple):
    """A task with finitely many actions and episodes of bounded length."""

    reset: Callable[[jax.Array], chex.ArrayTree]
    """`key -> state`, that of an episode's beginning."""
    step: Callable[[Any, jax.Array], tuple[chex.ArrayTree, Moved]]
    """`(state, action) -> (state, moved)`, action int32, scalar."""
    observe: Callable[[Any], jax.Array]
    """`state -> observation`, float32, [observations]."""
    num_observations: int
    num_actions: int
    max_steps: int
    """Steps after which an episode is truncated."""


class CartPoleState(NamedTuple):
    """A cart with a pole on it; float32 scalars."""

    position: jax.Array
    """Of the cart, metres from the middle."""
    velocity: jax.Array
    """Of the cart, metres a second."""
    angle: jax.Array
    """Of the pole from upright, radians."""
    angular_velocity: jax.Array
    """Of the pole, radians a second."""
    steps: jax.Array
    """Taken in this episode; int32, scalar."""


GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE, TIME_STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
"""SI units, as in the papers; the pole's length is counted from its joint to its centre."""

MAX_POSITION, MAX_ANGLE = 2.4, 12 * 2 * jnp.pi / 360
"""Limits beyond which the pole counts as fallen: metres, and radians."""


def cart_pole(*, max_steps: int = 500) -> Environment:
    r"""Balancing a pole on a cart that is pushed to the left (action 0) or the right (1).

    With angle θ, position x, force F = ±10 N, masses m (pole) and M (both) and half the pole's
    length l,

    $$\ddot\theta = \frac{g \sin\theta - \cos\theta\, f}{l (4/3 - m \cos^2\theta / M)}, \quad
      \ddot x = f - \frac{m l \ddot\theta \cos\theta}{M}, \quad
      f = \frac{F + m l \dot\theta^2 \sin\theta}{M},$$

    integrated by Euler's method at 0.02 s. Every step is worth 1, also the one by which the pole
    falls: beyond 12 degrees, or the cart 2.4 m from the middle. An episode begins with position,
    angle and velocities uniform in [-0.05, 0.05].

    Args:
        max_steps: after how many steps an episode is truncated; 500 in Gym's CartPole-v1.

    Returns:
        The environment; its observations are position, velocity, angle and angular velocity.

    Raises:
        ValueError: if max_steps is not positive.

    Example:
        >>> environment = cart_pole()
        >>> state, moved = environment.step(environment.reset(jax.random.key(0)), jnp.array(1))
        >>> float(moved.reward), bool(moved.terminated), int(state.steps)
        (1.0, False, 1)

    References:
        Barto, Sutton and Anderson, *Neuronlike adaptive elements that can solve difficult learning
        control problems*, 1983, appendix, without its friction; constants, starts and ends are
        those of Gym's CartPole-v1 (Brockman et al., *OpenAI Gym*, 2016).
    """
    if max_steps < 1:
        raise ValueError(f"an episode must have at least one step, got max_steps {max_steps}.")

    def reset(key: jax.Array) -> CartPoleState:
        drawn = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return CartPoleState(drawn[0], drawn[1], drawn[2], drawn[3], jnp.zeros([], jnp.int32))

    def observe(state: CartPoleState) -> jax.Array:
        return jnp.stack(state[:4])

    def step(state: CartPoleState, action: jax.Array) -> tuple[CartPoleState, Moved]:
        x, v, theta, omega, steps = state
        mass, cos, sin = CART_MASS + POLE_MASS, jnp.cos(theta), jnp.sin(theta)
        force = jnp.where(action == 1, FORCE, -FORCE)
        # f, the angular acceleration and the acceleration of the cart, in the docstring's order.
        push = (force + POLE_MASS * HALF_LENGTH * omega**2 * sin) / mass
        turn = (GRAVITY * sin - cos * push) / (
            HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / mass)
        )
        pull = push - POLE_MASS * HALF_LENGTH * turn * cos / mass
        # Euler's explicit method: positions move by the velocities of before the step.
        state = CartPoleState(
            x + TIME_STEP * v,
            v + TIME_STEP * pull,
            theta + TIME_STEP * omega,
            omega + TIME_STEP * turn,
            steps + 1,
        )
        fallen = (jnp.abs(state.position) > MAX_POSITION) | (jnp.abs(state.angle) > MAX_ANGLE)
        late = (state.steps >= max_steps) & ~fallen
        return state, Moved(observe(state), jnp.ones([], jnp.float32), fallen, late)

    return Environment(reset, step, observe, num_observations=4, num_actions=2, max_steps=max_steps)


Policy = Callable[[jax.Array], jax.Array]
"""`observations [n, observations] -> logits [n, actions]`, from which actions are drawn."""


class Experience(NamedTuple):
    """Steps of several episodes side by side, [time, episodes, ...]."""

    observation: jax.Array
    """What the policy saw; float32, [time, episodes, observations]."""
    action: jax.Array
    """int32."""
    moved: Moved
    """What the action led to."""


def rollout(
    environment: Environment, policy: Policy, state: chex.ArrayTree, key: jax.Array, *, steps: int
) -> tuple[chex.ArrayTree, Experience]:
    """Takes the same number of steps in episodes side by side, beginning anew where one ends.

    Args:
        environment: the task.
        policy: gives the logits of actions.
        state: states to start from, each leaf [episodes, ...].
        key: a typed PRNG key, scalar.
        steps: how many in each episode.

    Returns:
        The states reached, and the steps taken.
    """
    episodes = jax.tree.leaves(state)[0].shape[0]

    def one(state: Any, key: jax.Array) -> tuple[Any, Experience]:
        draw, *begin = jax.random.split(key, episodes + 1)
        observation = jax.vmap(environment.observe)(state)
        action = jax.random.categorical(draw, policy(observation)).astype(jnp.int32)
        state, moved = jax.vmap(environment.step)(state, action)
        fresh = jax.vmap(environment.reset)(jnp.stack(begin))
        done = moved.terminated | moved.truncated

        def renewed(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        return jax.tree.map(renewed, fresh, state), Experience(observation, action, moved)

    return jax.lax.scan(one, state, jax.random.split(key, steps))


def episode_returns(
    environment: Environment, policy: Policy, key: jax.Array, *, episodes: int
) -> jax.Array:
    """The sums of rewards of whole episodes, of however many steps.

    Args:
        environment: the task.
        policy: gives the logits of actions, which are drawn.
        key: a typed PRNG key, scalar, for first states and actions.
        episodes: how many.

    Returns:
        float32, [episodes].
    """
    begin, play = jax.random.split(key)
    state = jax.vmap(environment.reset)(jax.random.split(begin, episodes))

    def one(carry: Any, key: jax.Array) -> tuple[Any, None]:
        state, running, total = carry
        logits = policy(jax.vmap(environment.observe)(state))
        state, moved = jax.vmap(environment.step)(state, jax.random.categorical(key, logits))
        # Every episode is stepped to the bound, so that shapes are static; rewards end with it.
        total = total + jnp.where(running, moved.reward, 0)
        return (state, running & ~(moved.terminated | moved.truncated), total), None

    carry = (state, jnp.ones(episodes, bool), jnp.zeros(episodes, jnp.float32))
    (_, _, total), _ = jax.lax.scan(one, carry, jax.random.split(play, environment.max_steps))
    return total
