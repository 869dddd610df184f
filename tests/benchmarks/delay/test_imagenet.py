"""Streamed training in the smallest form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.delay import imagenet as dcasgd_imagenet
from benchmarks.delay import images as asynchronous_images
from benchmarks.delay.images import Streamed
from benchmarks.delay.report import ASGD
from benchmarks.harness.registry import Context
from common.progress import Silent

SETTINGS = dataclasses.replace(
    dcasgd_imagenet.PRESETS["smoke"], data="digits8x8", methods=(ASGD,), rounds=(ASGD,),
    depth=8, width=0.125, train_size=40, test_size=20, batch_size=2, evaluations=2, image_size=8,
)  # fmt: skip


def test_images_are_read_while_the_simulation_runs():
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    with jax.numpy_dtype_promotion("standard"):  # optax's step schedules mix int32 and floats
        (record,) = dcasgd_imagenet.run(SETTINGS, context)
    assert list(record.curve["gradients"]) == [10, 20]
    assert record.setting["workers"] == 16
    assert np.isfinite(record.metrics["train_loss"])
    assert 0 <= record.metrics["test_accuracy"] <= 1
    assert ASGD in dcasgd_imagenet.tables([record])


def test_training_images_are_others_than_those_chosen_and_tested_on():
    data = asynchronous_images.load_data(SETTINGS, None)
    assert isinstance(data.train, Streamed)
    assert len(data.train.rows) == len(set(data.train.rows.tolist())) == 40
    assert data.test[0].shape == (20, 8, 8, 1)
    assert data.validation[0].dtype == jnp.float32
    images, labels = next(data.train.batches(np.arange(6).reshape(1, 6), seed=0))
    assert (images.shape, images.dtype) == ((6, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(
        labels, data.train.images.source.dataset.labels[data.train.rows[:6]]
    )
