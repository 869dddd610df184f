"""Features of images by a network pretrained on ImageNet, which is kept as it is.

    whole = read_npz("pacs_64.npz")                     # images and domains, by common.data
    features = frozen_features(whole.images)            # float32 [n, 1280]; stored for the next run

The weights come with a package, in the extra `features`; nothing is downloaded here, and nothing
in their file is executed.
"""

from common.features.efficientnet_lite import EfficientNetLite0, InvertedResidual
from common.features.extraction import cache_folder, frozen_features
from common.features.pretrained import pretrained_variables, variables_from
from common.features.torch_file import read_tensors

__all__ = [
    "frozen_features",
    "cache_folder",
    "EfficientNetLite0",
    "InvertedResidual",
    "pretrained_variables",
    "variables_from",
    "read_tensors",
]
