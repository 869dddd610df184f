"""Working dtypes and weak types."""

import jax.numpy as jnp
import numpy as np
import pytest

from dcasgd_jax._precision import cast_like, working_dtype

pytestmark = pytest.mark.usefixtures("optimised")


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["bfloat16"], "float32"),
        (["float16", "bfloat16"], "float32"),
        (["float32", "bfloat16"], "float32"),
        (["float64", "float16"], "float64"),
    ],
)
def test_the_working_dtype_is_the_widest_and_float32_at_least(x64, dtypes, expected):
    assert working_dtype(*(jnp.ones(2, dtype) for dtype in dtypes)) == expected


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_only_real_floating_point_has_one(dtype):
    with pytest.raises(TypeError, match=f"real floating-point .* got {dtype}.*optax.masked"):
        working_dtype(jnp.ones(2), jnp.ones(2, dtype))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("weak", [False, True])
def test_cast_like_gives_dtype_and_weak_type(shape, weak):
    reference = jnp.full(shape, 1.0) if weak else jnp.full(shape, 1.0, jnp.float32)
    assert reference.weak_type is weak
    values = np.arange(6.0, dtype=np.float16)[: int(np.prod(shape))].reshape(shape)
    got = cast_like(values, reference)
    assert (got.dtype, got.weak_type, got.shape) == (jnp.float32, weak, shape)
    np.testing.assert_array_equal(got, values)
