"""The experiment that counts groups twice."""

import dataclasses

import jax
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space.architectures import counts
from common.progress import Silent

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def records():
    settings = dataclasses.replace(counts.PRESETS["smoke"], networks=("GCN",), examples=8)
    with jax.numpy_dtype_promotion("standard"):
        return list(counts.run(settings, CONTEXT))


def test_a_network_is_counted_in_both_forms(records):
    (record,) = records
    assert record.method == "GCN"
    metrics = record.metrics
    assert metrics["nodes"] == metrics["scalings"] == metrics["scanned_nodes"] == 12
    assert max(metrics["rescaled_deviation"], metrics["scanned_deviation"]) < 1e-12
    assert record.setting["pins"] == ""


def test_the_verdict_names_what_is_not_equal(records, tmp_path):
    (record,) = records
    fewer, more = (
        dataclasses.replace(record, method=name, metrics={**record.metrics, "nodes": nodes})
        for name, nodes in (("a", 11.0), ("b", 13.0))
    )
    text = counts.tables([record, fewer, more])
    assert "In 1 of 3 networks tracing finds as many nodes as there are scalings." in text
    assert "Fewer: a. More: b. 1 of 3 stacks have" in text
    assert [path.name for path in counts.plots(records, tmp_path)] == list(counts.CAPTIONS)


def test_unknown_networks_are_refused():
    settings = dataclasses.replace(counts.PRESETS["smoke"], networks=("AlexNet",))
    with pytest.raises(ValueError, match="got AlexNet"):
        next(counts.run(settings, CONTEXT))
