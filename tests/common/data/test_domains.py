"""Data of several domains: folders and files are read as they are laid out, or refused."""

import jax
import numpy as np
import pytest
from PIL import Image

from common.data import (
    NICO,
    PACS,
    from_domains,
    leave_one_out,
    read_folders,
    read_npz,
)
from tests.common.data import on_disk
from tests.common.data.on_disk import needs_pacs

KEY = jax.random.key(0)
CLASSES, DOMAINS = ("cat", "dog"), ("art", "photo", "sketch")


def dataset(n=60):
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return from_domains(
        images, np.arange(n) % 2, np.arange(n) // 2 % 3, class_names=CLASSES, domain_names=DOMAINS
    )


def test_one_domain_is_left_out_and_the_others_are_renumbered():
    whole = dataset()
    parts = leave_one_out(whole, "photo", KEY, validation_fraction=0.2)
    assert parts.train.domain_names == ("art", "sketch", "photo")
    sizes = [len(part.images) for part in parts]
    assert sizes == [32, 8, 20]
    # Every image is in one part, and kept its label and its domain's name.
    which = np.concatenate([part.images[:, 0, 0, 0] for part in parts])
    assert sorted(which) == list(range(60))
    for part in parts:
        source = part.images[:, 0, 0, 0]
        np.testing.assert_array_equal(part.labels, whole.labels[source])
        assert [part.domain_names[d] for d in part.domains] == [
            whole.domain_names[d] for d in whole.domains[source]
        ]
    assert set(parts.test.domains) == {2}
    # Two images of each class of each training domain.
    np.testing.assert_array_equal(
        np.bincount(parts.validation.labels * 2 + parts.validation.domains), [2, 2, 2, 2]
    )


def test_a_split_is_the_keys():
    splits = [leave_one_out(dataset(), "art", key, validation_fraction=0.5) for key in (KEY, KEY)]
    np.testing.assert_array_equal(splits[0].validation.images, splits[1].validation.images)
    other = leave_one_out(dataset(), "art", jax.random.key(1), validation_fraction=0.5)
    assert (other.validation.images != splits[0].validation.images).any()


@pytest.mark.parametrize(
    ("held_out", "fraction", "message"),
    [("cartoon", 0.1, "no domain 'cartoon'; it has art"), ("art", 1.0, "below 1, got 1.0")],
)
def test_a_split_that_cannot_be_is_refused(held_out, fraction, message):
    with pytest.raises(ValueError, match=message):
        leave_one_out(dataset(), held_out, KEY, validation_fraction=fraction)


def test_one_domain_alone_leaves_nothing_to_train_on():
    alone = from_domains(
        np.zeros((1, 2, 2, 1), np.uint8),
        np.array([0]),
        np.array([0]),
        class_names=["cat"],
        domain_names=["art"],
    )
    with pytest.raises(ValueError, match="one domain only"):
        leave_one_out(alone, "art", KEY)
    named = alone._replace(domain_names=("art", "photo"))
    with pytest.raises(ValueError, match="of arrays only are of 'art'; leave another"):
        leave_one_out(named, "art", KEY)
    with pytest.raises(ValueError, match="of arrays none are of 'photo'; leave another"):
        leave_one_out(named, "photo", KEY)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((2, 2), np.int64)}, TypeError, "uint8 or floating-point, got int64"),
        ({"images": np.full((2, 2), np.nan)}, ValueError, "NaN or infinity"),
        ({"images": np.zeros((0, 2), np.uint8)}, ValueError, "at least one pixel"),
        ({"labels": np.array([0.0, 1.0])}, TypeError, "labels .* must be integers"),
        ({"labels": np.array([0, 2])}, ValueError, "labels .* between 0 and 1, .* got 0 to 2"),
        ({"domains": np.array([0])}, ValueError, r"domains .* one per image, \[2\], got \(1,\)"),
        ({"domains": np.array([-1, 0])}, ValueError, "domains .* got -1 to 0"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(changes, error, message):
    fields = {
        "images": np.zeros((2, 2), np.uint8),
        "labels": np.array([0, 1]),
        "domains": np.array([0, 1]),
    } | changes
    with pytest.raises(error, match=message):
        from_domains(**fields, class_names=CLASSES, domain_names=DOMAINS[:2])


def test_a_file_gives_back_what_was_saved(tmp_path):
    whole = dataset()
    columns = {name: value for name, value in whole._asdict().items() if name != "name"}
    np.savez(tmp_path / "animals.npz", **columns)
    found = read_npz(tmp_path / "animals.npz")
    assert found.name == "animals"
    for name, value in columns.items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_a_file_that_is_none_is_refused_and_nothing_is_unpickled(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set at"):
        read_npz(tmp_path / "animals.npz")
    np.savez(tmp_path / "animals.npz", images=np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="lacks the arrays labels, domains"):
        read_npz(tmp_path / "animals.npz")
    columns = {name: np.array([object()]) for name in dataset()._fields}
    np.savez(tmp_path / "objects.npz", **columns)
    with pytest.raises(ValueError, match="got pickled objects, which could run any program"):
        read_npz(tmp_path / "objects.npz")


def folders(root, levels):
    """Two images of each class in each domain, each of one colour, the second twice as large."""
    for i, class_name in enumerate(CLASSES):
        for j, domain in enumerate(DOMAINS):
            names = {"class": class_name, "domain": domain}
            folder = root.joinpath(*(names[level] for level in levels))
            folder.mkdir(parents=True)
            for k in range(2):
                side = 8 * (k + 1)
                Image.new("RGB", (side, side), (100 * i, 50 * j, 10 * k)).save(folder / f"{k}.png")
            (folder / "notes.txt").write_text("no image")


@pytest.mark.parametrize("levels", [PACS, NICO])
def test_folders_are_read_as_they_are_laid_out(levels, tmp_path):
    folders(tmp_path, levels)
    found = read_folders(tmp_path, levels=levels, size=4)
    assert found.images.shape == (12, 4, 4, 3)
    assert (found.class_names, found.domain_names) == (CLASSES, DOMAINS)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], 100 * found.labels)
    np.testing.assert_array_equal(found.images[:, 3, 3, 1], 50 * found.domains)
    part = read_folders(tmp_path, levels=levels, size=4, classes=["dog"], domains=["sketch", "art"])
    assert (part.class_names, part.domain_names) == (("dog",), ("sketch", "art"))
    np.testing.assert_array_equal(part.images[:, 0, 0, 1], np.where(part.domains == 0, 100, 0))


def test_folders_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="CLASS/DOMAIN/NAME"):
        read_folders(tmp_path / "NICO", levels=NICO)
    with pytest.raises(ValueError, match="holds no image as DOMAIN/CLASS/NAME"):
        read_folders(tmp_path)
    folders(tmp_path, PACS)
    with pytest.raises(FileNotFoundError, match="no class called cow; it has cat, dog"):
        read_folders(tmp_path, classes=["cow"])
    with pytest.raises(ValueError, match="in some order, got"):
        read_folders(tmp_path, levels=("class", "class"))
    with pytest.raises(ValueError, match="size must be at least 1"):
        read_folders(tmp_path, size=0)
    broken = tmp_path / "art" / "cat" / "0.png"
    broken.write_bytes(broken.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image"):
        read_folders(tmp_path)


@needs_pacs()
def test_pacs_has_its_published_counts():
    whole = read_npz(on_disk.PACS)
    assert whole.images.shape == (9991, 64, 64, 3)
    assert len(whole.class_names) == 7
    counts = dict(zip(whole.domain_names, np.bincount(whole.domains), strict=True))
    assert counts == {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
    parts = leave_one_out(whole, "sketch", KEY)
    assert len(parts.test.images) == 3929
