"""The networks of the experiments, as Flax linen modules.

A module is used through two pure functions on plain parameter pytrees, which is all that the
methods of this repository ask of a model::

    network = resnet(20, num_classes=10)
    variables = jax.jit(network.init)(key, images[:1])        # jitted: faster than op by op
    params, batch_stats = variables["params"], variables["batch_stats"]

    logits = network.apply(variables, images)                 # evaluation: running averages
    logits, updated = network.apply(                          # training: the batch's statistics
        variables, images, train=True, mutable=["batch_stats"]
    )

Every network takes the keyword `train` and returns logits; the transformer takes integer tokens,
all others floating-point images.
"""

from common.networks.batch_norm import BatchNorm
from common.networks.blocks import Block
from common.networks.mlp import MLP
from common.networks.resnet import ResNet, plain, resnet
from common.networks.transformer import Transformer

__all__ = ["MLP", "resnet", "plain", "ResNet", "Transformer", "Block", "BatchNorm"]
