"""Path space does not blow up where training on weights does not: on networks drawn at random."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from benchmarks.harness.registry import Context
from benchmarks.path_space import stability
from benchmarks.path_space.random_networks import KINDS, draw_network
from common.progress import Silent
from common.results.records import Record
from gsgd_jax import Gauge, find_gauge, in_path_space
from tests.compiled import as_users_do

RATES = np.array([1e-4, 1e-2, 0.3, 10.0], np.float32)


@effort(max_examples=4, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    kind=st.sampled_from(KINDS),
    optimiser=st.sampled_from(list(stability.OPTIMISERS)),
)
def test_wherever_weights_stay_finite_so_does_path_space(seed, kind, optimiser):
    """Four step sizes from two starts each; and no weight outgrows the balanced copy's."""
    network = draw_network(seed, kind, examples=8)
    starts = [network.init(np.random.default_rng([seed, i])) for i in range(2)]
    gauge = find_gauge(network.apply, starts[0], network.inputs[:1])
    make, steps = stability.OPTIMISERS[optimiser], 20
    # Optax's Adam mixes counts and decays; and convolutions are soon slower than their compilation.
    with jax.numpy_dtype_promotion("standard"), as_users_do():
        on_weights, inside = (
            stability.trained(network, make, around, starts, RATES, steps)
            for around in (lambda inner: inner, lambda inner: in_path_space(inner, gauge))
        )
    figures = stability.judged(inside, on_weights, gauge)
    assert figures["finite_on_weights"] > 2  # it is not tested on nothing
    assert figures["overflowed"] == 0
    assert figures["outgrown"] == 0
    # It trains: from the balanced copy the best step does about as well as on weights.
    assert figures["loss_over_weights"] < 2


def test_networks_are_of_every_shape():
    drawn = [draw_network(seed, kind) for seed in range(12) for kind in KINDS]
    names = {network.name for network in drawn}
    assert len(names) > 40
    assert {network.classes for network in drawn} == {True, False}
    widths = [[int(n) for n in name.split()[1].rstrip(",").split("-")] for name in names]
    valleys = [
        w for w in widths if any(a > b < c for a, b, c in zip(w, w[1:], w[2:], strict=False))
    ]
    assert len(valleys) > 5
    for network in drawn[:4]:
        start = network.init(np.random.default_rng(0))
        assert np.isfinite(network.loss(start))
        group = find_gauge(network.apply, start, network.inputs[:1])
        assert isinstance(group, Gauge) == (not network.name.startswith("gated"))
        assert group.num_nodes > 0
        assert group.verify(network.apply, start, network.inputs) < 1e-3


def test_overflows_and_outgrown_weights_are_counted():
    network = draw_network(0, "perceptron")
    start = network.init(np.random.default_rng(0))
    gauge = find_gauge(network.apply, start, network.inputs[:1])
    moved = gauge.act(start, np.where(np.arange(gauge.num_nodes) == 0, 1e5, 1.0))
    lost = jax.tree.map(lambda w: w * np.nan, start)
    ends, usual = (
        stability.Ends(
            jax.tree.map(lambda *w: np.stack(w)[None], *params),
            np.array([[0.5, 1.0, 2.0]]),
        )
        for params in ((start, moved, lost), (start, start, start))
    )
    figures = stability.judged(ends, usual, gauge)
    assert (figures["runs"], figures["finite"], figures["finite_on_weights"]) == (3, 2, 3)
    assert (figures["overflowed"], figures["outgrown"]) == (1, 1)
    assert figures["largest_growth"] > 1e3
    assert figures["loss_over_weights"] == 1


@pytest.mark.parametrize("lost", [1.0, 2.0])
def test_the_table_says_how_many_were_lost(lost):
    metrics = {"runs": 10.0, "finite": 8.0, "finite_on_weights": 9.0, "overflowed": lost,
               "outgrown": 0.0, "largest_growth": 3.0, "loss_over_weights": 1.0}  # fmt: skip
    record = Record(
        method=stability.BALANCED, setting={"network": "n", "optimiser": "SGD"}, seed=0,
        metrics=metrics, curve={"rate": [0.1], "loss": [1.0]}, wall_time=1.0,
    )  # fmt: skip
    text = stability.tables([record])
    assert f"Of 9 runs that stay finite on weights, {lost:.0f} overflow" in text
    assert f"; {lost - 1:.0f} that overflow on weights stay finite there" in text
    header, _, row = (line.split("|")[1:-1] for line in text.splitlines() if line[:1] == "|")
    assert row[[cell.strip() for cell in header].index("not finite")].strip() == "2"


def test_the_experiment_runs_and_draws(tmp_path):
    context = Context(seeds=(0,), data_dir=None, progress=Silent())
    settings = dataclasses.replace(stability.PRESETS["smoke"], networks=1, steps=10)
    with jax.numpy_dtype_promotion("standard"):
        records = list(stability.run(settings, context))
    methods = {record.method for record in records}
    assert methods == {stability.WEIGHTS, stability.BALANCED, stability.EVERY_STEP,
                       stability.CYCLES, stability.PATHS}  # fmt: skip
    for record in records:
        if record.method in (stability.WEIGHTS, stability.BALANCED):
            assert record.metrics["overflowed"] == 0
    assert all(path.exists() for path in stability.plots(records, tmp_path))
