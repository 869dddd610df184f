"""The compensator of low rank: against a dense re-derivation, on quadratics, in noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dcasgd_jax import round_robin, slot_simulator
from dcasgd_jax.rules.curvature import curvature_compensation
from dcasgd_jax.rules.low_rank import low_rank_compensation
from tests.oracles.low_rank_server import LowRankServer

pytestmark = pytest.mark.usefixtures("optimised")

WORKERS, DIMENSION = 8, 12


def quadratic(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues along random directions, and those, in rows."""
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIMENSION, DIMENSION)))
    return (rotation * eigenvalues) @ rotation.T, rotation.T


ONE_OUTLIER = np.concatenate([[1.0], np.linspace(0.02, 0.002, DIMENSION - 1)])


def as_tree(vector):
    """The first ten numbers as a matrix, the others as they are."""
    return {"matrix": vector[:10].reshape(2, 5), "rest": vector[10:]}


def arrivals(noise, seed=0, number=80, rank_of_h=DIMENSION):
    """Gradients (of a quadratic, with noise), weights and snapshots of a random history."""
    rng = np.random.default_rng(seed)
    h, _ = quadratic(np.where(np.arange(DIMENSION) < rank_of_h, ONE_OUTLIER * 3, 0.0), seed)
    path = np.cumsum(0.1 * rng.normal(size=(number, DIMENSION)), axis=0)
    delays = np.minimum(rng.integers(0, 4, number), np.arange(number))
    stale = path[np.arange(number) - delays]
    return stale @ h + noise * rng.normal(size=stale.shape), path, stale, h


def run(tx, gradients, path, stale):
    """Every compensated gradient, and the last state."""

    def step(state, arrived):
        g, w, s = arrived
        u, state = tx.update(as_tree(g), state, as_tree(w), stale_params=as_tree(s))
        return state, jnp.concatenate([u["matrix"].ravel(), u["rest"]])

    stacked = tuple(jnp.asarray(x) for x in (gradients, path, stale))
    state, updates = jax.lax.scan(step, tx.init(as_tree(stacked[1][0])), stacked)
    return np.asarray(updates), state


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (1, {"strength": 0.75, "decay": 0.999, "confidence": 1.0}),
        (3, {"strength": 1.0, "decay": 0.9, "confidence": 0.5}),
        (DIMENSION + 2, {"strength": 0.5, "decay": 0.95, "confidence": 0.0}),
    ],
)
def test_it_is_the_dense_server(x64, rank, options):
    gradients, path, stale, _ = arrivals(noise=0.1)
    server = LowRankServer(DIMENSION, rank, **options)
    expected = [server(*arrived) for arrived in zip(gradients, path, stale, strict=True)]
    updates, _ = run(low_rank_compensation(rank, **options), gradients, path, stale)
    assert np.abs(np.asarray(expected) - gradients).max() > 0.05  # it does compensate
    np.testing.assert_allclose(updates, expected, rtol=1e-7, atol=1e-8)


def test_with_one_sharp_direction_it_is_the_hessian(x64):
    """All gradients lie along it: exact after the three pairs that the error of a slope needs."""
    gradients, path, stale, h = arrivals(noise=0.0, rank_of_h=1)
    updates, _ = run(low_rank_compensation(1, strength=1.0), gradients, path, stale)
    np.testing.assert_allclose(updates[10:], path[10:] @ h, atol=1e-7)


def test_with_several_sharp_directions_it_approaches_the_hessian(x64):
    """As the gradients' principal directions become the eigenvectors: less than 5% is left."""
    h, _ = quadratic(np.where(np.arange(DIMENSION) < 3, [4.0, 2.0, 1.0] + [0.0] * 9, 0.0))
    rng = np.random.default_rng(0)
    path, stale = rng.normal(size=(2, 4000, DIMENSION))
    tx = low_rank_compensation(3, strength=1.0, confidence=0.0)
    updates, _ = run(tx, stale @ h, path, stale)
    left = np.linalg.norm(updates - path @ h, axis=1) / np.linalg.norm((path - stale) @ h, axis=1)
    assert np.median(left[-500:]) < min(0.05, np.median(left[5:50]))


def test_it_adds_nothing_until_something_is_known():
    gradients, path, stale, _ = arrivals(noise=0.0)
    updates, _ = run(low_rank_compensation(4), gradients[:3], path[:3], stale[:3])
    np.testing.assert_array_equal(updates, gradients[:3].astype(np.float32))


def test_synchronous_rounds_teach_it_nothing():
    """Every snapshot is the server's: what was taken from it is not evidence."""
    gradients, path, _, _ = arrivals(noise=0.1)
    updates, state = run(low_rank_compensation(4), gradients, path, path)
    np.testing.assert_array_equal(updates, gradients.astype(np.float32))
    np.testing.assert_array_equal(state.pairs.moved, 0.0)


def test_noise_without_curvature_is_not_taken_for_it(x64):
    rng = np.random.default_rng(5)
    _, path, stale, _ = arrivals(noise=0.0, number=300)
    noise = rng.normal(size=stale.shape)
    updates, _ = run(low_rank_compensation(4, confidence=4.0), noise, path, stale)
    np.testing.assert_array_equal(updates, noise)


def distances(make, steps_sizes, h, noise):
    """|w| after 4,000 server steps of eight workers, for each step size."""
    rng = np.random.default_rng(2)
    schedule = round_robin(WORKERS, len(noise))
    matrix, start = jnp.asarray(h), jnp.asarray(rng.normal(size=DIMENSION))

    def final(size):
        simulator = slot_simulator(
            lambda w, e: matrix @ w + e, optax.chain(make(), optax.sgd(size)), WORKERS
        )
        state, _ = simulator.run(simulator.init(start), schedule, jnp.asarray(noise))
        return jnp.linalg.norm(state.params)

    return np.asarray(jax.jit(jax.vmap(final))(jnp.asarray(steps_sizes)))


def largest_linear_step(compensator, h):
    """Where the delayed linear iteration w' = w - x (H s + C (w - s)) has its first root of one."""

    def radius(x):
        tau = WORKERS - 1
        companion = np.zeros((DIMENSION * (tau + 1),) * 2)
        companion[:DIMENSION, :DIMENSION] = np.eye(DIMENSION) - x * compensator
        companion[:DIMENSION, -DIMENSION:] = -x * (h - compensator)
        companion[DIMENSION:, :-DIMENSION] = np.eye(DIMENSION * tau)
        return np.abs(np.linalg.eigvals(companion)).max()

    low, high = 0.0, 4.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if radius(middle) <= 1 else (low, middle)
    return low


def test_beyond_every_diagonal_on_a_rotated_quadratic_with_one_outlier(x64):
    """Largest stable steps at eight workers: ASGD 0.209, diag(H) 0.306, rank one 2."""
    h, directions = quadratic(ONE_OUTLIER)
    top = np.outer(directions[0], directions[0])
    assert largest_linear_step(0 * h, h) == pytest.approx(2 * np.sin(np.pi / 30), abs=1e-3)
    by_diagonal = largest_linear_step(np.diag(np.diag(h)), h)
    assert 0.209 < by_diagonal < 0.31
    assert largest_linear_step(top, h) == pytest.approx(2.0, abs=2e-2)

    quiet = np.zeros((4000, DIMENSION))
    learnt = distances(lambda: low_rank_compensation(1), [0.1, 0.3, 1.0, 1.9, 1.98], h, quiet)
    assert (learnt < 1.0).all(), learnt
    plain = distances(optax.identity, [0.19, 0.25, by_diagonal], h, quiet)
    assert plain[0] < 1 < 1e6 < plain[1] < plain[2]


def test_in_noise_it_does_as_well_as_the_known_eigenvector(x64):
    h, directions = quadratic(ONE_OUTLIER)
    top = jnp.asarray(directions[0])
    noise = np.random.default_rng(1).normal(size=(3000, DIMENSION))
    sizes = [0.25, 0.5, 1.0, 1.5]
    known = distances(
        lambda: curvature_compensation(lambda a: top * jnp.dot(top, a.moved)), sizes, h, noise
    )
    learnt = distances(lambda: low_rank_compensation(1), sizes, h, noise)
    np.testing.assert_allclose(learnt, known, rtol=0.02)
    assert distances(optax.identity, sizes[:1], h, noise)[0] > 1e6


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
def test_what_is_not_finite_or_nearly_so_is_not_learnt_from(bad):
    """The arrival passes, compensated by what is known; the next ones go on as without it."""
    gradients, path, stale, _ = (x.astype(np.float32) for x in arrivals(noise=0.1, number=40))
    tx = low_rank_compensation(2)
    _, known = run(tx, gradients, path, stale)
    w, s = as_tree(jnp.asarray(path[-1])), as_tree(jnp.asarray(stale[-1]))
    spoilt = jax.tree.map(lambda x: jnp.full_like(x, bad), w)
    u, after = jax.jit(tx.update)(spoilt, known, w, stale_params=s)
    assert np.isfinite(u["rest"]).all() == np.isfinite(bad)
    for got, expected in zip(after.pairs, known.pairs, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for name in ("gradients", "stale_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(known, name))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15])
def test_gradients_of_any_size_give_finite_results(size):
    gradients, path, stale, _ = arrivals(noise=0.1, number=40)
    updates, state = run(low_rank_compensation(2), size * gradients, path, stale)
    assert np.isfinite(updates).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_scaling_loss_and_weights_scales_the_answer(x64):
    """No hidden unit: curvature has that of the gradient over that of the weights."""
    gradients, path, stale, _ = arrivals(noise=0.1)
    tx = low_rank_compensation(2)
    plain, _ = run(tx, gradients, path, stale)
    scaled, _ = run(tx, 1e4 * gradients, 1e-3 * path, 1e-3 * stale)
    np.testing.assert_allclose(scaled, 1e4 * plain, rtol=1e-6, atol=1e-6)


def test_half_precision_weights_are_compensated_from_a_float32_state():
    w = {"kernel": jnp.ones((3, 2), jnp.bfloat16)}
    g = jax.tree.map(lambda x: x / 8, w)
    tx = low_rank_compensation(2)
    u, state = tx.update(g, tx.init(w), w, stale_params=w)
    assert u["kernel"].dtype == jnp.bfloat16
    leaves = [*jax.tree.leaves(state.directions), *state.pairs, *jax.tree.leaves(state.gradients)]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.float32)}


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"rank must be an int >= 1, got 0.*static_args"):
        low_rank_compensation(0)
    with pytest.raises(ValueError, match=r"decay must be a scalar >= 0 and < 1, got 1.0"):
        low_rank_compensation(1, decay=1.0)
    with pytest.raises(ValueError, match="strength must be a schedule, or a finite scalar"):
        low_rank_compensation(1, strength=-1.0)
    with pytest.raises(ValueError, match="confidence must be a finite scalar"):
        low_rank_compensation(1, confidence=float("nan"))
    tx, w = low_rank_compensation(1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"low_rank_compensation needs .* got no `stale_params`"):
        tx.update(w, tx.init(w), w)
