"""Image-classification data as arrays, whichever way it is stored.

    train = load("mnist5k", "train")                                # comes with a dependency
    train = load("cifar10", "train", data_dir="~/tensorflow_datasets")  # prepared by tfds
    train, validation = train_validation_split(train, keys.data, fraction=0.1)

    statistics = pixel_statistics(train.images)                     # of the train split only
    images = standardise(train.images, statistics)                  # float32, on the device
    for images, labels in batches((images, train.labels), 128, key=keys.order, epochs=10):
        ...

What does not fit into memory is streamed::

    for images, labels in stream("imagenet2012", "train").batches(rows, size=224):
        ...

Data of several domains have a domain beside each label::

    whole = read_folders("PACS")                        # or read_npz(path)
    train, validation, test = leave_one_out(whole, "sketch", keys.data)

Nothing here touches the network, and nothing imports tensorflow.
"""

from common.data.augmentation import pad_crop_flip, random_crop, random_flip
from common.data.batches import batches, epoch_order
from common.data.dataset import Dataset, from_arrays
from common.data.domains import (
    DomainDataset,
    DomainSplit,
    from_domains,
    leave_one_out,
    read_npz,
)
from common.data.embedded import EMBEDDED
from common.data.image_folders import NICO, PACS, read_folders
from common.data.loading import load
from common.data.pixels import (
    PixelStatistics,
    as_float,
    pixel_statistics,
    pooled,
    standardise,
)
from common.data.prepared import data_root
from common.data.splits import take, train_validation_split
from common.data.streaming import ImageStream, stream

__all__ = [
    "Dataset",
    "load",
    "EMBEDDED",
    "data_root",
    "from_arrays",
    "train_validation_split",
    "take",
    "epoch_order",
    "batches",
    "as_float",
    "PixelStatistics",
    "pixel_statistics",
    "standardise",
    "pooled",
    "random_crop",
    "random_flip",
    "pad_crop_flip",
    "stream",
    "ImageStream",
    "DomainDataset",
    "DomainSplit",
    "from_domains",
    "read_npz",
    "read_folders",
    "PACS",
    "NICO",
    "leave_one_out",
]
