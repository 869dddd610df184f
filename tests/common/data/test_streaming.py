"""Streaming: images are decoded in the order asked for, scaled and cut alike, one batch ahead."""

import threading

import numpy as np
import pytest

from common.data import ImageStream, load, stream
from common.data.crops import central_crop
from tests.common.data.on_disk import DATA_DIR, needs


class Sized:
    """Images of different sizes and channels, each of one grey level: its index."""

    def __init__(self):
        self.asked, self.lock = [], threading.Lock()

    def __len__(self):
        return 30

    def __getitems__(self, indices):
        with self.lock:
            self.asked += indices
        shapes = [(20, 30 + i, 3) for i in indices]
        return [
            {"image": np.full(shape, i, np.uint8), "label": 2 * i}
            for i, shape in zip(indices, shapes, strict=True)
        ]


def opened():
    return ImageStream(Sized(), "image", "label", 60, "sized/train")


def test_batches_come_in_the_order_asked_for():
    rows = np.random.default_rng(0).integers(0, 30, size=(5, 4))
    found = list(opened().batches(rows, size=14, threads=3))
    assert len(found) == 5
    for own, (images, labels) in zip(rows, found, strict=True):
        assert (images.shape, images.dtype) == ((4, 14, 14, 3), np.uint8)
        np.testing.assert_array_equal(labels, 2 * own)
        np.testing.assert_array_equal(images[:, 7, 7, 0], own)
        np.testing.assert_array_equal(images[:, 0, 13, 2], own)


def test_only_one_batch_ahead_is_read():
    images = opened()
    batches = images.batches(iter(np.arange(30).reshape(10, 3)), size=7)
    next(batches)
    batches.close()  # waits for what is under way
    assert sorted(images.source.asked) == list(range(6))


@pytest.mark.parametrize("threads", [1, 4])
def test_random_crops_are_those_of_the_seed_whatever_the_threads(threads):
    images, rows = stream("mnist5k", "test"), np.arange(12).reshape(3, 4)
    found, again, other = (
        np.stack([b for b, _ in images.batches(rows, size=20, seed=seed, threads=n)])
        for seed, n in ((7, threads), (7, 3), (8, threads))
    )
    np.testing.assert_array_equal(found, again)
    assert (found != other).any()
    central = np.stack([b for b, _ in images.batches(rows, size=20)])
    assert (found != central).any()


def test_an_embedded_set_is_streamed_as_it_is_loaded():
    images, whole = stream("mnist5k", "test"), load("mnist5k", "test")
    ((pixels, labels),) = images.batches([np.arange(20)], size=28)
    np.testing.assert_array_equal(labels, whole.labels[:20])
    np.testing.assert_array_equal(pixels, [central_crop(image, 28) for image in whole.images[:20]])


@pytest.mark.parametrize("row", [-1, 30])
def test_images_that_are_not_there_are_refused(row):
    with pytest.raises(IndexError, match="has images 0 to 29"):
        next(opened().batches([np.array([row])], size=4))
    with pytest.raises(ValueError, match="size must be at least 1"):
        next(opened().batches([np.array([0])], size=0))


@needs("mnist")
def test_a_prepared_set_is_streamed_as_it_is_loaded():
    whole = load("mnist", "test[:40]", data_dir=DATA_DIR)
    images = stream("mnist", "test[:40]", data_dir=DATA_DIR)
    assert (len(images.source), images.num_classes) == (40, 10)
    ((pixels, labels),) = images.batches([np.arange(40)], size=28)
    np.testing.assert_array_equal(labels, whole.labels)
    np.testing.assert_array_equal(pixels, [central_crop(image, 28) for image in whole.images])
