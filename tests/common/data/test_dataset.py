"""from_arrays: what is a data set, and what is not."""

import numpy as np
import pytest

from common.data import from_arrays

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def test_adds_the_channel_and_makes_labels_int32():
    made = from_arrays(IMAGES, np.array([1, 0], np.uint8), num_classes=2, name="mine")
    np.testing.assert_array_equal(made.images, IMAGES[..., None])
    assert made.labels.dtype == np.int32
    assert made.labels.tolist() == [1, 0]
    assert (made.num_classes, made.name) == (2, "mine")


def test_a_class_may_have_no_image():
    assert from_arrays(IMAGES, np.array([0, 0]), num_classes=5).num_classes == 5


@pytest.mark.parametrize(
    ("images", "labels", "num_classes", "error", "match"),
    [
        (IMAGES.astype(np.float32), [0, 1], 2, TypeError, "uint8 .*got float32"),
        (IMAGES, [0.0, 1.0], 2, TypeError, "integers, got float64"),
        (IMAGES[0, 0], [0, 1], 2, ValueError, r"\[n, height, width, channels\], got \(4,\)"),
        (IMAGES, [0, 1, 1], 2, ValueError, r"one label per image, \[n\] = \[2\], got \(3,\)"),
        (IMAGES, [[0], [1]], 2, ValueError, "one label per image"),
        (IMAGES[:0], np.zeros(0, int), 2, ValueError, "at least one pixel"),
        (IMAGES[:, :0], [0, 1], 2, ValueError, "at least one pixel"),
        (IMAGES, [0, 2], 2, ValueError, "between 0 and num_classes - 1 = 1, got 0 to 2"),
        (IMAGES, [-1, -1], 2, ValueError, "got -1 to -1.*split without labels"),
        (IMAGES, [0, 0], 0, ValueError, "at least 1, got 0"),
    ],
)
def test_refuses(images, labels, num_classes, error, match):
    with pytest.raises(error, match=match):
        from_arrays(images, np.asarray(labels), num_classes=num_classes)
