"""The cost of a step in path space, in the smallest form: what is timed is whole."""

import dataclasses

import jax
import pytest

from benchmarks.harness.registry import Context
from benchmarks.path_space import speed
from benchmarks.path_space.timed import shapes
from common.progress import Silent
from common.results.records import Record

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())


@pytest.fixture(scope="module")
def stepped():
    settings = speed.Settings(
        networks=(speed.PERCEPTRON,), batch_sizes=((8,), ()), width=1 / 64, steps=(3, 1),
        repetitions=(2, 0), traces=1, from_shapes=(),
    )  # fmt: skip
    return list(speed.run(settings, CONTEXT))


def test_a_step_in_path_space_is_timed_against_one_on_weights(stepped, tmp_path):
    perceptron = [r for r in stepped if r.setting["network"] == speed.PERCEPTRON]
    found, chosen, weights, paths = perceptron
    assert (found.method, chosen.method) == (speed.FIND, speed.INIT)
    assert weights.metrics["ratio"] == weights.metrics["compile_ratio"] == 1
    assert weights.metrics["extra_copies"] == 0
    assert paths.metrics["ratio"] > 0
    assert len(paths.curve["seconds"]) == 2
    for way in (weights, paths):
        stages = [way.metrics[f"{stage}_seconds"] for stage in speed.STAGES]
        assert min(stages) > 0
        assert sum(stages) == pytest.approx(way.metrics["compile_seconds"])
    (deepest,) = [r for r in stepped if r.setting["network"] == speed.TRACED]
    assert deepest.metrics["seconds"] > 0
    (path,) = speed.plots(stepped, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_finding_the_group_from_shapes_is_told_beside_tracing(stepped):
    def network(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["v"]

    params = {"w": jax.ShapeDtypeStruct((3, 4), "f4"), "v": jax.ShapeDtypeStruct((4, 2), "f4")}
    networks = {"one": (network, (params, jax.ShapeDtypeStruct((2, 3), "f4")))}
    shaped = list(shapes.from_shapes(networks, 0))
    assert [r.method for r in shaped] == ["make_jaxpr", "find_gauge"]
    assert all(shapes.is_from_shapes(r) for r in shaped)
    assert min(value for r in shaped for value in r.metrics.values()) > 0

    def table(seconds, memory):
        changed = [
            dataclasses.replace(
                r,
                metrics={
                    "first_cpu_seconds": first,
                    "second_cpu_seconds": first / 4,
                    "peak_megabytes": memory,
                },
            )
            for r, first in zip(shaped, (0.5, seconds), strict=True)
        ]
        return speed.tables([*stepped, *changed])

    quick, slow = table(1.5, 90.0), table(2.5, 210.0)
    assert "2 s: met" in quick
    assert "90 of 200: met" in quick
    assert quick.count(" 3.0 |") == 2  # 1.5 over 0.5, in both calls
    assert "2 s: missed" in slow
    assert "210 of 200: missed" in slow
    assert "From shapes" not in speed.tables(stepped)  # as of older records


def test_the_networks_that_are_traced_from_shapes_are_the_published_ones():
    names = (shapes.RESIDUAL, shapes.LANGUAGE)
    for size, outputs, (function, arguments) in zip(
        (25.6, 124.4),
        ((2, 1000), (2, 1024, 50257)),
        shapes.published(names, 1.0).values(),
        strict=True,
    ):
        millions = sum(leaf.size for leaf in jax.tree.leaves(arguments[0])) / 1e6
        assert millions == pytest.approx(size, abs=0.05)
        assert jax.eval_shape(function, *arguments).shape == outputs


@pytest.mark.parametrize(
    ("ratio", "copies", "verdicts"),
    [(1.04, 0.5, ["1.05: met", "0.50: met"]), (1.2, 1.5, ["1.05: missed", "1.50: missed"])],
)
def test_targets_are_met_or_missed_by_the_records(stepped, ratio, copies, verdicts):
    def changed(record):
        if record.method != speed.GSGD:
            return record
        metrics = {**record.metrics, "ratio": ratio, "extra_copies": copies}
        return dataclasses.replace(record, metrics=metrics, curve={})  # no turns to judge by

    table = speed.tables([changed(record) for record in stepped])
    assert all(verdict in table for verdict in verdicts), table


def test_where_compilation_spends_its_time_is_told_by_the_records_that_know():
    def record(method, seconds):
        stages = {f"{s}_seconds": t for s, t in zip(speed.STAGES, seconds, strict=True)}
        return Record(
            method=method,
            setting={"network": speed.PLAIN, "batch_size": 32},
            seed=0,
            metrics={"step_seconds": 1.0, "ratio": 1.0, "compile_ratio": 1.0, "extra_copies": 0.0}
            | stages,
            wall_time=1.0,
        )

    both = [record(speed.SGD, (1.0, 0.5, 4.0)), record(speed.GSGD, (1.5, 0.5, 5.5))]
    table = speed.tables(both)
    assert "of the seconds added 25% trace, 0% lower, 75% XLA" in table
    assert "4.00 -> 5.50" in table
    known = ("step_seconds", "ratio", "compile_ratio", "extra_copies")
    old = [dataclasses.replace(r, metrics={k: r.metrics[k] for k in known}) for r in both]
    assert "Compilation, SGD" not in speed.tables(old)
