"""The groups of published networks: whole, every pin named, and the scan's that of the loop."""

import collections

import jax.numpy as jnp
import pytest

from benchmarks.judgement.evidence import FOLDER
from benchmarks.path_space.architectures import ARCHITECTURES, Form, drawn
from benchmarks.path_space.architectures.architecture import stacked
from benchmarks.path_space.architectures.counts import traced
from benchmarks.path_space.architectures.null_space import common_null_space
from common.results.summaries import read_summary

COUNTED = {r.method: r.metrics for r in read_summary(FOLDER / "gsgd_architectures" / "day.jsonl")}
"""Without tracing, by the null space of d(outputs)/d(log|w|)."""


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("standard_promotion")  # linen's avg_pool divides by integers
def test_tracing_finds_as_many_nodes_as_there_are_scalings(name):
    row = ARCHITECTURES[name]
    totals = []
    for group in (traced(row, form) for form in row.forms):
        assert group.num_nodes == COUNTED[name]["scalings"]
        assert group.num_entries == COUNTED[name]["parameters"]
        pinned = collections.Counter()
        for pin in group.pins:
            pinned[pin.primitive] += pin.scales
            assert ".py:" in pin.source
        assert pinned.keys() == row.pins.keys()
        totals.append(pinned)
    assert all(pinned == totals[0] for pinned in totals)


def test_the_records_are_of_these_networks_and_say_that_both_forms_are_one_function():
    assert COUNTED.keys() == ARCHITECTURES.keys()
    assert len(ARCHITECTURES) >= 40
    for name, row in ARCHITECTURES.items():
        metrics = COUNTED[name]
        assert metrics["largest_null"] < 1e-11 < 1e-6 < metrics["smallest_other"]
        assert metrics["rescaled_deviation"] < 1e-8
        assert row.stack == ("scanned_deviation" in metrics)
        assert metrics.get("scanned_deviation", 0.0) < 1e-9


SMALL = ("weight-tied autoencoder", "GAT", "ReLU RNN", "siamese network")


@pytest.mark.parametrize("name", SMALL)
def test_the_null_space_and_both_forms_are_counted_anew(x64, name):
    row = ARCHITECTURES[name]
    built = row.build(Form())

    def draw(number):
        return drawn(built.shapes, number), row.inputs(8, number)

    counts = common_null_space(built.network, draw, least_draws=8)
    assert counts.scalings == COUNTED[name]["nodes"]
    if row.stack:
        params, inputs = draw(0)
        scanned = row.build(Form(scanned=True)).network(stacked(params), *inputs)
        gap = jnp.abs(built.network(params, *inputs) - scanned).max()
        assert float(gap) < 1e-12
