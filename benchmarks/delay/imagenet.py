"""ResNet-50 with sixteen workers on images of ImageNet's shape: does compensation help at scale?

Synchronous SGD, m-synchronous SGD (m = 12, three quarters of the workers), ASGD, DC-ASGD-c and
DC-ASGD-a, as in dcasgd_cifar10, with training images that stay on disk: they are decoded and scaled
while the simulation runs. `full` reads imagenet2012 as tensorflow-datasets prepares it; its records
would enter the claim on delay compensation. The other presets run the same code on MNIST's digits,
14 pixels high, with networks a sixteenth as wide, and do not enter it: `day` too is too short for
such a network to learn much, and has one step, untuned. It shows that the code runs, not which
method is better. `full` has not been run: that four gradients at once fit into 80 GB is arithmetic,
4.5 GB each for the backward pass, counted from shapes before fusion; and the images would not fit
on any device, so that one run is trained at a time.

Published, ImageNet, 16 workers, batch 32, as reported (Zheng et al., ICML 2017,
https://arxiv.org/abs/1609.08326): top-1 error ASGD 25.64, synchronous SGD 25.30, DC-ASGD-a 25.18.

Cost: cpu 2 minutes on one core, day 4, most of it compilation; full was not run.
Command: python -m benchmarks dcasgd_imagenet --preset day --seeds 3
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from benchmarks.delay.images import Settings
from benchmarks.delay.report import (
    ADAPTIVE,
    ALL_SYNCHRONOUS,
    ASGD,
    CONSTANT,
    SYNCHRONOUS,
    TRAINING_CAPTION,
    plot_training,
    protocol_tables,
    worker_counts,
)
from benchmarks.delay.training import run
from common.results.records import Record

PUBLISHED = {(ASGD, 16): 25.64, (ALL_SYNCHRONOUS, 16): 25.30, (ADAPTIVE, 16): 25.18}
"""Top-1 errors in percent."""

_FULL = Settings(
    data="imagenet2012", depth=50, workers=(16,),
    methods=(ALL_SYNCHRONOUS, SYNCHRONOUS, ASGD, CONSTANT, ADAPTIVE), batch_size=32, epochs=90,
    evaluations=30, learning_rates=(0.0125, 0.025, 0.05), validation=0.01, test_size=10_000,
    bfloat16=True, image_size=224, test_split="validation", longest=4,
)  # fmt: skip
_FEWER = (SYNCHRONOUS, ASGD, ADAPTIVE)
_THIN = dataclasses.replace(
    _FULL, validation=0.1, bfloat16=False, test_split="test", evaluations=2, learning_rates=(0.1,),
    methods=_FEWER, rounds=_FEWER,
)  # fmt: skip

PRESETS = {
    "smoke": dataclasses.replace(
        _THIN, data="mnist5k", width=0.0625, train_size=768, test_size=300, batch_size=8, epochs=1,
        image_size=14,
    ),
    "cpu": dataclasses.replace(
        _THIN, data="mnist", width=0.0625, train_size=1024, test_size=500, batch_size=16, epochs=1,
        image_size=14, learning_rates=(0.04,),
    ),
    "day": dataclasses.replace(
        _THIN, data="mnist", width=0.0625, train_size=3072, test_size=1000, batch_size=16, epochs=2,
        image_size=14, learning_rates=(0.04,),
    ),
    "full": _FULL,
}  # fmt: skip

__all__ = ["CAPTIONS", "PRESETS", "plots", "run", "tables"]

CAPTIONS = {"curves.png": f"{TRAINING_CAPTION} m-synchronous SGD has m = 3M / 4, or 12."}


def tables(records: Sequence[Record]) -> str:
    """Each rule at its own step, and all at one; below, for ImageNet itself, what was published."""
    data = records[0].origin.get("configuration", {}).get("data")
    source = "Zheng et al., 2017, as reported: ResNet-50 on ImageNet, batch 32"
    return protocol_tables(records, PUBLISHED if data == _FULL.data else None, source=source)


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Accuracy during training, against data and against time."""
    # A run that was stopped may have nothing of ASGD yet.
    return [plot_training(records, out / "curves.png")] if worker_counts(records) else []
