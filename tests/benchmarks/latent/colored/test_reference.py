"""Beside the authors' code: their data, each image once, and what the table calls met."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent.colored import reference
from common.data.generated.colored_digits import ColoredDigits
from common.progress import Silent
from common.results.records import Record

TINY = dataclasses.replace(
    reference.PRESETS["smoke"], data="digits8x8", train_size=320, test_size=60, channels=(8, 8),
    classifier=(8,), batch_size=32, latents=2,
)  # fmt: skip


def record(method, accuracy, seed=0):
    metrics = {"validation_accuracy": 0.95, "test_accuracy": accuracy}
    return Record(method=method, setting={}, seed=seed, metrics=metrics, wall_time=0.0)


def test_the_cpu_preset_sees_as_many_images_as_the_reference():
    settings = reference.PRESETS["cpu"]
    kept = settings.train_size - settings.train_size // 10
    assert kept // settings.batch_size * settings.batch_size == 15_360


def test_images_get_a_margin_and_a_colour_that_is_never_there():
    images = jnp.ones((2, 28, 28, 2))
    colored = ColoredDigits(*[None] * len(ColoredDigits._fields))._replace(
        images=images, labels=jnp.zeros(2, int), domains=jnp.zeros(2, int)
    )
    padded = reference._examples(colored).images
    assert padded.shape == (2, 32, 32, 3)
    assert padded.sum() == images.sum()
    assert not padded[..., 2].any()
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2, :2], images)


@pytest.mark.usefixtures("standard_promotion")
def test_every_method_and_seed_has_a_record(tmp_path):
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    records = list(reference.run(dataclasses.replace(TINY, methods=("ERM", "LaCIM")), context))
    assert [(r.method, r.seed) for r in records] == [("ERM", 0), ("LaCIM", 0)]
    assert all(0 <= r.metrics["test_accuracy"] <= 1 for r in records)
    table = reference.tables(records)
    assert "84 to 86" in table
    assert [path.name for path in reference.plots(records, tmp_path)] == ["reference.png"]


@pytest.mark.parametrize(("accuracy", "word"), [(0.85, "met"), (0.83, "missed")])
def test_the_target_is_the_least_that_the_reference_reached(accuracy, word):
    records = [record("LaCIM", accuracy - 0.01), record("LaCIM", accuracy + 0.01, seed=1)]
    assert f"- LaCIM {100 * accuracy:.1f} (target 84, the reference's least: {word})" in (
        reference.tables(records)
    )
    assert "target" not in reference.tables([record("ERM", 0.8)])
