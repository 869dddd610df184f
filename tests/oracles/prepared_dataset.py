"""Small data sets in the format of tensorflow-datasets, written without tensorflow."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

_PACKAGE = "tensorflow_datasets.core.features."


def image_feature(*shape: int | None, dtype: str = "uint8") -> dict[str, Any]:
    dimensions = [str(-1 if size is None else size) for size in shape]
    return {
        "pythonClassName": _PACKAGE + "image_feature.Image",
        "image": {"dtype": dtype, "shape": {"dimensions": dimensions}},
    }


def label_feature(num_classes: int) -> dict[str, Any]:
    return {
        "pythonClassName": _PACKAGE + "class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(num_classes)},
    }


def scalar_feature(dtype: str) -> dict[str, Any]:
    return {
        "pythonClassName": _PACKAGE + "scalar.Scalar",
        "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"},
    }


def prepare(
    folder: Path,
    *,
    name: str,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    features: Mapping[str, Any],
    shards: int = 1,
    supervised: tuple[str, str] | None = None,
    file_format: str = "array_record",
    config: str | None = None,
) -> Path:
    """Writes the data set into `folder`, whose name is the version; images become PNG.

    Every example of a split maps each feature's name to an array (image) or an int.
    """
    folder.mkdir(parents=True)
    tree = {
        "pythonClassName": _PACKAGE + "features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }
    (folder / "features.json").write_text(json.dumps(tree))
    listed = []
    for split, examples in splits.items():
        bounds = np.linspace(0, len(examples), shards + 1).astype(int)
        for shard in range(shards):
            path = folder / f"{name}-{split}.{file_format}-{shard:05d}-of-{shards:05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for example in examples[bounds[shard] : bounds[shard + 1]]:
                writer.write(_serialise(example))
            writer.close()
        listed.append(
            {
                "name": split,
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(n) for n in np.diff(bounds)],
            }
        )
    info: dict[str, Any] = {
        "name": name,
        "version": folder.name,
        "fileFormat": file_format,
        "splits": listed,
    }
    if config is not None:
        info["configName"] = config
    if supervised is not None:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": k} for k in supervised]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def _serialise(example: Mapping[str, Any]) -> bytes:
    message = tf_example_pb2.Example()
    for key, value in example.items():
        feature = message.features.feature[key]
        if isinstance(value, np.ndarray):
            file = io.BytesIO()
            Image.fromarray(value[..., 0] if value.shape[-1] == 1 else value).save(file, "PNG")
            feature.bytes_list.value.append(file.getvalue())
        else:
            feature.int64_list.value.append(int(value))
    return message.SerializeToString()
