"""Training: a pure step, the loop that takes it over epochs, its checkpoints and its figures.

loss = cross_entropy_loss(network.apply)
state = init_state(params, tx)
fitted = fit(train_step(loss, tx), state, (images, labels), epochs=10, ...)
"""

from common.training.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    NotANumberError,
    Restored,
    UnwrittenCheckpointError,
    leaves_with_nan,
)
from common.training.classification import (
    ApplyFn,
    MetricsFn,
    classification_metrics,
    cross_entropy_loss,
    evaluator,
    network_loss,
    network_metrics,
)
from common.training.epochs import Loop
from common.training.execution import Execution, Keys, at_once_with_convolutions, groups
from common.training.layouts import Layout, layout, place
from common.training.loop import DivergedError, Evaluate, Fit, fit
from common.training.step import (
    Batch,
    LossFn,
    ModelState,
    Step,
    StepInfo,
    TrainState,
    init_state,
    train_step,
)

__all__ = [
    "fit",
    "Fit",
    "DivergedError",
    "Keys",
    "Execution",
    "Loop",
    "Evaluate",
    "init_state",
    "train_step",
    "Step",
    "StepInfo",
    "TrainState",
    "LossFn",
    "Batch",
    "ModelState",
    "groups",
    "at_once_with_convolutions",
    "cross_entropy_loss",
    "network_loss",
    "classification_metrics",
    "network_metrics",
    "evaluator",
    "ApplyFn",
    "MetricsFn",
    "Checkpoints",
    "Restored",
    "DamagedCheckpointError",
    "NotANumberError",
    "UnwrittenCheckpointError",
    "leaves_with_nan",
    "Layout",
    "layout",
    "place",
]
