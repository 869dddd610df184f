"""Augmentation: every offset occurs, nothing is invented, each image is drawn for by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.augmentation import pad_crop_flip, random_crop, random_flip

KEY = jax.random.key(0)
# Pixels all different and never 0, so that a window tells where it was cut.
ONE = np.arange(1, 6 * 7 * 2 + 1, dtype=np.uint8).reshape(6, 7, 2)


def copies(n):
    return jnp.asarray(np.broadcast_to(ONE, (n, *ONE.shape)))


def windows(padding):
    """Every window of the padded image, by its corner; an independent enumeration."""
    height, width, channels = ONE.shape
    padded = np.zeros((height + 2 * padding, width + 2 * padding, channels), np.uint8)
    padded[padding : padding + height, padding : padding + width] = ONE
    span = range(2 * padding + 1)
    return {padded[i : i + height, j : j + width].tobytes(): (i, j) for i in span for j in span}


def test_crops_are_windows_and_all_equally_likely():
    n, padding = 4500, 1
    where = windows(padding)
    cropped = np.asarray(
        jax.jit(random_crop, static_argnames="padding")(KEY, copies(n), padding=padding)
    )
    times = np.zeros((3, 3))
    for image in cropped:
        times[where[image.tobytes()]] += 1  # fails where an image is no window
    # Each of nine has mean 500 and standard deviation 21; five of them.
    assert np.abs(times - n / 9).max() < 105


def test_the_usual_padding_reaches_every_offset():
    where = windows(4)
    assert len(where) == 81
    cropped = np.asarray(random_crop(KEY, copies(2000)))
    assert {where[image.tobytes()] for image in cropped} == set(where.values())


def test_flips_half_of_the_images_and_nothing_else():
    n = 2000
    flipped = np.asarray(random_flip(KEY, copies(n)))
    mirrored = np.array([image.tobytes() == ONE[:, ::-1].tobytes() for image in flipped])
    same = np.array([image.tobytes() == ONE.tobytes() for image in flipped])
    assert (mirrored ^ same).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    # Neighbours are independent: the product of two fair signs has mean zero.
    signs = 2.0 * mirrored - 1
    assert abs((signs[1:] * signs[:-1]).mean()) < 5 / np.sqrt(n)


def test_crop_and_flip_together_are_independent():
    where = windows(1)
    mirror = {
        np.frombuffer(w, np.uint8).reshape(ONE.shape)[:, ::-1].tobytes(): c
        for w, c in where.items()
    }
    counts = np.zeros((2, 3, 3))
    for image in np.asarray(pad_crop_flip(KEY, copies(9000), padding=1)):
        key = image.tobytes()
        # The centred window of no symmetric image is its own mirror, so exactly one holds.
        assert (key in where) != (key in mirror)
        counts[(1, *mirror[key]) if key in mirror else (0, *where[key])] += 1
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_dtype_and_shape_are_kept(dtype):
    images = copies(4).astype(dtype)
    out = pad_crop_flip(KEY, images, padding=2)
    assert (out.shape, out.dtype) == (images.shape, dtype)
    expected = pad_crop_flip(KEY, copies(4), padding=2)
    np.testing.assert_array_equal(np.asarray(out, np.float64), np.asarray(expected, np.float64))


def test_the_key_decides_also_inside_jit_and_vmap():
    images, keys = copies(16), jax.random.split(KEY, 2)
    out = pad_crop_flip(keys[0], images)
    jitted = jax.jit(pad_crop_flip)
    np.testing.assert_array_equal(out, jitted(keys[0], images))
    np.testing.assert_array_equal(out, jitted(keys[0], images))
    other = jitted(keys[1], images)
    assert not np.array_equal(out, other)
    both = jax.jit(jax.vmap(pad_crop_flip, in_axes=(0, None)))(keys, images)
    np.testing.assert_array_equal(both, np.stack([out, other]))


def test_no_key_is_used_twice():
    with jax.debug_key_reuse(True):
        pad_crop_flip(jax.random.key(5), copies(2))


def test_no_padding_moves_nothing():
    np.testing.assert_array_equal(random_crop(KEY, copies(5), padding=0), copies(5))


def test_an_empty_batch_stays_empty():
    assert pad_crop_flip(KEY, copies(0)).shape == (0, *ONE.shape)


@pytest.mark.parametrize("augment", [random_crop, random_flip, pad_crop_flip])
def test_refuses_a_single_image(augment):
    with pytest.raises(ValueError, match=r"\[n, height, width, channels\], got \(6, 7, 2\)"):
        augment(KEY, jnp.asarray(ONE))


def test_refuses_negative_padding():
    with pytest.raises(ValueError, match="at least 0 pixels, got -1"):
        random_crop(KEY, copies(2), padding=-1)
