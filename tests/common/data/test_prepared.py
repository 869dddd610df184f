"""Prepared data sets: what is on disk arrives, and every way to be missing is explained."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data import load
from tests.oracles.prepared_dataset import image_feature, label_feature, prepare, scalar_feature

ROOT = Path(__file__).resolve().parents[3]
IMAGES = np.random.default_rng(0).integers(0, 256, (25, 5, 6, 3), dtype=np.uint8)
LABELS = np.arange(25) % 3
FEATURES = {"image": image_feature(5, 6, 3), "label": label_feature(3)}


def examples(rows, image="image", label="label"):
    return [{image: IMAGES[i], label: LABELS[i]} for i in rows]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Holds toy, with two versions; shapes, with two configs; single, with one."""
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": examples(range(20)), "validation": examples(range(20, 25))}
    for version, rows in (
        ("9.0.0", {"train": examples(range(3))}),
        ("10.0.0", splits),
        ("2.0.0", {"train": splits["validation"]}),
    ):
        prepare(root / "toy" / version, name="toy", splits=rows, features=FEATURES, shards=2)
    for config, rows in (("big", range(4)), ("small", range(4, 6))):
        folder = root / "shapes" / config / "1.0.0"
        prepare(
            folder,
            name="shapes",
            splits={"train": examples(rows)},
            features=FEATURES,
            config=config,
        )
    folder = root / "single" / "only" / "1.0.0"
    prepare(folder, name="single", splits={"test": examples([7])}, features=FEATURES, config="only")
    return root


def test_arrives_as_it_was_written(data_dir):
    train = load("toy", data_dir=data_dir)
    np.testing.assert_array_equal(train.images, IMAGES[:20])
    np.testing.assert_array_equal(train.labels, LABELS[:20])
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert (train.num_classes, train.name) == (3, "toy/train")


def test_more_images_than_are_decoded_at_once(data_dir, monkeypatch):
    monkeypatch.setattr("common.data.prepared._CHUNK", 3)
    np.testing.assert_array_equal(load("toy", data_dir=data_dir).images, IMAGES[:20])


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("validation", range(20, 25)),
        ("train[:15%]", range(3)),
        ("train[18:]+validation[:2]", [18, 19, 20, 21]),
        ("all", range(25)),
    ],
)
def test_splits_slices_and_sums(data_dir, split, rows):
    np.testing.assert_array_equal(load("toy", split, data_dir=data_dir).images, IMAGES[list(rows)])


def test_grey_images_keep_their_channel(tmp_path):
    grey = [{"image": IMAGES[i, ..., :1], "label": 0} for i in range(3)]
    features = {"image": image_feature(5, 6, 1), "label": label_feature(1)}
    prepare(tmp_path / "grey" / "1.0.0", name="grey", splits={"train": grey}, features=features)
    got = load("grey", data_dir=tmp_path)
    np.testing.assert_array_equal(got.images, IMAGES[:3, ..., :1])


def test_highest_version_unless_one_is_named(data_dir):
    assert len(load("toy", data_dir=data_dir).images) == 20  # 10.0.0, not 9.0.0 or 2.0.0
    assert len(load("toy:2.0.0", data_dir=data_dir).images) == 5


def test_configs(data_dir):
    assert len(load("shapes/small", data_dir=data_dir).images) == 2
    assert len(load("shapes/big:1.0.0", data_dir=data_dir).images) == 4
    assert len(load("single", "test", data_dir=data_dir).images) == 1  # needs no choice
    with pytest.raises(ValueError, match="one must be named: shapes/big, shapes/small"):
        load("shapes", data_dir=data_dir)


def test_data_dir_from_the_environment(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(load("toy").images) == 20
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tensorflow_datasets").symlink_to(data_dir)
    assert len(load("toy").images) == 20
    assert len(load("toy", data_dir="~/tensorflow_datasets").images) == 20


def test_features_are_found_by_type_whatever_their_names(tmp_path):
    features = {
        "picture": image_feature(5, 6, 3),
        "id": scalar_feature("int64"),
        "kind": label_feature(3),
    }
    rows = [{**e, "id": 7} for e in examples(range(2), "picture", "kind")]
    prepare(tmp_path / "toy" / "1.0.0", name="toy", splits={"train": rows}, features=features)
    np.testing.assert_array_equal(load("toy", data_dir=tmp_path).labels, LABELS[:2])


def test_of_several_labels_the_supervised_one(tmp_path):
    features = {**FEATURES, "coarse": label_feature(1)}
    rows = [{**e, "coarse": 0} for e in examples(range(3))]
    write = {"name": "toy", "splits": {"train": rows}, "features": features}
    prepare(tmp_path / "told" / "toy" / "1.0.0", **write, supervised=("image", "label"))
    np.testing.assert_array_equal(load("toy", data_dir=tmp_path / "told").labels, LABELS[:3])
    prepare(tmp_path / "untold" / "toy" / "1.0.0", **write)
    with pytest.raises(ValueError, match=r"one ClassLabel feature.*coarse: ClassLabel"):
        load("toy", data_dir=tmp_path / "untold")


@pytest.mark.parametrize(
    ("features", "match"),
    [
        ({"image": image_feature(5, 6, 3)}, r"one ClassLabel feature .* has image: Image"),
        ({"label": label_feature(3)}, r"one Image feature .* has label: ClassLabel"),
        ({**FEATURES, "image": image_feature(5, 6, 1, dtype="uint16")}, "must be uint8.*uint16"),
    ],
)
def test_refuses_what_is_no_image_classification(tmp_path, features, match):
    prepare(
        tmp_path / "toy" / "1.0.0", name="toy", splits={"train": examples([0])}, features=features
    )
    with pytest.raises(ValueError, match=match):
        load("toy", data_dir=tmp_path)


def test_refuses_images_of_different_sizes(tmp_path):
    rows = [*examples(range(2)), {"image": IMAGES[2, :4], "label": 0}]
    features = {**FEATURES, "image": image_feature(None, None, 3)}
    prepare(
        tmp_path / "toy" / "1.0.0",
        name="toy",
        splits={"train": rows, "test": rows[:2]},
        features=features,
    )
    with pytest.raises(ValueError, match=r"equally large.*\(5, 6, 3\) and number 2 is \(4, 6, 3\)"):
        load("toy", data_dir=tmp_path)
    np.testing.assert_array_equal(load("toy", "test", data_dir=tmp_path).images, IMAGES[:2])


def test_refuses_unlabelled_and_mislabelled_splits(tmp_path):
    for i, label in enumerate((-1, 3)):
        rows = [{"image": IMAGES[0], "label": label}]
        root = tmp_path / str(i)
        prepare(root / "toy" / "1.0.0", name="toy", splits={"train": rows}, features=FEATURES)
        with pytest.raises(
            ValueError, match=rf"labels of toy/train must .* got {label} to {label}"
        ):
            load("toy", data_dir=root)


def test_unknown_name_gets_the_nearest(data_dir):
    for wrong, right in (
        ("minst", "mnist"),
        ("CIFAR10", "cifar10"),
        ("mnist5", "mnist5k"),
        ("tooy", "toy"),
    ):
        with pytest.raises(
            ValueError, match=rf"called '{wrong}'.*Did you mean .*'{right}'"
        ) as error:
            load(wrong, data_dir=data_dir)
        assert "mnist5k, digits8x8" in str(error.value)
        assert "shapes, single, toy" in str(error.value)
        assert "list_builders" in str(error.value)
    with pytest.raises(ValueError, match=r"named name\[/config\]\[:version\], got '\.\./toy'"):
        load("../toy", data_dir=data_dir)


def test_missing_directory_and_unprepared_set_say_what_to_do(data_dir, tmp_path):
    for root, why in (
        (tmp_path / "nowhere", "does not exist: pass data_dir or set TFDS_DATA_DIR"),
        (data_dir, "Prepared in .*: shapes, single, toy"),
        (data_dir / "toy", "must be the directory above"),
        (data_dir / "toy" / "10.0.0", "must be the directory above"),
    ):
        with pytest.raises(FileNotFoundError, match=why) as error:
            load("cifar100", data_dir=root)
        message = str(error.value)
        assert f"tfds build cifar100 --data_dir={root} --file_format=array_record" in message
        assert f"{root}/cifar100/VERSION/dataset_info.json" in message


def test_absent_version_names_those_there_are(data_dir):
    with pytest.raises(FileNotFoundError, match=r"version 10\.0\.0, 2\.0\.0, 9\.0\.0, not 3\.0\.1"):
        load("toy:3.0.1", data_dir=data_dir)


def test_interrupted_preparation_counts_as_none(tmp_path):
    (tmp_path / "mnist" / "3.0.1.incompleteABC").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"'mnist' is not prepared in .*: none"):
        load("mnist", data_dir=tmp_path)


def test_missing_shard_is_named(data_dir, tmp_path):
    shutil.copytree(data_dir / "toy" / "10.0.0", tmp_path / "toy" / "10.0.0")
    (tmp_path / "toy" / "10.0.0" / "toy-train.array_record-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match=r"not complete: .*toy-train.array_record-00001-of"):
        load("toy", data_dir=tmp_path)
    assert len(load("toy", "train[:10]", data_dir=tmp_path).images) == 10  # is all there


def test_other_formats_are_refused_with_the_command_that_converts(tmp_path):
    folder = tmp_path / "toy" / "1.0.0"
    prepare(
        folder,
        name="toy",
        splits={"train": examples([0])},
        features=FEATURES,
        file_format="tfrecord",
    )
    with pytest.raises(
        ValueError, match=r"stored as array_record.* is stored as tfrecord"
    ) as error:
        load("toy", data_dir=tmp_path)
    assert f"tfds convert_format --dataset_version_dir={folder}" in str(error.value)
    assert "--out_dir=DATA_DIR/toy/1.0.0" in str(error.value)


@pytest.mark.parametrize("split", ["test", "train[:", "", "train[:0]"])
def test_unknown_and_empty_splits(data_dir, split):
    with pytest.raises(ValueError, match=r"train, validation \(slices|at least one image"):
        load("toy", split, data_dir=data_dir)


def test_nothing_is_logged_and_the_logger_is_left_alone(data_dir, caplog):
    before = list(logging.getLogger("absl").filters)
    with caplog.at_level(logging.DEBUG):
        load("toy", data_dir=data_dir)
    assert "OpenCV" not in caplog.text
    assert logging.getLogger("absl").filters == before


def test_neither_tensorflow_nor_the_network(data_dir, tmp_path):
    """In a fresh process where tensorflow fails on import and no socket opens."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise AssertionError('tensorflow')")
    program = """
import json, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from common.data import load

found = {"toy": len(load("toy", data_dir=sys.argv[1]).images)}
for name in ("mnist", "nonsense"):
    try:
        load(name, data_dir=sys.argv[1])
    except (FileNotFoundError, ValueError) as error:
        found[name] = type(error).__name__
found["loaded"] = "tensorflow" in sys.modules
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(data_dir)],
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "PYTHONPATH": f"{tmp_path}:{ROOT}",
            "JAX_PLATFORMS": "cpu",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = {"toy": 20, "mnist": "FileNotFoundError", "nonsense": "ValueError", "loaded": False}
    assert json.loads(done.stdout) == expected
