"""How networks are written twice, and what parameters they are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.path_space.architectures.architecture import drawn, stacked


def test_layers_of_every_way_of_naming_them_become_one_tree():
    def layers(*numbers):
        return [{"w": jnp.full((2,), float(n))} for n in numbers]

    zero, one = layers(0, 1)
    tree = {
        "deep": {"stack": {0: zero, 1: one}, "last": jnp.ones(3)},
        "stack_a": [zero, one],
        "stack1_1": one,
        "stack1_0": zero,
    }
    found = stacked(tree)
    assert sorted(found) == ["deep", "stack1", "stack_a"]
    assert found["deep"]["last"].shape == (3,)
    for layers_found in (found["deep"]["stack"], found["stack_a"], found["stack1"]):
        np.testing.assert_array_equal(layers_found["w"], [[0.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize("gain", [1.0, 6.0])
def test_random_parameters_are_never_near_zero_and_kernels_have_both_signs(gain):
    shapes = {"kernel": (3, 3, 2, 5), "bias": (4,), "scale": (4,), "offset": ()}
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    params = drawn(tree, 0, gain)
    assert {name: p.shape for name, p in params.items()} == shapes
    assert min(np.abs(p).min() for p in params.values()) > 0.05
    assert (np.abs(params["scale"]) >= 0.5 * gain).all()
    signs = np.sign(params["kernel"]).sum(axis=(0, 1, 2))
    np.testing.assert_array_equal(signs, 0)
    assert not (drawn(tree, 1)["kernel"] == params["kernel"]).all()
