"""Copies of one function trained side by side: starts agree, and records tell them apart."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space.rescaled import conditioning
from benchmarks.path_space.rescaled.tasks import problem
from common.progress import Silent
from tests.compiled import as_users_do

TASK = dataclasses.replace(
    conditioning.PRESETS["smoke"].tasks[0], sizes=(6, 5), train_size=96, validation_size=40,
    test_size=40, epochs=6,
)  # fmt: skip


def test_all_starts_are_one_function():
    given = problem(TASK, None)
    images = given.train[0][:8]
    drawn = conditioning.torch_default(given.init(jax.random.key(0)), jax.random.key(1))
    expected = given.apply(drawn, images)
    for make in conditioning.STARTS.values():
        np.testing.assert_allclose(given.apply(make(drawn, given), images), expected, atol=1e-4)
    sizes = [
        float(jnp.abs(conditioning.STARTS[name](drawn, given)["layer_0"]["kernel"]).max())
        for name in (conditioning.DRAWN, conditioning.BALANCED, conditioning.CONDITIONED)
    ]
    assert len(set(sizes)) == 3
    for i, width in enumerate((64, 6, 5)):
        layer = drawn[f"layer_{i}"]
        assert 0.7 < float(jnp.abs(layer["kernel"]).max()) * width**0.5 <= 1
        assert 0 < float(jnp.abs(layer["bias"]).max()) * width**0.5 <= 1


def test_records_tables_and_figure(tmp_path):
    settings = conditioning.Settings(tasks=(TASK,), rates=(1e-3, 0.3))
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    with as_users_do():
        records = list(conditioning.run(settings, context))
    assert len(records) == 3 * 2 * 2
    # One function, so one accuracy before the first step; after one at a tiny step nearly so.
    tiny = [r for r in records if r.setting["learning_rate"] == 1e-3 and r.seed == 0]
    losses = [r.curve["loss"][0] for r in tiny]
    assert np.ptp(losses) < 0.05
    chosen = [r for r in records if r.setting["learning_rate"] == 0.3]
    assert min(r.metrics["loss"] for r in chosen) < 0.95 * min(losses)
    assert {r.metrics["seconds_to_rescale"] > 0 for r in records} == {True}
    text = conditioning.tables(records)
    assert "### MLP 2 x 6" in text
    assert "test accuracy % at 0.001" in text
    assert "conditioned once - as drawn" in text
    assert re.search(
        r"conditioned once against as drawn: better in \S+ of 1 comparisons, worse in \S+ at the "
        r"published step; better in \S+ of 1 .* by points of test accuracy: [+-]\d", text,
    )  # fmt: skip
    (figure,) = conditioning.plots(records, tmp_path)
    assert figure.name in conditioning.CAPTIONS
    assert figure.stat().st_size > 5000


@pytest.mark.parametrize("preset", conditioning.PRESETS)
def test_networks_have_names_of_their_own(preset):
    names = [conditioning.name_of(task) for task in conditioning.PRESETS[preset].tasks]
    assert len(set(names)) == len(names)
    assert conditioning.PUBLISHED_RATE in conditioning.PRESETS[preset].rates
