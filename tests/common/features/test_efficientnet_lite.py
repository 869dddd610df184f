"""EfficientNet-Lite0 has the published shapes, and its blocks compute what the paper says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.features import EfficientNetLite0, InvertedResidual, variables_from
from common.features.efficientnet_lite import DepthwiseConv

KEY = jax.random.key(0)

# Of each block, as published for B0: channels in and out, expanded, kernel, stride.
BLOCKS = [
    (32, 16, 32, 3, 1),
    (16, 24, 96, 3, 2), (24, 24, 144, 3, 1),
    (24, 40, 144, 5, 2), (40, 40, 240, 5, 1),
    (40, 80, 240, 3, 2), (80, 80, 480, 3, 1), (80, 80, 480, 3, 1),
    (80, 112, 480, 5, 1), (112, 112, 672, 5, 1), (112, 112, 672, 5, 1),
    (112, 192, 672, 5, 2), (192, 192, 1152, 5, 1), (192, 192, 1152, 5, 1), (192, 192, 1152, 5, 1),
    (192, 320, 1152, 3, 1),
]  # fmt: skip


def published(generator) -> dict[str, np.ndarray]:
    """Random tensors under the names and in the shapes of the published file."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(conv, norm, shape):
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    for i, (inside, out, wide, kernel, _) in enumerate(BLOCKS):
        if wide != inside:
            layer(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", (wide, inside, 1, 1))
        layer(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", (wide, 1, kernel, kernel))
        layer(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", (out, wide, 1, 1))
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    shapes.update({"_fc.weight": (1000, 1280), "_fc.bias": (1000,)})
    return {
        name: generator.uniform(0.5, 1.5, shape).astype(np.float32)
        if name.endswith("running_var")
        else generator.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def tensors():
    return published(np.random.default_rng(0))


def test_the_published_weights_fit_and_are_all_used(tensors):
    found = variables_from(tensors)
    network = EfficientNetLite0(classify=True)
    due = jax.eval_shape(network.init, KEY, jnp.zeros((1, 224, 224, 3)))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, due)
    assert sum(leaf.size for leaf in jax.tree.leaves(found["params"])) == 4_652_008
    kernel = found["params"]["block3"]["depthwise"]["kernel"]
    np.testing.assert_array_equal(
        kernel[1, 4, 0, 7], tensors["_blocks.3._depthwise_conv.weight"][7, 0, 1, 4]
    )


def test_every_layer_has_its_published_shape(tensors):
    variables = variables_from(tensors)

    def traced(variables, images):
        return EfficientNetLite0(classify=True).apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )

    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    logits, state = jax.eval_shape(traced, variables, images)
    assert logits.shape == (2, 1000)
    shapes = jax.tree.map(jnp.shape, state["intermediates"], is_leaf=lambda x: hasattr(x, "shape"))
    side = 112
    assert shapes["stem"]["__call__"][0] == (2, side, side, 32)
    for i, (_, out, wide, _, stride) in enumerate(BLOCKS):
        block, side = shapes[f"block{i}"], side // stride
        assert block["depthwise"]["__call__"][0] == (2, side, side, wide)
        assert block["__call__"][0] == (2, side, side, out)
    assert side == 7
    assert shapes["head"]["__call__"][0] == (2, 7, 7, 1280)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 1), (8, 3, 2), (7, 5, 2), (9, 5, 1)])
def test_depthwise_convolution_is_xlas_grouped_one(size, kernel, stride):
    x = jax.random.normal(KEY, (2, size, size + 1, 6))
    module = DepthwiseConv(kernel, stride)
    variables = module.init(jax.random.key(1), x)
    due = jax.lax.conv_general_dilated(
        x, variables["params"]["kernel"], (stride, stride), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6,
    )  # fmt: skip
    np.testing.assert_allclose(module.apply(variables, x), due, atol=1e-5)


def block_by_hand(x, tensors, i, kernel, stride):
    """One block in float64 NumPy, pixel by pixel, from PyTorch's tensors."""
    t = {k.removeprefix(f"_blocks.{i}."): np.asarray(v, float) for k, v in tensors.items()}

    def norm(x, name):
        centred = (x - t[f"{name}.running_mean"]) / np.sqrt(t[f"{name}.running_var"] + 1e-3)
        return centred * t[f"{name}.weight"] + t[f"{name}.bias"]

    def relu6(x):
        return np.clip(x, 0, 6)

    inputs = x
    if "_expand_conv.weight" in t:
        x = relu6(norm(x @ t["_expand_conv.weight"][:, :, 0, 0].T, "_bn0"))
    size = x.shape[1]
    out = -(-size // stride)
    gap = max((out - 1) * stride + kernel - size, 0)
    x = np.pad(x, ((0, 0), (gap // 2, gap - gap // 2), (gap // 2, gap - gap // 2), (0, 0)))
    filtered = np.empty((len(x), out, out, x.shape[-1]))
    for row in range(out):
        for column in range(out):
            top, left = row * stride, column * stride
            window = x[:, top : top + kernel, left : left + kernel]
            filtered[:, row, column] = np.einsum(
                "nijc,cij->nc", window, t["_depthwise_conv.weight"][:, 0]
            )
    x = relu6(norm(filtered, "_bn1"))
    x = norm(x @ t["_project_conv.weight"][:, :, 0, 0].T, "_bn2")
    return x + inputs if x.shape == inputs.shape else x


@pytest.mark.parametrize("i", [0, 2, 3])  # none expanded; one that is added; 5 x 5 with a stride
def test_a_block_is_what_its_formulas_say(tensors, i):
    inside, out, wide, kernel, stride = BLOCKS[i]
    variables = variables_from(tensors)
    own = {kind: variables[kind][f"block{i}"] for kind in variables}
    block = InvertedResidual(wide // inside, out, stride, kernel)
    x = 3 * np.random.default_rng(1).normal(size=(2, 6, 6, inside)).astype(np.float32)
    own_tensors = {k: v for k, v in tensors.items() if k.startswith(f"_blocks.{i}.")}
    due = block_by_hand(x.astype(float), own_tensors, i, kernel, stride)
    np.testing.assert_allclose(jax.jit(block.apply)(own, x), due, atol=2e-5)


def test_tensors_of_another_network_give_one_error(tensors):
    few = {name: value for name, value in tensors.items() if name != "_blocks.4._bn2.bias"}
    with pytest.raises(ValueError, match=r"lack _blocks\.4\._bn2\.bias"):
        variables_from(few)
    with pytest.raises(ValueError, match=r"has no _blocks\.0\._se_reduce\.weight"):
        variables_from({**tensors, "_blocks.0._se_reduce.weight": np.zeros(1)})
