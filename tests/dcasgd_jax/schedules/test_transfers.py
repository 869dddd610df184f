"""Transfer times: bytes over bandwidth, in each direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dcasgd_jax import transfer_times

TREE = {"a": jnp.zeros((3, 4)), "b": jax.ShapeDtypeStruct((10,), jnp.bfloat16)}
BYTES = 12 * 4 + 10 * 2


def test_seconds_are_latency_and_bytes_over_bandwidth():
    link = transfer_times(
        TREE, download=[10.0, 20.0], upload=5.0, latency=[0.5, 0.25], compression=4.0
    )
    np.testing.assert_allclose(link.download, [0.5 + BYTES / 10, 0.25 + BYTES / 20])
    np.testing.assert_allclose(link.upload, [0.5 + BYTES / 20, 0.25 + BYTES / 20])
    halved = transfer_times(TREE, download=1.0, upload=1.0, snapshot_dtype=jnp.bfloat16)
    assert (halved.download, halved.upload) == (22 * 2, BYTES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("download", 0.0),
        ("upload", [1.0, -1.0]),
        ("upload", np.nan),
        ("latency", -0.1),
        ("upload", "fast"),
        ("download", [[1.0]]),
        ("compression", 0.0),
    ],
)
def test_errors_name_what_came(name, value):
    options = {"download": 1.0, "upload": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        transfer_times(TREE, **options)


def test_links_of_different_numbers_of_workers_are_refused():
    with pytest.raises(ValueError, match=r"one number for each worker, got \[2, 3\] numbers"):
        transfer_times(TREE, download=[1.0] * 3, upload=1.0, latency=[0.0] * 2)


def test_plain_numbers_are_parameters_too():
    assert transfer_times({"w": 1.0}, download=1.0, upload=2.0) == (4.0, 2.0)
