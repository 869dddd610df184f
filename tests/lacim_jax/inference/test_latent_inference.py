"""Latent search: known optima, never worse than its start, and blind to the company."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from lacim_jax import (
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    Search,
    infer,
    infer_along,
    squared_norm,
)
from lacim_jax.inference import latent_inference
from lacim_jax.inference.latent_inference import _whole
from tests.compiled import counting_compilations
from tests.lacim_jax.exact import exact_model
from tests.lacim_jax.inference.small_model import (
    IMAGES,
    KEY,
    MODEL,
    VARIABLES,
    model_with,
    variables_of,
)
from tests.oracles import linear_gaussian as oracle

INSTANCE = oracle.instance(np.random.default_rng(0))
# optax.adam corrects its bias by decay ** count, float32 by int32.
pytestmark = pytest.mark.usefixtures("standard_promotion")


def objective(model, variables, images, latents, regulariser, weight):
    """The objective, written out in NumPy from the networks' outputs."""
    pixels = model.apply(variables, jnp.asarray(latents), method="decode")
    pixels = np.asarray(pixels, np.float64)
    log_x = (images * pixels - np.logaddexp(0, pixels)).sum((1, 2, 3))
    return log_x + weight * regulariser(latents)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_gaussian_models_latents_are_found(weight):
    # One domain of the linear-Gaussian model: the objective is a quadratic with a known summit.
    pooled = INSTANCE._replace(mean=INSTANCE.mean[:1], sd=INSTANCE.sd[:1])
    model, variables = exact_model(pooled, shift=1.0)  # starts are off
    x, _ = oracle.draw(pooled, 0, np.random.default_rng(1), 20)
    precision = pooled.A.T @ pooled.A / pooled.sx**2 + weight * np.diag(pooled.sd[0] ** -2.0)
    target = x @ pooled.A / pooled.sx**2 + weight * pooled.mean[0] / pooled.sd[0] ** 2
    wanted = np.linalg.solve(precision, target.T).T
    optimiser = optax.adam(optax.exponential_decay(0.1, 100, 0.3))
    search = Search(optimiser=optimiser, weight=weight, draws=1, chunk_size=20)
    found = infer(model, variables, x.astype(np.float32), KEY, steps=500, search=search)
    np.testing.assert_allclose(np.hstack(found.latents), wanted, atol=2e-3)


def test_the_squared_norm_makes_it_ridge_regression():
    model, variables = exact_model(INSTANCE)
    x, _ = oracle.draw(INSTANCE, 1, np.random.default_rng(2), 10)
    weight = 0.7
    ridge = INSTANCE.A.T @ INSTANCE.A / INSTANCE.sx**2 + 2 * weight * np.eye(4)
    wanted = np.linalg.solve(ridge, (x @ INSTANCE.A / INSTANCE.sx**2).T).T
    search = Search(
        optimiser=optax.adam(optax.exponential_decay(0.1, 100, 0.3)),
        regulariser=squared_norm, weight=weight, chunk_size=10,
    )  # fmt: skip
    found = infer(model, variables, x.astype(np.float32), KEY, steps=500, search=search)
    np.testing.assert_allclose(np.hstack(found.latents), wanted, atol=2e-3)


def test_the_objective_is_the_stated_one():
    search = Search(weight=0.8)
    found = infer(MODEL, VARIABLES, IMAGES[:30], KEY, steps=7, search=search)
    priors = MODEL.apply(VARIABLES, method="priors")
    mean, log_var = (np.asarray(p, np.float64) for p in priors)

    def mixture(z):
        quadratic = (z[:, None] - mean) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi)
        return scipy.special.logsumexp(-0.5 * quadratic.sum(-1), axis=1) - np.log(2)

    latents = np.hstack(found.latents)
    wanted = objective(MODEL, VARIABLES, IMAGES[:30], latents, mixture, 0.8)
    np.testing.assert_allclose(found.objective_after, wanted, rtol=1e-5)


def test_starts_are_the_encoders_means_and_draws_in_every_domain():
    found = infer(MODEL, VARIABLES, IMAGES[:9], KEY, steps=0, search=Search(draws=3))
    every = MODEL.apply(VARIABLES, jnp.asarray(IMAGES[:9]), method="encode_in_every_domain")
    candidates = np.concatenate(found.candidates, axis=-1)
    assert candidates.shape == (9, 8, 5)
    np.testing.assert_allclose(candidates[:, :2], every.mean, rtol=1e-5, atol=1e-6)
    shift = candidates[:, 2:].reshape(9, 3, 2, 5) - every.mean[:, None]
    noise = np.asarray(shift / np.exp(np.asarray(every.log_var)[:, None] / 2))
    np.testing.assert_allclose(noise, np.broadcast_to(noise[:1], noise.shape), atol=1e-3)
    assert np.abs(noise[0]).min() > 0
    best = found.candidate_objectives.argmax(axis=1)
    np.testing.assert_array_equal(found.latents.s, found.candidates.s[np.arange(9), best])
    np.testing.assert_array_equal(found.objective_before, found.objective_after)


@pytest.mark.parametrize("optimiser", [optax.adam(0.1), optax.adam(30.0), optax.sgd(1e3)])
def test_it_is_never_worse_than_its_start(optimiser):
    search = Search(optimiser=optimiser, draws=1)
    start, end = infer_along(MODEL, VARIABLES, IMAGES, KEY, steps=(0, 15), search=search)
    assert np.all(end.objective_after >= end.objective_before)
    assert np.all(end.candidate_objectives >= start.candidate_objectives)
    np.testing.assert_array_equal(start.objective_after, end.objective_before)
    np.testing.assert_array_equal(end.objective_after, end.candidate_objectives.max(axis=1))


@pytest.mark.parametrize("size", [1, 16, 256])
def test_the_number_of_images_changes_nothing(size):
    # A norm clipped over more than one image would show here.
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    search = Search(optimiser=_SHARED.setdefault("clipped", optimiser), draws=1)
    whole = infer(MODEL, VARIABLES, IMAGES, KEY, search=search)
    part = infer(MODEL, VARIABLES, IMAGES[:size], KEY, search=search)
    np.testing.assert_allclose(part.latents.s, whole.latents.s[:size], atol=1e-5)
    np.testing.assert_allclose(part.latents.v, whole.latents.v[:size], atol=1e-5)


_SHARED: dict[str, optax.GradientTransformation] = {}


def test_their_order_changes_nothing():
    order = np.random.default_rng(0).permutation(256)
    whole = infer(MODEL, VARIABLES, IMAGES, KEY)
    shuffled = infer(MODEL, VARIABLES, IMAGES[order], KEY)
    assert np.ptp(whole.latents.s, axis=0).min() > 0.1
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(shuffled), strict=True):
        np.testing.assert_allclose(one[order], other, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_the_size_of_the_chunks_changes_nothing():
    variables = jax.tree.map(lambda w: jnp.asarray(w, jnp.float64), VARIABLES)
    images = IMAGES[:40].astype(np.float64)
    results = [
        infer(MODEL, variables, images, KEY, search=Search(chunk_size=size, draws=1))
        for size in (1, 16, 256)
    ]
    assert results[0].latents.s.dtype == np.float64
    for other in results[1:]:
        for one, two in zip(results[0].latents, other.latents, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-5)
        np.testing.assert_allclose(results[0].objective_after, other.objective_after, atol=1e-8)


def test_a_search_on_the_way_is_the_search_of_so_many_steps():
    along = infer_along(MODEL, VARIABLES, IMAGES[:10], KEY, steps=(0, 3, 3, 20))
    for steps, found in zip((0, 3, 3, 20), along, strict=True):
        alone = infer(MODEL, VARIABLES, IMAGES[:10], KEY, steps=steps)
        jax.tree.map(np.testing.assert_array_equal, alone, found)
    assert np.all(along[3].objective_after > along[0].objective_after)


def test_halving_drops_starts_and_changes_nothing_for_those_kept():
    images, full = IMAGES[:20], Search(keep=None)
    halved = Search(keep=2, screening=8)
    screened = infer(MODEL, VARIABLES, images, KEY, steps=8, search=full)
    whole = infer(MODEL, VARIABLES, images, KEY, steps=30, search=full)
    found = infer(MODEL, VARIABLES, images, KEY, steps=30, search=halved)
    assert found.candidates.s.shape == whole.candidates.s.shape
    for i, objectives in enumerate(screened.candidate_objectives):
        kept = np.argsort(-objectives, kind="stable")[:2]
        dropped = np.setdiff1d(np.arange(len(objectives)), kept)
        np.testing.assert_allclose(
            found.candidate_objectives[i, kept], whole.candidate_objectives[i, kept], rtol=1e-3
        )
        np.testing.assert_array_equal(found.candidate_objectives[i, dropped], objectives[dropped])
        np.testing.assert_array_equal(
            found.candidates.s[i, dropped], screened.candidates.s[i, dropped]
        )
    np.testing.assert_array_equal(found.objective_after, found.candidate_objectives.max(1))
    np.testing.assert_array_equal(found.objective_before, whole.objective_before)
    # A few steps are those of all starts, and so is the search where all are kept.
    for steps, search in ((8, halved), (30, Search(keep=10)), (30, Search(keep=99))):
        expected = screened if steps == 8 else whole
        jax.tree.map(
            np.testing.assert_array_equal,
            infer(MODEL, VARIABLES, images, KEY, steps=steps, search=search),
            expected,
        )


def test_halving_compiles_once_and_may_be_looked_at_on_the_way():
    search = Search(optimiser=optax.sgd(0.02), keep=3, screening=2)
    with counting_compilations() as counts:
        along = infer_along(MODEL, VARIABLES, IMAGES[:9], KEY, steps=(1, 2, 3, 7), search=search)
        for steps, found in zip((1, 2, 3, 7), along, strict=True):
            alone = infer(MODEL, VARIABLES, IMAGES[:9], KEY, steps=steps, search=search)
            jax.tree.map(np.testing.assert_array_equal, alone, found)
    assert counts[latent_inference._steps.__name__] == 2  # all starts, and three of them
    assert counts[latent_inference._narrow.__name__] == 1


def test_driven_and_scanned_steps_are_the_same():
    model = model_with(ConvDecoder((8, 8, 1), (8,)), ConvEncoder((8,), 16))
    variables = variables_of(model)
    searches = [Search(loop=loop, chunk_size=5, screening=2) for loop in ("scan", "driven")]
    results = [
        infer(model, variables, IMAGES[:5], KEY, steps=4, search=search) for search in searches
    ]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


class Convolved(nn.Module):
    """A decoder with a convolution."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, latents):
        return nn.Conv(self.shape[-1], (3, 3))(MLPDecoder(self.shape, (4,))(latents))


def test_auto_drives_convolutions_on_cpu_and_scans_the_rest(monkeypatch):
    called = []
    for name in ("_step", "_steps"):
        function = getattr(latent_inference, name)
        monkeypatch.setattr(
            latent_inference,
            name,
            lambda *a, f=function, n=name, **k: called.append(n) or f(*a, **k),
        )
    search = Search(chunk_size=5)
    infer(MODEL, VARIABLES, IMAGES[:5], KEY, steps=2, search=search)
    assert called == ["_steps"]
    model = model_with(Convolved((8, 8, 1)))
    infer(model, variables_of(model), IMAGES[:5], KEY, steps=2, search=search)
    assert called == ["_steps", "_step", "_step"]
    model = model_with(ConvDecoder((8, 8, 1), (8,)))  # its convolutions are products of matrices
    assert not latent_inference.is_driven(model, variables_of(model), search)


def test_one_compilation_serves_every_evaluation():
    optimiser = optax.sgd(0.01)
    with counting_compilations() as counts:
        for weight, size, steps in ((1.0, 256, 2), (0.5, 3, 5), (0.0, 200, 1)):
            model = model_with(MLPDecoder((8, 8, 1), (16,)))  # equal, not the same object
            search = Search(optimiser=optimiser, weight=weight, keep=None)
            infer(model, VARIABLES, IMAGES[:size], jax.random.key(size), steps=steps, search=search)
    assert [counts[f.__name__] for f in (latent_inference._begin, latent_inference._steps)] == [
        1,
        1,
    ]


def test_the_same_key_gives_the_same_latents():
    one, two, other = (
        infer(MODEL, VARIABLES, IMAGES[:5], jax.random.key(i), steps=3) for i in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.array_equal(one.candidates.s, other.candidates.s)


def test_an_objective_that_is_no_number_is_never_kept():
    def broken(latents, priors):
        del priors
        return jnp.where(latents[0] > 0, jnp.nan, -(latents**2).sum())

    search = Search(regulariser=broken, draws=20)
    start, end = infer_along(MODEL, VARIABLES, IMAGES[:20], KEY, steps=(0, 10), search=search)
    for found in (start, end):
        assert np.isfinite(found.objective_after).all()
        assert np.all(found.latents.s[:, 0] <= 0)
    assert np.all(end.objective_after >= start.objective_after)
    assert np.isneginf(start.candidate_objectives).any()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (255 * IMAGES[:2], {}, "pixels must lie between 0 and 1, got .* divide stored pixels"),
        (IMAGES[:0], {}, "at least one example"),
        (IMAGES[:2, :4], {}, r"\[batch, 8, 8, 1\], .* got float32\[2, 4, 8, 1\]"),
        (IMAGES[:2], {"steps": -1}, "steps must be at least 0"),
    ],
)
def test_bad_input_is_one_clear_error(images, options, message):
    with pytest.raises(ValueError, match=message):
        infer(MODEL, VARIABLES, images, KEY, **options)


def test_steps_on_the_way_ascend():
    with pytest.raises(ValueError, match=r"ascend, got \(5, 3\)"):
        infer_along(MODEL, VARIABLES, IMAGES[:2], KEY, steps=(5, 3))


def test_steps_are_whole_numbers():
    # A TypeError where annotations are checked, as here: they refuse it first.
    for steps in ((0, 2.0), (0, "2")):
        with pytest.raises((ValueError, TypeError), match="steps"):
            infer_along(MODEL, VARIABLES, IMAGES[:2], KEY, steps=steps)
        with pytest.raises(ValueError, match=r"steps must be whole numbers, .* got \(0, "):
            _whole(steps)
    assert _whole(np.array([0, 10])) == (0, 10)
    found = infer_along(MODEL, VARIABLES, IMAGES[:2], KEY, steps=np.array([0, 2]))
    same = infer_along(MODEL, VARIABLES, IMAGES[:2], KEY, steps=(0, 2))
    jax.tree.map(np.testing.assert_array_equal, found, same)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": -1}, "draws must be a whole number, at least 0, got -1"),
        ({"weight": float("nan")}, "weight must be a number of at least 0, and finite, got nan"),
        ({"weight": float("inf")}, "and finite, got inf"),
        ({"chunk_size": 0}, "chunk_size must be a whole number of images, at least 1"),
        ({"keep": 0}, "keep must be at least 1 start or None, and screening .* got 0 and 4"),
        ({"keep": 1.5}, "both whole numbers, got 1.5 and 4"),
        ({"screening": -1}, "screening at least 0 steps, both whole numbers, got 2 and -1"),
        ({"screening": 2.0}, "both whole numbers, got 2 and 2.0"),
        ({"loop": "fast"}, "(?s)loop.*'fast'"),
    ],
)
def test_impossible_searches_are_refused(options, message):
    # A TypeError where annotations are checked, as here: they refuse an unknown loop first.
    with pytest.raises((ValueError, TypeError), match=message):
        Search(**options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weight", [None, "1", (0.0, 1.0), np.zeros(2)])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(ValueError, match="weight must be a number of at least 0, and finite, got"):
        Search(weight=weight)
