"""The adversary: it descends, the encoder climbs, and nothing else is changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacim_jax import ERM, MLP, Examples, MLPEncoder, erm_loss
from lacim_jax.baselines import DANN, dann_loss
from tests.compiled import compiled_quickly

KEY = jax.random.key(0)
NETWORK = ERM(MLPEncoder((6,)), MLP((2,)), s_dim=3)
MODEL = DANN(NETWORK, adversary=MLP((5, 3)))
DATA = Examples(jax.random.normal(KEY, (9, 4)), jnp.arange(9) % 2, jnp.arange(9) % 3)
PARAMS = jax.jit(MODEL.init)(KEY, DATA.images)["params"]
STEP = jnp.zeros([], jnp.int32)


def adversary_risk(params):
    represented = NETWORK.apply({"params": params["network"]}, DATA.images, method="represent")
    logits = MLP((5, 3)).apply({"params": params["adversary"]}, represented)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), DATA.domains[:, None], 1).mean()


@pytest.mark.parametrize("strength", [0.0, 0.3, lambda step: jnp.where(step == 0, 0.3, 0.0)])
def test_the_network_climbs_what_the_adversary_descends(strength):
    loss = dann_loss(MODEL, weight=strength)
    grads, (step, terms) = compiled_quickly(jax.grad(loss, has_aux=True))(PARAMS, STEP, DATA, KEY)
    plain, adversary = compiled_quickly(
        lambda p: (
            jax.grad(lambda own: erm_loss(NETWORK)(own, (), DATA, KEY)[0])(p["network"]),
            jax.grad(adversary_risk)(p),
        )
    )(PARAMS)
    factor = 0.3 if callable(strength) else strength
    climbed = jax.tree.map(lambda g, a: g - factor * a, plain, adversary["network"])
    for found, due in zip(
        jax.tree.leaves((grads["network"], grads["adversary"])),
        jax.tree.leaves((climbed, adversary["adversary"])),
        strict=True,
    ):
        np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(terms["adversary"], adversary_risk(PARAMS), rtol=1e-6)
    assert step == 1


def test_the_labels_logits_are_those_of_the_network_alone():
    found = MODEL.apply({"params": PARAMS}, DATA.images)
    due = NETWORK.apply({"params": PARAMS["network"]}, DATA.images)
    np.testing.assert_array_equal(found, due)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight must be at least 0"):
        dann_loss(MODEL, weight=-1.0)
