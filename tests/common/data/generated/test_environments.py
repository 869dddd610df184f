"""The cart and pole against NumPy and mechanics; rollouts against a loop over steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.generated.environments import (
    CartPoleState,
    Moved,
    cart_pole,
    episode_returns,
    rollout,
)
from tests.compiled import compiled_quickly

ENVIRONMENT = cart_pole(max_steps=9)
STEP = jax.jit(ENVIRONMENT.step)


def cart(x=0.0, v=0.0, theta=0.0, omega=0.0, steps=0):
    return CartPoleState(*map(jnp.float32, (x, v, theta, omega)), jnp.int32(steps))


def accelerations(v, theta, omega, force):
    """Of a cart and a thin rod, from Lagrange's equations as a linear system; in float64.

    (M + m) x'' + m l cos(θ) θ'' = F + m l θ'² sin(θ)
    m l cos(θ) x'' + (4/3) m l² θ'' = m g l sin(θ)
    """
    del v  # there is no friction
    g, big, m, length = 9.8, 1.0, 0.1, 0.5
    mass = np.array(
        [
            [big + m, m * length * np.cos(theta)],
            [m * length * np.cos(theta), 4 / 3 * m * length**2],
        ]
    )
    right = [force + m * length * omega**2 * np.sin(theta), m * g * length * np.sin(theta)]
    return np.linalg.solve(mass, right)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    x=st.floats(-2.6, 2.6), v=st.floats(-3, 3), theta=st.floats(-0.25, 0.25),
    omega=st.floats(-3, 3), right=st.booleans(), steps=st.integers(0, 8),
)  # fmt: skip
def test_a_step_is_eulers_of_lagranges_equations(x, v, theta, omega, right, steps):
    state, moved = STEP(cart(x, v, theta, omega, steps), jnp.int32(right))
    pull, turn = accelerations(v, theta, omega, 10.0 if right else -10.0)
    wanted = (x + 0.02 * v, v + 0.02 * pull, theta + 0.02 * omega, omega + 0.02 * turn)
    np.testing.assert_allclose(jnp.stack(state[:4]), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(moved.observation, jnp.stack(state[:4]))
    assert state.steps == steps + 1
    assert moved.reward == 1.0
    distance, lean = abs(wanted[0]) - 2.4, abs(wanted[2]) - 12 * np.pi / 180
    if min(abs(distance), abs(lean)) > 1e-5:  # not within rounding of a bound
        assert moved.terminated == (max(distance, lean) > 0)
        assert moved.truncated == (not moved.terminated and steps == 8)


def test_known_values_of_gym():
    """CartPole-v1 pushed right from rest upright: x'' = F/(M + m) + m l θ''..., by hand.

    θ'' = -(10/1.1) / (0.5 (4/3 - 0.1/1.1)) = -14.634146, x'' = 10/1.1 + 0.05 * 14.634146/1.1.
    """
    state, _ = STEP(cart(), jnp.int32(1))
    np.testing.assert_allclose(state.angular_velocity, -0.02 * 14.634146, rtol=1e-5)
    np.testing.assert_allclose(state.velocity, 0.02 * (9.090909 + 0.6651885), rtol=1e-5)
    assert state.position == state.angle == 0.0


def test_left_and_right_mirror_each_other():
    one, _ = STEP(cart(0.3, -0.2, 0.1, 0.4), jnp.int32(1))
    other, _ = STEP(cart(-0.3, 0.2, -0.1, -0.4), jnp.int32(0))
    np.testing.assert_array_equal(jnp.stack(other[:4]), -jnp.stack(one[:4]))


def test_episodes_begin_near_upright_at_rest_and_differ():
    states = jax.vmap(ENVIRONMENT.reset)(jax.random.split(jax.random.key(0), 2000))
    drawn = np.stack(states[:4])
    assert np.abs(drawn).max() <= 0.05
    np.testing.assert_allclose(drawn.mean(1), 0, atol=0.003)  # sd of the mean 0.0006
    np.testing.assert_allclose(drawn.std(1), 0.1 / 12**0.5, rtol=0.05)
    assert np.abs(np.corrcoef(drawn) - np.eye(4)).max() < 0.1
    assert not states.steps.any()


def test_an_episode_has_at_least_a_step():
    with pytest.raises(ValueError, match="at least one step, got max_steps 0"):
        cart_pole(max_steps=0)


def often_right(observations):
    return jnp.broadcast_to(jnp.log(jnp.array([[0.2, 0.8]])), (len(observations), 2))


@pytest.fixture(scope="module")
def seen():
    """Twenty steps of a hundred episodes that push to the right four times out of five."""
    start = jax.vmap(ENVIRONMENT.reset)(jax.random.split(jax.random.key(1), 100))
    run = compiled_quickly(functools.partial(rollout, ENVIRONMENT, often_right, steps=20))
    return start, *run(start, jax.random.key(2))


def test_a_rollout_is_a_chain_of_steps_broken_where_episodes_end(seen):
    start, last, found = seen
    assert found.observation.shape == (20, 100, 4)
    assert found.action.dtype == jnp.int32
    done = np.asarray(found.moved.terminated | found.moved.truncated)
    assert done.any(0).all()
    beginnings = jnp.concatenate([found.observation[1:], jnp.stack(last[:4], axis=-1)[None]])
    for episode in range(3):
        state = jax.tree.map(lambda leaf, e=episode: leaf[e], start)
        for t in range(20):
            observed = found.observation[t, episode]
            np.testing.assert_allclose(observed, jnp.stack(state[:4]), rtol=1e-5, atol=1e-6)
            state, moved = STEP(state, found.action[t, episode])
            for name, got, want in zip(Moved._fields, found.moved, moved, strict=True):
                np.testing.assert_allclose(
                    got[t, episode], want, rtol=1e-5, atol=1e-6, err_msg=name
                )
            if done[t, episode]:
                assert np.abs(beginnings[t, episode]).max() <= 0.05
                state = cart(*beginnings[t, episode])
        np.testing.assert_allclose(
            [leaf[episode] for leaf in last], [float(leaf) for leaf in state], rtol=1e-5, atol=1e-6
        )


def test_new_episodes_begin_differently(seen):
    _, _, found = seen
    done = np.asarray(found.moved.terminated | found.moved.truncated)[:-1]
    beginnings = np.asarray(found.observation[1:])[done]
    assert len(beginnings) >= 100
    assert len(np.unique(beginnings[:, 0])) == len(beginnings)


def test_actions_are_drawn_from_the_policy(seen):
    actions = np.asarray(seen[2].action)
    np.testing.assert_allclose(actions.mean(), 0.8, atol=0.04)  # sd 0.009
    # Neither the same at all times nor in all episodes.
    assert actions.mean(0).std() > 0.05
    assert actions.mean(1).std() > 0.02


def linear(weights, offset):
    return lambda observations: 1e4 * (observations @ weights + offset[None])


def test_returns_of_whole_episodes_count_their_steps():
    """Pushing right for ever falls after 8 to 10 steps; a policy that balances is broken off."""
    environment = cart_pole(max_steps=60)

    @compiled_quickly
    def played(weights, offset):
        policy = linear(weights, offset)
        return episode_returns(environment, policy, jax.random.key(0), episodes=20)

    to_the_right = jnp.array([-1.0, 1.0])
    leaning = jnp.array([[0.0], [0.0], [1.0], [0.5]]) * to_the_right[None]
    begin, _ = jax.random.split(jax.random.key(0))
    wanted = []
    for key in jax.random.split(begin, 20):
        state, steps, fallen = environment.reset(key), 0, False
        while not fallen:
            state, moved = STEP(state._replace(steps=jnp.int32(0)), jnp.int32(1))
            steps, fallen = steps + 1, bool(moved.terminated)
        wanted.append(steps)
    np.testing.assert_array_equal(played(jnp.zeros((4, 2)), to_the_right), wanted)
    assert set(wanted) <= set(range(8, 12))
    assert len(set(wanted)) > 1
    np.testing.assert_array_equal(played(leaning, jnp.zeros(2)), 60)
