"""The full MNIST and CIFAR-10, where they are prepared."""

import numpy as np

from common.data import load, pixel_statistics
from tests.common.data.on_disk import DATA_DIR, needs


@needs("mnist")
def test_mnist():
    train, test = (load("mnist", split, data_dir=DATA_DIR) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    statistics = pixel_statistics(train.images)
    np.testing.assert_allclose(statistics.mean, [0.13066], atol=5e-6)
    np.testing.assert_allclose(statistics.sd, [0.30811], atol=5e-6)
    # Published class counts of the test split.
    expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(test.labels), expected)

    # As documented, the embedded digits are images of the train split, with its labels.
    full = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    small = load("mnist5k", "all")
    assert [full[image.tobytes()] for image in small.images] == small.labels.tolist()
    assert not {image.tobytes() for image in small.images} & {i.tobytes() for i in test.images}


@needs("cifar10")
def test_cifar10():
    # A fifth of the train split: decoding all of it takes ten seconds and more.
    part = load("cifar10", "train[:20%]", data_dir=DATA_DIR)
    assert part.images.shape == (10000, 32, 32, 3)
    assert part.num_classes == 10
    # Images differ in mean colour by about 0.12, so 10,000 of them are within 0.005.
    statistics = pixel_statistics(part.images)
    np.testing.assert_allclose(statistics.mean, [0.49140, 0.48216, 0.44653], atol=0.005)
    np.testing.assert_allclose(statistics.sd, [0.24703, 0.24349, 0.26159], atol=0.005)
    assert np.bincount(part.labels).min() > 900
    assert len(load("cifar10", "test[-1%:]", data_dir=DATA_DIR).images) == 100
