"""Training in one call: it learns, it refuses what it cannot learn from, and keeps collections."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lacim_jax import (
    MLP,
    Examples,
    LaCIM,
    MLPDecoder,
    MLPEncoder,
    fit,
    gaussian_likelihood,
    infer,
    lacim_loss,
    predict,
    training,
)
from lacim_jax.model.loops import slow_in_loops

pytestmark = pytest.mark.usefixtures("standard_promotion")
KEY = jax.random.key(0)


def model_of(shape=(4, 4), classes=2, encoder=None, **options):
    encoder = MLPEncoder((16,)) if encoder is None else encoder
    sizes = {"num_domains": 2, "s_dim": 2, "v_dim": 2} | options
    return LaCIM(encoder, MLPDecoder(shape, (16,)), MLP((8, classes)), **sizes)


def examples(shape=(4, 4), classes=2, seed=0):
    """Bright images are of high classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=256)
    bright = (labels / max(classes - 1, 1)).reshape(-1, *[1] * len(shape))
    images = 0.4 * rng.uniform(size=(256, *shape)) + 0.6 * bright
    return Examples(
        images.astype(np.float32), labels.astype(np.int32), np.arange(256, dtype=np.int32) % 2
    )


def accuracy(model, variables, data):
    found = predict(model, variables, data.images, KEY, steps=0)
    return float(np.mean(found.probabilities.argmax(-1) == data.labels))


@pytest.mark.parametrize(
    ("shape", "classes", "least"), [((4, 4), 2, 0.95), ((2, 5, 3), 2, 0.95), ((7,), 12, 0.25)]
)
def test_it_learns_images_of_any_shape_tables_and_many_classes(shape, classes, least):
    model = model_of(shape, classes)
    steps = 200 if classes == 2 else 800
    fitted = fit(model, examples(shape, classes), KEY, num_steps=steps, optimiser=optax.adam(3e-3))
    assert accuracy(model, fitted.variables, examples(shape, classes, seed=1)) > least
    assert fitted.terms["bound"].shape == (steps,)
    assert fitted.terms["label"][-20:].mean() > fitted.terms["label"][0]


def test_steps_called_from_python_are_those_of_the_loop(monkeypatch):
    """Convolutions on CPU are trained so. The rule's state holds a buffer of the weights twice."""
    rule = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda step: -0.01 / (1 + step)))
    whole = optax.GradientTransformation(lambda p: (p, rule.init(p)), lambda g, s, p=None: (
        lambda u, own: (u, (s[0], own)))(*rule.update(g, s[1], p)))  # fmt: skip
    found = []
    for driven in (False, True):
        monkeypatch.setattr(training, "slow_in_loops", lambda jaxpr, driven=driven: driven)
        found.append(fit(model_of(), examples(), KEY, num_steps=7, optimiser=whole))
    looped, driven = found
    assert looped.terms.keys() == driven.terms.keys()
    for name, values in looped.terms.items():
        np.testing.assert_allclose(driven.terms[name], values, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        looped.variables, driven.variables,
    )  # fmt: skip


def test_convolutions_are_known_from_their_program():
    def convolution(x):
        return jax.lax.conv(x, jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")

    on_cpu = jax.default_backend() == "cpu"
    assert slow_in_loops(jax.make_jaxpr(jax.jit(convolution))(jnp.ones((1, 1, 4, 4)))) == on_cpu
    assert not slow_in_loops(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))))


def test_the_same_key_gives_the_same_model():
    one, two, other = (
        fit(model_of(), examples(), jax.random.key(i), num_steps=3).variables for i in (1, 1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    assert any((a != b).any() for a, b in leaves)


def test_real_valued_labels():
    model = model_of(label_likelihood=gaussian_likelihood(0.1), classes=1)
    data = examples()
    data = data._replace(labels=data.images.mean((1, 2))[:, None])
    fitted = fit(model, data, KEY, num_steps=200, optimiser=optax.adam(3e-3))
    s = infer(model, fitted.variables, data.images, KEY, steps=0).latents.s
    found = model.apply(fitted.variables, jnp.asarray(s), method="classify")
    assert np.corrcoef(np.ravel(found), np.ravel(data.labels))[0, 1] > 0.9


class Normalised(nn.Module):
    """Running averages and dropout, on in training."""

    train: bool

    @nn.compact
    def __call__(self, images):
        hidden = nn.Dense(16)(images.reshape(len(images), -1))
        hidden = nn.BatchNorm(use_running_average=not self.train)(hidden)
        return nn.Dropout(0.2, deterministic=not self.train)(nn.relu(hidden))


def test_running_averages_and_dropout_pass_through():
    data = examples()
    training = model_of(encoder=Normalised(train=True))
    fitted = fit(training, data, KEY, num_steps=100, optimiser=optax.adam(3e-3))
    averages = fitted.variables["batch_stats"]["encoder"]["BatchNorm_0"]
    assert float(jnp.abs(averages["mean"]).max()) > 0.01
    model = model_of(encoder=Normalised(train=False))
    assert accuracy(model, fitted.variables, data) > 0.9
    # The same by hand: the step goes with the collections.
    params = fitted.variables["params"]
    state = (jnp.zeros([], jnp.int32), {"batch_stats": fitted.variables["batch_stats"]})
    data = Examples(*map(jnp.asarray, data))
    _, ((step, after), _) = lacim_loss(training)(params, state, data, KEY)
    assert step == 1
    moved = after["batch_stats"]["encoder"]["BatchNorm_0"]["mean"]
    assert float(jnp.abs(moved - averages["mean"]).max()) > 0


class Noisy(nn.Module):
    """Running averages and dropout before a last layer."""

    shape: tuple[int, ...]
    train: bool = True

    @nn.compact
    def __call__(self, inputs):
        hidden = Normalised(train=self.train)(inputs)
        outputs = nn.Dense(int(np.prod(self.shape)))(hidden)
        return outputs.reshape(len(inputs), *self.shape)


@pytest.mark.parametrize("place", ["encoder", "decoder", "classifier"])
def test_every_module_may_draw_and_keep_averages(place):
    data = examples()

    def model_with(train):
        shape = {"encoder": (8,), "decoder": (4, 4), "classifier": (2,)}[place]
        return model_of().clone(**{place: Noisy(shape, train=train)})

    fitted = fit(model_with(True), data, KEY, num_steps=2)
    moved = jax.tree.leaves(fitted.variables["batch_stats"][place])
    assert all(np.isfinite(leaf).all() for leaf in moved)
    # Not under jit the input of a loss is looked at, at every call.
    params, averages = fitted.variables["params"], fitted.variables["batch_stats"]
    state = (jnp.zeros([], jnp.int32), {"batch_stats": averages})
    batch = Examples(*(jnp.asarray(leaf[:8]) for leaf in data))
    loss, _ = lacim_loss(model_with(True))(params, state, batch, KEY)
    assert np.isfinite(loss)
    found = predict(model_with(False), fitted.variables, data.images[:8], KEY, steps=0)
    assert found.probabilities.shape == (8, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": lambda e: (255 * e.images).astype(np.float32)}, "between 0 and 1, .* divide"),
        ({"images": lambda e: (255 * e.images).astype(np.uint8)}, "floating-point of shape"),
        ({"labels": lambda e: e.labels - 1}, "labels must lie between 0 and 1, .* got -1 to 0"),
        ({"labels": lambda e: e.labels + 1}, "labels must lie between 0 and 1"),
        ({"labels": lambda e: e.labels.astype(np.float32)}, "labels must be integers"),
        ({"labels": lambda e: np.where(e.labels, "a", "b")}, "coded"),
        ({"domains": lambda e: np.where(e.domains, 10, 20)}, "domains must lie between 0 and"),
        ({"domains": lambda e: 0 * e.domains}, "every one of the model's 2 domains needs"),
        ({"images": lambda e: e.images[:, :3]}, "shape"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_before_training(change, message):
    data = examples()
    data = data._replace(**{name: make(data) for name, make in change.items()})
    with pytest.raises((ValueError, TypeError), match=message):
        fit(model_of(), data, KEY, num_steps=1)


def test_training_that_diverges_says_so():
    with pytest.raises(ValueError, match="must stay finite, but from step"):
        fit(model_of(), examples(), KEY, num_steps=30, optimiser=optax.sgd(1e9))
    for wrong in ({"num_steps": 0}, {"batch_size": -2}, {"num_starts": -1}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} must be a whole number, .* got {value}"):
            fit(model_of(), examples(), KEY, **wrong)
