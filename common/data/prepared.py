"""Data sets that tensorflow-datasets has prepared as array_record files.

They are opened from their folder, `data_dir/name[/config]/version`, and described by the files in
it. So neither tensorflow nor the code that prepared them is needed, any version will do, and there
is nothing that could be downloaded.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common._absl_log import without_messages
from common.data import embedded
from common.data.dataset import Dataset, from_arrays

_INFO = "dataset_info.json"
_ADVICE = "OpenCV"  # which tensorflow-datasets recommends on the console
_CHUNK = 1024  # images decoded before they are packed into one array


class Opened(NamedTuple):
    """One split of a prepared data set, not yet decoded."""

    source: Any
    """tensorflow-datasets' data source: `len`, `__getitem__`, `__getitems__`."""
    image_key: str
    label_key: str
    num_classes: int
    """0 where the set does not say."""


def read(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Decodes one split of a prepared data set; `load` documents it."""
    opened = open_source(name, split, data_dir=data_dir)
    with without_messages(_ADVICE):
        images, labels = _decode(f"{name}/{split}", opened)
    return from_arrays(
        images,
        labels,
        num_classes=opened.num_classes or int(labels.max()) + 1,
        name=f"{name}/{split}",
    )


def open_source(name: str, split: str, *, data_dir: str | os.PathLike[str] | None = None) -> Opened:
    """Opens one split of a prepared data set without reading it.

    Args:
        name: of the set, with config and version where there are several.
        split: any split that it has, slices and sums included.
        data_dir: where prepared sets are; see `data_root`.

    Raises:
        FileNotFoundError: if the set is not prepared there.
        ValueError: if it is no image-classification set, or has no such split.
    """
    root = data_root(data_dir)
    folder = find(name, root)
    import tensorflow_datasets as tfds  # a second's import, needed from here on only

    with without_messages(_ADVICE):
        builder: Any = tfds.builder_from_directory(folder)
        image_key, label_key = _keys(name, builder.info, tfds)
        _check_format(name, builder.info, folder)
        _check_split(name, split, builder.info)
        source = builder.as_data_source(split=split)
    num_classes = builder.info.features[label_key].num_classes or 0
    return Opened(source, image_key, label_key, num_classes)


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where data sets are looked for.

    Args:
        data_dir: None for `$TFDS_DATA_DIR`, or `~/tensorflow_datasets` where that is not set.
    """
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, root: Path) -> Path:
    """The folder of a prepared data set.

    Args:
        name: "name", "name/config", "name:version" or "name/config:version".
        root: the data directory.

    Returns:
        `root/name[/config]/version`; of several versions the highest.

    Raises:
        FileNotFoundError: if the directory is missing or the set is not prepared in it.
        ValueError: if no data set has that name, or it has several configs and none is named.
    """
    match = re.fullmatch(r"(\w+)(?:/(\w[\w.+-]*))?(?::([\w.]+))?", name)
    if match is None:
        raise ValueError(f"a data set is named name[/config][:version], got {name!r}.")
    base, config, version = match.groups()
    versions = _versions(root / base / (config or ""))
    if not versions and config is None:
        configs = {p.name: v for p in _folders(root / base) if (v := _versions(p))}
        if len(configs) > 1:
            raise ValueError(
                f"{base!r} is prepared in {root} with several configs, so one must be named: "
                + ", ".join(f"{base}/{c}" for c in sorted(configs))
                + "."
            )
        versions = next(iter(configs.values()), {})
    if version is not None and versions:
        if version not in versions:
            raise FileNotFoundError(
                f"{base!r} is prepared in {root} in version {', '.join(versions)}, not {version}: "
                f"leave the version out, or prepare it.\n{_how_to_prepare(name, root)}"
            )
        return versions[version]
    if not versions:
        raise _not_prepared(name, base, root)
    # Compared number by number: 3.10.0 is later than 3.9.0.
    return versions[max(versions, key=lambda v: [int(n) for n in v.split(".")])]


def _versions(folder: Path) -> dict[str, Path]:
    return {
        p.name: p
        for p in _folders(folder)
        if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and (p / _INFO).is_file()
    }


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _not_prepared(name: str, base: str, root: Path) -> Exception:
    """The error for a set that is not there: misspelt, or still to be prepared."""
    import tensorflow_datasets as tfds

    here = [
        p.name
        for p in _folders(root)
        if _versions(p) or any(_versions(config) for config in _folders(p))
    ]
    listing = f"Prepared in {root}: {', '.join(here) or 'none'}."
    every = tfds.list_builders(with_community_datasets=False)
    if base not in every and not (root / base).is_dir():
        known = dict.fromkeys([*embedded.EMBEDDED, *here, *every])
        near = difflib.get_close_matches(base.lower(), known, n=3, cutoff=0.6)
        meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        return ValueError(
            f"no data set is called {name!r}.{meant} Embedded: {', '.join(embedded.EMBEDDED)}. "
            f"{listing} All names: tensorflow_datasets.list_builders()."
        )
    if not root.is_dir():
        listing = "That directory does not exist: pass data_dir or set TFDS_DATA_DIR to one."
    elif (root / _INFO).is_file() or _versions(root):
        listing = "It must be the directory above the data sets' own folders, not one of them."
    return FileNotFoundError(
        f"the data set {name!r} is not prepared in {root}. {listing} Sets that need no directory: "
        f"{', '.join(embedded.EMBEDDED)}.\n{_how_to_prepare(name, root)}"
    )


def _how_to_prepare(name: str, root: Path) -> str:
    return (
        "Preparing needs tensorflow and the network, reading needs neither; once, on any machine:\n"
        "    pip install tensorflow tensorflow-datasets\n"
        f"    tfds build {name} --data_dir={root} --file_format=array_record\n"
        f"That leaves {root / name.partition(':')[0]}/VERSION/{_INFO} and array_record files "
        "beside it; the folder may be copied."
    )


def _check_format(name: str, info: Any, folder: Path) -> None:
    stored = info.file_format.value
    if stored != "array_record":
        raise ValueError(
            f"{name!r} in {folder} must be stored as array_record, which is read without "
            f"tensorflow, but is stored as {stored}. Convert it where tensorflow is installed:\n"
            f"    tfds convert_format --dataset_version_dir={folder} "
            f"--out_file_format=array_record --out_dir=DATA_DIR/{info.full_name}"
            "\nand pass that DATA_DIR."
        )


def _check_split(name: str, split: str, info: Any) -> None:
    try:
        selected = info.splits[split]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the splits of {name!r} are {', '.join(info.splits)} (slices such as 'train[:90%]' "
            f"and sums such as 'train+test' are possible), got {split!r}."
        ) from error
    if selected.num_examples == 0:
        raise ValueError(f"{name}/{split} must hold at least one image, got none.")
    absent = [str(i.filename) for i in selected.file_instructions if not Path(i.filename).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{name!r} is not complete: {', '.join(absent)} is missing. Copy or prepare it again."
        )


def _keys(name: str, info: Any, tfds: Any) -> tuple[str, str]:
    """The names of the image and of the label feature."""
    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    keys = []
    for kind in (tfds.features.Image, tfds.features.ClassLabel):
        # By exact type: a labelled mask or a video of frames is no image to classify.
        matching = [key for key, feature in features.items() if type(feature) is kind]
        if len(matching) > 1:  # then the set itself says what is to be predicted from what
            matching = [key for key in matching if key in (info.supervised_keys or ())]
        if len(matching) != 1:
            listed = ", ".join(f"{k}: {type(f).__name__}" for k, f in features.items())
            raise ValueError(
                f"an image-classification set has one {kind.__name__} feature (or names it in "
                f"its supervised_keys), but {name!r} has {listed or type(info.features).__name__}."
            )
        keys += matching
    dtype = np.dtype(features[keys[0]].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"images must be uint8, but those of {name!r} are {dtype}.")
    return keys[0], keys[1]


def _decode(name: str, split: Opened) -> tuple[np.ndarray, ...]:
    """All images and labels of a data source."""
    source = split.source
    size = len(source)
    labels = np.empty(size, np.int64)
    images: np.ndarray | None = None
    for start in range(0, size, _CHUNK):
        stop = min(start + _CHUNK, size)
        for i, example in enumerate(source.__getitems__(range(start, stop)), start):
            image = example[split.image_key]
            if images is None:
                images = np.empty((size, *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise ValueError(
                    f"all images of {name} must be equally large, but the first is "
                    f"{images.shape[1:]} and number {i} is {image.shape}: resize them once with "
                    "pillow, and use from_arrays."
                )
            images[i], labels[i] = image, example[split.label_key]
    assert images is not None
    return images, labels
