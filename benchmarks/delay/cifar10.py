"""ResNet-20 on CIFAR-10 under asynchrony: what delay compensation gives back of what delays cost.

SGD with one worker; synchronous SGD (all M gradients of a round), m-synchronous SGD (the first
three quarters of them), ASGD, DC-ASGD-c and DC-ASGD-a with 4 and 8 workers, against gradients and
against simulated time. Two protocols: each rule at its own tuned learning rate, and all at one that
ASGD does not bear, if there is one. Lambdas are the published ones, 0.04 and 2 with m = 0.95.

Published test errors, 160 epochs, batch 128, step 0.5 divided by 10 at 80 and 120 (Zheng et al.,
ICML 2017, https://arxiv.org/abs/1609.08326): SGD 8.65; with 4 / 8 workers ASGD 9.27 / 10.26,
synchronous SGD 9.17 / 10.10, DC-ASGD-c 8.67 / 9.27, DC-ASGD-a 8.19 / 8.57. `full` is that setting.
`cpu` is a ResNet-20 of a quarter of the channels on few images at a quarter of the resolution:
neither the accuracies nor, within their spread, the order of the methods are to be compared with
the published ones.

`day` is the network with which `gsgd_cifar10` reaches 80% soonest on two cores, ResNet-8 with twice
the channels and a first convolution of stride 2, on all images at full resolution, with 8 workers
and batches of 32, for 5 epochs in which steps rise for a fifth of the updates and then fall to
zero. Steps are tried by successive halving: all five for one epoch from two seeds, the best one for
all epochs from all seeds. SGD, m-synchronous SGD and 4 workers are left to `full`.

Cost: cpu 2 minutes on one core, day six hours of a busy one. Full is sized for one accelerator: a
run keeps 0.4 GB for its backward pass (counted from shapes, before fusion), and the 15 runs of a
method are trained side by side, 6 GB. It was not run.
Command: python -m benchmarks dcasgd_cifar10 --preset day --seeds 3
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from benchmarks.delay.images import Settings
from benchmarks.delay.report import (
    ADAPTIVE,
    ALL_SYNCHRONOUS,
    ASGD,
    CONSTANT,
    METHODS,
    SGD,
    STEPS_CAPTION,
    TRAINING_CAPTION,
    plot_tolerance,
    plot_training,
    protocol_tables,
    worker_counts,
)
from benchmarks.delay.training import run
from benchmarks.harness.halving import Halving, grid, reported
from common.results.records import Record

PUBLISHED = {
    (SGD, 1): 8.65,
    (ASGD, 4): 9.27,
    (ALL_SYNCHRONOUS, 4): 9.17,
    (CONSTANT, 4): 8.67,
    (ADAPTIVE, 4): 8.19,
    (ASGD, 8): 10.26,
    (ALL_SYNCHRONOUS, 8): 10.10,
    (CONSTANT, 8): 9.27,
    (ADAPTIVE, 8): 8.57,
}
"""Test errors in percent (Zheng et al., 2017); m-synchronous SGD is not among them."""

_FULL = Settings(
    data="cifar10", depth=20, workers=(4, 8), methods=METHODS, batch_size=128, epochs=160,
    evaluations=32, learning_rates=(0.125, 0.25, 0.5, 1.0, 2.0), augment=True, at_once=15,
)  # fmt: skip
_THIN = dataclasses.replace(_FULL, width=0.25, pool=2, augment=False)

PRESETS = {
    "smoke": dataclasses.replace(
        _THIN, data="mnist5k", depth=8, workers=(4,), train_size=640, test_size=500,
        batch_size=16, epochs=3, evaluations=2, learning_rates=(0.1, 0.4),
    ),
    "cpu": dataclasses.replace(
        _THIN, pool=4, train_size=1280, test_size=1000, batch_size=32, epochs=2, evaluations=2,
        learning_rates=(0.1, 0.4),
    ),
    "day": dataclasses.replace(
        _FULL, depth=8, width=2.0, stem="3x3, stride 2", workers=(8,), augment=False,
        methods=(ALL_SYNCHRONOUS, ASGD, CONSTANT, ADAPTIVE), batch_size=32, epochs=5,
        evaluations=5, learning_rates=(0.1, 0.2, 0.4, 0.8, 1.6), course="rise and fall",
        halving=Halving(factor=5, seeds=2),
    ),
    "full": _FULL,
}  # fmt: skip

__all__ = ["CAPTIONS", "PRESETS", "plots", "run", "tables"]

CAPTIONS = {
    "curves.png": f"{TRAINING_CAPTION} m-synchronous SGD has m = 3M / 4, synchronous SGD m = M.",
    "steps.png": STEPS_CAPTION,
}
tables = functools.partial(
    protocol_tables,
    published=PUBLISHED,
    source="Zheng et al., 2017: ResNet-20 at full width, 160 epochs on all of CIFAR-10",
)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy during training, against data and against time; and the steps each rule bears."""
    # A run that was stopped may have nothing of the whole budget, or nothing of ASGD at all.
    finished, tried = worker_counts(reported(records)), worker_counts(grid(records))
    curves = [plot_training(records, out / "curves.png")] if finished else []
    return [*curves, *([plot_tolerance(records, out / "steps.png")] if tried else [])]
