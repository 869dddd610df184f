"""The flip test: data with the stated moments, every method recorded, verdicts from records."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import flip as lacim_flip
from benchmarks.latent.flip import Column, load_parts
from benchmarks.latent.reports.flip import CHOSEN, ERM_, LACIM, LIKELIHOOD, POOLED
from common.progress import Silent
from common.results.records import Record

SETTINGS = lacim_flip.Settings(
    taus=(0.5,), size=200, held_out=60, test_size=80, batch_size=50, epochs=1, num_samples=2,
    search_steps=(0, 2), search_weights=(0.0, 1.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def records():
    context = Context(seeds=(0, 1), data_dir=None, progress=Silent())
    # optax.adam corrects its bias by decay ** count, float32 by int32.
    with jax.numpy_dtype_promotion("standard"):
        return list(lacim_flip.run(SETTINGS, context))


def test_the_data_have_the_moments_that_are_stated():
    """Covariances of x by domain, and P(y = 1 | x1 > 0), 0.783 and 0.708 as computed elsewhere."""
    settings = dataclasses.replace(SETTINGS, size=40_000, held_out=10, test_size=40_000)
    columns = [Column(0.5, 0), Column(1.0, 1)]
    parts = load_parts(settings, columns)
    for c, (tau, _) in enumerate(columns):
        noise = np.array([tau, settings.v_noise])
        train, test = (
            jax.tree.map(lambda leaf, c=c: np.asarray(leaf[:, c], np.float64), part)
            for part in (parts.train, parts.test)
        )
        groups = [(train, 0, 0.9), (train, 1, 0.8), (test, 0, -0.9)]
        for part, domain, rho in groups:
            x = part.images[part.domains == domain] * noise
            due = np.array([[1 + tau**2, rho], [rho, 1 + settings.v_noise**2]])
            np.testing.assert_allclose(np.cov(x.T), due, atol=0.04)
        right = (test.images[:, 0] > 0) == test.labels
        np.testing.assert_allclose(right.mean(), {0.5: 0.783, 1.0: 0.708}[tau], atol=0.008)


def test_every_method_is_recorded_by_its_name_with_tau_and_accuracy(records):
    found = {(r.method, r.seed) for r in records}
    methods = (ERM_, LIKELIHOOD, POOLED, LACIM, CHOSEN)
    assert found == {(method, seed) for method in methods for seed in (0, 1)}
    assert len(found) == len(records)
    for record in records:
        assert record.setting == {"tau": 0.5}
        assert 0 <= record.metrics["accuracy"] <= 1
    curves = [r.curve["step"] for r in records if r.method == LACIM]
    assert curves == [[0.0, 2.0]] * 2


def test_the_weight_of_x2_is_read_off_a_linear_decoder():
    """s is read from x1 alone if and only if v does not show in it."""
    model = lacim_flip.build(SETTINGS, LACIM)
    x, d = jax.numpy.zeros((1, 2)), jax.numpy.zeros(1, jax.numpy.int32)
    params = model.init(jax.random.key(0), x, d)["params"]
    column, dense = Column(0.5, 0), params["decoder"]["MLP_0"]["Dense_0"]

    def weight(kernel):  # from (s, v) to x in units of its own
        noise = np.array([0.5, SETTINGS.v_noise])
        dense["kernel"] = jax.numpy.asarray(np.array(kernel) / noise, np.float32)
        return lacim_flip._weight_of_x2(model, {"params": params}, column, SETTINGS)

    assert abs(weight([[2.0, 0.7], [0.0, 3.0]])) < 1e-6
    # x1 = 2 s + v, x2 = 3 v: s = x1 / 2 - x2 / 6
    np.testing.assert_allclose(weight([[2.0, 0.0], [1.0, 3.0]]), -1 / 3, rtol=1e-5)


def test_verdicts_follow_from_the_records(tmp_path):
    def record(method, accuracy, seed, curve=None):
        return Record(
            method=method, setting={"tau": 0.5}, seed=seed, metrics={"accuracy": accuracy},
            curve=curve or {}, wall_time=0.0,
        )  # fmt: skip

    def table(lacim):
        records = [
            record(method, accuracy, seed)
            for seed in (0, 1)
            for method, accuracy in [(ERM_, 0.65), (LIKELIHOOD, 0.78), (LACIM, lacim)]
        ]
        return lacim_flip.tables(records)

    assert "target 0.08: met" in table(0.77)
    assert "target -0.02: met" in table(0.77)
    assert "target 0.08: met" in table(0.74)
    assert "target -0.02: missed" in table(0.74)
    assert "target 0.08: missed" in table(0.7)


def test_plots_are_made_of_the_records(records, tmp_path):
    (path,) = lacim_flip.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
