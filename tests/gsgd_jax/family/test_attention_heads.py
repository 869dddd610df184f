"""Balanced heads: the same product, equal Gram matrices, the least norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsgd_jax.family import balance_heads

pytestmark = pytest.mark.usefixtures("x64")


def head(heads=3, shared=1, seed=0):
    draw = np.random.default_rng(seed).normal
    value, bias = draw(size=(10, heads, 4)), draw(size=(heads, 4))
    return tuple(jnp.asarray(w) for w in (value, draw(size=(heads * shared, 4, 7)), bias))


def products(value, output, bias):
    shared = output.shape[0] // value.shape[1]
    value, bias = jnp.repeat(value, shared, axis=1), jnp.repeat(bias, shared, axis=0)
    return jnp.einsum("fhc,hco->hfo", value, output), jnp.einsum("hc,hco->ho", bias, output)


@pytest.mark.parametrize("shared", [1, 2])
def test_balanced_factors_of_the_same_product(shared):
    weights = head(shared=shared)
    found = jax.jit(balance_heads)(*weights)
    for one, other in zip(products(*found), products(*weights), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)
    value, output, bias = found
    norms = []
    for h in range(3):
        rows = jnp.concatenate([value[:, h], bias[h][None]])
        columns = jnp.concatenate(list(output[h * shared : (h + 1) * shared]), axis=1)
        np.testing.assert_allclose(rows.T @ rows, columns @ columns.T, rtol=1e-9, atol=1e-11)
        singular = np.linalg.svd(rows @ columns, compute_uv=False)
        norms.append(jnp.sum(rows**2) + jnp.sum(columns**2) - 2 * singular.sum())
    np.testing.assert_allclose(norms, 0, atol=1e-9)
    for one, other in zip(balance_heads(*found), found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_the_trace_alone():
    value, output, _ = head()
    found = balance_heads(value, output, trace_only=True)
    assert found[2] is None
    np.testing.assert_allclose(
        jnp.sum(found[0] ** 2, (0, 2)), jnp.sum(found[1] ** 2, (1, 2)), rtol=1e-12
    )
    ratio = found[0] / value
    np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:1, :, :1], ratio.shape), rtol=1e-12)
    np.testing.assert_allclose(found[1] * ratio[0, :, :1, None], output, rtol=1e-12)


def test_low_rank_zeros_and_precision():
    value, output, _ = head()
    thin = value.at[..., 2:].set(0)
    found = balance_heads(thin, output)
    np.testing.assert_allclose(
        jnp.einsum("fhc,hco->hfo", *found[:2]),
        jnp.einsum("fhc,hco->hfo", thin, output),
        rtol=1e-9,
        atol=1e-11,
    )
    for trace_only in (False, True):
        zero = balance_heads(jnp.zeros_like(value), output, trace_only=trace_only)
        assert np.isfinite(zero[0]).all()
        assert np.isfinite(zero[1]).all()
    half = balance_heads(value.astype(jnp.bfloat16), output.astype(jnp.bfloat16))
    assert half[0].dtype == half[1].dtype == jnp.bfloat16


def test_bad_shapes(unchecked):
    value, output, bias = head()
    for bad in ((value[0], output, None), (value, output[:2], None), (value, output, bias[:1])):
        with pytest.raises(ValueError, match=r"value must be \[features, heads, channels\]"):
            balance_heads(*bad)
