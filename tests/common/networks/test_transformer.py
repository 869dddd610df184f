"""The transformer against NumPy, what it may look at, and its rescaling group counted by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.networks import Transformer
from tests.compiled import compiled_quickly

SIZES = {"vocabulary": 7, "width": 6, "hidden": 5, "heads": 2, "layers": 2, "length": 5}
NETWORK = Transformer(**SIZES)
TOKENS = jnp.array([[3, 1, 4, 1, 5], [6, 0, 2, 6, 5]])


@pytest.fixture(scope="module")
def init():
    return jax.jit(NETWORK.init)


@pytest.fixture(scope="module")
def params(init):
    """Nothing is zero, so that all biases tell."""
    drawn = jax.eval_shape(init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), drawn)


@pytest.fixture(scope="module")
def apply():
    return compiled_quickly(lambda params, tokens: NETWORK.apply({"params": params}, tokens))


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def one_position_at_a_time(params, sequence):
    """The definition, written as loops over positions and heads, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embedding"]["embedding"][sequence] + p["positions"][: len(sequence)]
    for i in range(SIZES["layers"]):
        y, added, heads = norm(x), np.zeros_like(x), p[f"attention_{i}"]
        for t in range(len(x)):
            for h in range(SIZES["heads"]):
                query, key, value, out = (
                    np.moveaxis(heads[name]["kernel"], axis, 0)[h]
                    for name, axis in (("query", 1), ("key", 1), ("value", 1), ("out", 0))
                )
                scores = (y[: t + 1] @ key) @ (y[t] @ query) / math.sqrt(query.shape[1])
                weights = np.exp(scores - scores.max())
                added[t] += (weights / weights.sum()) @ (y[: t + 1] @ value) @ out
        x = x + added
        up, down = p[f"up_{i}"], p[f"down_{i}"]
        hidden = np.maximum(norm(x) @ up["kernel"] + up["bias"], 0)
        x = x + hidden @ down["kernel"] + down["bias"]
    return norm(x) @ p["logits"]["kernel"] + p["logits"]["bias"]


def test_against_numpy(params, apply):
    wanted = np.stack([one_position_at_a_time(params, row) for row in np.asarray(TOKENS)])
    np.testing.assert_allclose(apply(params, TOKENS), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", range(5))
def test_a_token_is_seen_from_its_own_position_on_and_not_before(position, params, apply):
    changed = TOKENS.at[0, position].set((TOKENS[0, position] + 1) % 7)
    before, after = apply(params, TOKENS), apply(params, changed)
    np.testing.assert_array_equal(after[0, :position], before[0, :position])
    assert (np.abs(after[0, position:] - before[0, position:]).max(-1) > 1e-3).all()
    np.testing.assert_array_equal(after[1], before[1])  # another sequence


def test_order_matters_by_positions_alone(params, apply):
    """Without them, what is said last is the same for all orders of what came before."""
    swapped = TOKENS[:, jnp.array([2, 0, 3, 1, 4])]
    one, other = apply(params, TOKENS), apply(params, swapped)
    assert np.abs(one[:, -1] - other[:, -1]).max() > 1e-3
    # One layer: in a second, what earlier positions say would differ by what they themselves see.
    shallow = Transformer(**{**SIZES, "layers": 1})
    without = {**params, "positions": jnp.zeros_like(params["positions"])}
    quickly = compiled_quickly(shallow.apply)
    one, other = (quickly({"params": without}, tokens) for tokens in (TOKENS, swapped))
    np.testing.assert_allclose(one[:, -1], other[:, -1], atol=1e-5)


def test_initialisation():
    """Kernels of standard deviation sqrt(gain / fan-in), the stream's of 1 / sqrt(width)."""
    big = Transformer(300, width=64, hidden=256, heads=4, layers=1, length=50)
    shapes = jax.eval_shape(big.init, jax.random.key(0), TOKENS)["params"]
    with jax.default_prng_impl("rbg"):  # compiles faster
        draw = compiled_quickly(big.init)
        drawn, again = (draw(jax.random.key(i), TOKENS)["params"] for i in (0, 1))
    assert shapes["attention_0"]["query"]["kernel"].shape == (64, 4, 16)
    assert shapes["attention_0"]["out"]["kernel"].shape == (4, 16, 64)
    for leaf, sd in (
        (drawn["embedding"]["embedding"], 64**-0.5),
        (drawn["positions"], 64**-0.5),
        (drawn["attention_0"]["key"]["kernel"], 64**-0.5),
        (drawn["attention_0"]["out"]["kernel"], 64**-0.5),
        (drawn["up_0"]["kernel"], (2 / 64) ** 0.5),
        (drawn["down_0"]["kernel"], 256**-0.5),
        (drawn["logits"]["kernel"], 64**-0.5),
    ):
        np.testing.assert_allclose(np.std(leaf), sd, rtol=0.05)
    assert not any(np.any(drawn[name]["bias"]) for name in ("up_0", "down_0", "logits"))
    assert not any("norm" in name for name in drawn)  # norms have no weights
    assert not np.array_equal(drawn["positions"], again["positions"])


def test_bfloat16_computes_in_half_precision_and_keeps_parameters(
    params, apply, standard_promotion
):
    half = Transformer(**SIZES, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), TOKENS)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    small = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    logits = compiled_quickly(half.apply)({"params": small}, TOKENS)
    exact = apply(small, TOKENS)
    assert logits.dtype == jnp.float32
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.1)


def test_what_does_not_fit_is_refused(init):
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="must be integer tokens, got float32"):
        init(key, jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"at most 5 positions, got \(1, 6\)"):
        init(key, jnp.zeros((1, 6), jnp.int32))
    with pytest.raises(ValueError, match=r"\[batch, positions\].* got \(5,\)"):
        init(key, jnp.zeros(5, jnp.int32))
    with pytest.raises(ValueError, match="multiple of heads, got width 6 and 4 heads"):
        Transformer(**{**SIZES, "heads": 4}).init(key, TOKENS)
