"""The decoder looks back only, and its parts lie in the stages of a pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.delay.language import network, rules
from dcasgd_jax import pipeline_delays


@pytest.fixture(scope="module")
def made():
    decoder = network.Size(width=8, heads=2, layers=1, length=6).network()
    params = jax.jit(decoder.init)(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    # The logits start at zero, and would hide everything.
    params["head"]["logits"]["kernel"] = jax.random.normal(jax.random.key(1), (8, 256))
    return decoder, params


def test_no_logit_depends_on_a_later_byte(made):
    decoder, params = made
    tokens = jnp.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 9]])
    logits = decoder.apply({"params": params}, tokens)
    np.testing.assert_allclose(logits[0, :3], logits[1, :3], atol=1e-6)
    assert np.abs(logits[0, 3] - logits[1, 3]).max() > 1e-3


def test_the_loss_is_the_mean_surprise_at_the_next_byte(made):
    decoder, params = made
    rows = np.array([[7, 8, 9, 1]])
    logits = np.asarray(decoder.apply({"params": params}, jnp.asarray(rows[:, :-1])), np.float64)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.mean([np.log(chances[0, t, rows[0, t + 1]]) for t in range(3)])
    found = network.next_byte_loss(decoder, params, jnp.asarray(rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_stages_follow_the_network_and_their_delays_fall(made):
    _, params = made
    stages = network.stage_of_parts(params, 3)
    assert stages == {
        "embedding": 0, "positions": 0, "attention_0": 0, "feed_forward_0": 1, "head": 2,
    }  # fmt: skip
    delays = pipeline_delays(params, stages)
    assert delays["positions"] == 2
    assert set(jax.tree.leaves(delays["head"])) == {0}
    assert set(network.stage_of_parts(params, 1).values()) == {0}
    with pytest.raises(ValueError, match="1 to 3 stages, got 4"):
        network.stage_of_parts(params, 4)


def test_muon_gets_the_matrices_of_blocks_and_nothing_else(made):
    _, params = made
    numbers = rules.matrices_of_blocks(params)
    assert numbers["embedding"]["embedding"] is None
    assert numbers["head"]["logits"]["kernel"] is None
    assert numbers["attention_0"]["norm"]["scale"] is None
    assert all(numbers["attention_0"][name]["kernel"] for name in ("query", "key", "value", "out"))
