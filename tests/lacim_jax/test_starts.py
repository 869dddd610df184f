"""Several starts: the best by held-out examples is kept, and these are not trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import Examples, fit, invariant_lacim_loss, training
from lacim_jax.starts import hold_out
from tests.lacim_jax.test_training import Normalised, examples, model_of

pytestmark = pytest.mark.usefixtures("standard_promotion")
KEY = jax.random.key(0)


def numbered(count=200):
    """Examples of which the first pixel is the number, in three domains of different sizes."""
    data = examples()
    images = np.array(data.images[:count])
    images[:, 0, 0] = np.arange(count) / count
    domains = np.where(np.arange(count) < 5, 2, np.arange(count) % 2)
    return Examples(images, data.labels[:count], domains.astype(np.int32))


def numbers(images, count=200):
    return np.rint(np.asarray(images)[..., 0, 0] * count).astype(int)


def test_one_in_ten_of_each_domain_is_held_out():
    data = Examples(*map(jnp.asarray, numbered()))
    remaining, held_out = hold_out(data, KEY)
    kept, out = numbers(remaining.images), numbers(held_out.images)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, out])), np.arange(200))
    np.testing.assert_array_equal(np.sort(kept), kept)  # in their order
    # 195 examples in two domains, and five in the third, of which one must do.
    assert np.bincount(data.domains).tolist() == [97, 98, 5]
    assert np.bincount(held_out.domains).tolist() == [9, 9, 1]
    np.testing.assert_array_equal(held_out.labels, data.labels[out])
    np.testing.assert_array_equal(held_out.domains, data.domains[out])
    assert set(numbers(hold_out(data, jax.random.key(1))[1].images)) != set(out)


def told(params, state, batch, key):
    """A loss without noise that tells which examples it saw; no step is taken by it."""
    del key
    kernel = jax.tree.leaves(params["encoder"])[1]
    value = jnp.mean((batch.images.reshape(len(batch.images), -1) @ kernel) ** 2)
    terms = {"seen": batch.images[:, 0, 0], "kernel": kernel[0, 0]}
    return value, (state + 1, terms)


STILL = {"loss": told, "optimiser": optax.sgd(0.0), "batch_size": 20}


def test_what_is_held_out_is_not_trained_on():
    data = numbered()
    fitted = fit(model_of(num_domains=3), data, KEY, num_steps=100, num_starts=2, **STILL)
    assert len(np.unique(fitted.terms["seen"])) == 200 - 19
    fitted = fit(model_of(num_domains=3), data, KEY, num_steps=100, **STILL)
    assert len(np.unique(fitted.terms["seen"])) == 200
    assert np.isnan(fitted.held_out_loss).tolist() == [True]
    fitted = fit(model_of(num_domains=3), data, KEY, num_steps=100, held_out=data, **STILL)
    assert len(np.unique(fitted.terms["seen"])) == 200


def test_the_start_with_the_least_loss_is_kept():
    data = numbered()
    model, held_out = model_of(num_domains=3), data._replace(images=data.images**2)
    several = fit(model, data, KEY, num_steps=1, num_starts=5, held_out=held_out, **STILL)
    losses = several.held_out_loss
    assert losses.shape == (5,)
    assert len(np.unique(losses)) == 5
    assert losses.argmin() > 0, "a start that is the first by chance shows nothing"
    state = jnp.zeros([], jnp.int32)
    found = told(several.variables["params"], state, held_out, KEY)[0]
    np.testing.assert_allclose(found, losses.min(), rtol=1e-5)
    # The first is the start that there would be alone, and no start depends on how many there are.
    alone = fit(model, data, KEY, num_steps=1, held_out=held_out, **STILL)
    np.testing.assert_array_equal(alone.held_out_loss, losses[:1])
    more = fit(model, data, KEY, num_steps=1, num_starts=7, held_out=held_out, **STILL)
    np.testing.assert_array_equal(more.held_out_loss[:5], losses)


def fitted_by(value, **options):
    """Starts that are told apart by a function of step, batch and key alone."""

    def loss(params, step, batch, key):
        found = value(step, batch, key) + 0 * jax.tree.leaves(params)[0].mean()
        terms = {"step": step, "seen": batch.images[:, 0, 0], "noise": jax.random.normal(key)}
        return found, (step + 1, terms)

    options = {"num_steps": 3, "batch_size": 20, "num_starts": 3} | options
    return fit(model_of(num_domains=3), numbered(), KEY, loss=loss, **options)


def test_the_loss_is_that_of_the_last_step():
    fitted = fitted_by(lambda step, batch, key: step.astype(jnp.float32))
    assert fitted.terms["step"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(fitted.held_out_loss, 2)


def test_every_start_is_judged_by_the_same_noise_and_by_many_draws():
    noise = fitted_by(lambda step, batch, key: jax.random.normal(key)).held_out_loss
    assert len(np.unique(noise)) == 1
    assert 0 < abs(noise[0]) < 5 / np.sqrt(256)  # the mean of at least so many


def test_starts_are_judged_by_what_was_held_out_alone():
    """By all of it: the mean of its numbers, of which every pass over 19 leaves none out."""
    fitted = fitted_by(lambda step, batch, key: batch.images[:, 0, 0].mean(), num_steps=100)
    out = np.setdiff1d(np.arange(200), np.rint(200 * fitted.terms["seen"]).astype(int)) / 200
    assert len(out) == 19
    np.testing.assert_allclose(fitted.held_out_loss, out.mean(), rtol=1e-5)
    # Where batches do not divide their number, each pass leaves out others.
    fitted = fitted_by(lambda step, batch, key: batch.images[:, 0, 0].max(), batch_size=18)
    assert 0.9 * out.max() < fitted.held_out_loss[0] < out.max()


def test_starts_have_batches_and_noise_of_their_own():
    """One run keeps the start of the least loss, the other that of the greatest."""
    met = []

    def signed(sign):
        def loss(params, state, batch, key):
            value, (state, terms) = told(params, state, batch, key)
            terms["noise"] = jax.random.normal(key)
            return sign * value, (state, terms)

        return loss

    for sign in (1, -1):
        options = STILL | {"loss": signed(sign), "held_out": numbered(), "num_steps": 3}
        met.append(fit(model_of(num_domains=3), numbered(), KEY, num_starts=4, **options))
    least, most = met
    np.testing.assert_allclose(least.held_out_loss, -most.held_out_loss, rtol=1e-6)
    assert (least.terms["noise"] != most.terms["noise"]).all()
    assert (least.terms["seen"] != most.terms["seen"]).any()


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        fit(model_of(), examples(), jax.random.key(3), num_steps=2, num_starts=2)


def test_a_loss_that_is_finite_in_training_alone_is_told():
    with pytest.warns(UserWarning, match="held-out examples is not finite"):
        fitted = fitted_by(lambda step, batch, key: jnp.where(step == 2, jnp.nan, 0.0))
    assert np.isnan(fitted.held_out_loss).all()
    assert fitted.terms["step"].tolist() == [0, 1, 2]


def sometimes_lost(params, state, batch, key):
    """A loss that is no number where a start begins at a positive weight."""
    value, (state, terms) = told(params, state, batch, key)
    return jnp.where(terms["kernel"] > 0, jnp.nan, value), (
        state, {"value": jnp.where(terms["kernel"] > 0, jnp.nan, value), **terms}
    )  # fmt: skip


def test_starts_that_diverge_are_left_out():
    options = STILL | {"loss": sometimes_lost, "num_steps": 2}
    model, data = model_of(num_domains=3), numbered()
    fitted = fit(model, data, KEY, num_starts=6, **options)
    lost = np.isnan(fitted.held_out_loss)
    assert 0 < lost.sum() < 6
    assert fitted.terms["kernel"][0] <= 0
    assert np.isfinite(fitted.terms["value"]).all()
    always = options | {"optimiser": optax.sgd(np.inf)}
    with pytest.raises(ValueError, match="must stay finite, but from step"):
        fit(model, data, KEY, num_starts=2, **always)


def test_the_step_is_compiled_once_for_all_starts():
    traced = []

    def counted(*args):
        traced.append(1)
        return told(*args)

    counts = []
    for num_starts in (2, 5):
        traced.clear()
        options = STILL | {"loss": counted}
        fit(model_of(num_domains=3), numbered(), KEY, num_steps=2, num_starts=num_starts, **options)
        counts.append(len(traced))
    assert counts[0] == counts[1]


def test_steps_called_from_python_choose_the_same_start(monkeypatch):
    losses = []
    for driven in (False, True):
        monkeypatch.setattr(training, "slow_in_loops", lambda jaxpr, driven=driven: driven)
        fitted = fit(model_of(), examples(), KEY, num_steps=5, num_starts=3)
        losses.append(fitted.held_out_loss)
    assert len(np.unique(losses[0])) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_running_averages_of_the_start_that_is_kept():
    model = model_of(encoder=Normalised(train=True))
    fitted = fit(model, examples(), KEY, num_steps=20, num_starts=3)
    averages = fitted.variables["batch_stats"]["encoder"]["BatchNorm_0"]["mean"]
    assert np.isfinite(fitted.held_out_loss).all()
    assert float(jnp.abs(averages).max()) > 0.01


def test_pooled_models_pool_what_is_held_out():
    """With one prior, domains 0 and 1 are one, given or held out."""
    fitted = fit(model_of(num_domains=1), examples(), KEY, num_steps=5, num_starts=2)
    assert np.isfinite(fitted.held_out_loss).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": examples()._replace(labels=np.full(256, 7))}, "held_out: labels must lie"),
        ({"held_out": examples((4, 5))}, "held_out: .* shape"),
    ],
)
def test_what_cannot_tell_starts_apart_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit(model_of(), examples(), KEY, num_steps=1, **change)


def test_held_out_domains_that_a_loss_cannot_compare_are_refused():
    model, data = model_of(num_domains=1), examples()
    loss = invariant_lacim_loss(model, num_domains=2, weight=1.0)
    unknown = data._replace(domains=data.domains + 5)
    with pytest.raises(ValueError, match="held_out: domains must lie between 0 and"):
        fit(model, data, KEY, num_steps=1, loss=loss, held_out=unknown)


def test_too_few_examples_to_hold_any_out():
    few = Examples(*(leaf[:2] for leaf in examples()))
    with pytest.raises(ValueError, match="give some as held_out, or take one start"):
        fit(model_of(), few, KEY, num_steps=1, num_starts=2)
    assert fit(model_of(), few, KEY, num_steps=1).held_out_loss.shape == (1,)
