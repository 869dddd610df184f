"""The baseline: its loss, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lacim_jax import ERM, MLP, Examples, MLPEncoder, erm_loss

KEY = jax.random.key(0)
MODEL = ERM(MLPEncoder((16,)), MLP((2,)), s_dim=3)


def data(n=64):
    images = jax.random.normal(KEY, (n, 5))
    return Examples(images, (images[:, 0] > 0).astype(jnp.int32), jnp.arange(n) % 2)


def test_the_loss_is_the_cross_entropy_whatever_the_domain():
    examples = data()
    params = jax.jit(MODEL.init)(KEY, examples.images)["params"]
    value, (state, metrics) = erm_loss(MODEL)(params, "state", examples, KEY)
    logits = MODEL.apply({"params": params}, examples.images)
    wanted = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels).mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    assert state == "state"
    assert metrics == {}
    elsewhere = examples._replace(domains=examples.domains + 7)
    np.testing.assert_array_equal(erm_loss(MODEL)(params, (), elsewhere, KEY)[0], value)


def test_all_passes_through_the_latents_and_all_is_trained():
    examples = data()
    params = jax.jit(MODEL.init)(KEY, examples.images)["params"]
    assert params["head"]["kernel"].shape == (16, 3)
    gradient = jax.jit(jax.grad(erm_loss(MODEL), has_aux=True))
    sizes = jax.tree.map(lambda g: float(jnp.abs(g).max()), gradient(params, (), examples, KEY)[0])
    assert min(jax.tree.leaves(sizes)) > 0
    first, _ = erm_loss(MODEL)(params, (), examples, KEY)
    for _ in range(50):
        grads, _ = gradient(params, (), examples, KEY)
        params = jax.tree.map(lambda w, g: w - 0.3 * g, params, grads)
    assert erm_loss(MODEL)(params, (), examples, KEY)[0] < 0.2 * first
