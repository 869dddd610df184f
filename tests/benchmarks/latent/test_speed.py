"""The speed of LaCIM in the smallest form: both ways do the same, verdicts are computed."""

import collections

import jax
import numpy as np
import pytest

from benchmarks.harness.registry import Context
from benchmarks.latent import contests, speed
from benchmarks.latent.colored import authors_search
from benchmarks.latent.reports import speed as report
from common.progress import Silent
from common.results.records import Record

CONTEXT = Context(seeds=(0,), data_dir=None, progress=Silent())
LATENT = contests.Settings(
    networks=(contests.Network(4, (8,)),), train_images=64, search_images=32, s_dim=2, v_dim=2,
    batch_size=16, search_steps=2, draws=1, chunk_size=8, fitted_steps=2, whole=16, product=32,
    repetitions=1, channels=(8,), authors_draws=1,
)  # fmt: skip


@pytest.mark.usefixtures("standard_promotion")
def test_every_way_to_train_and_to_search_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(authors_search, "installed", lambda library: False)
    records = list(speed.run(LATENT, CONTEXT))
    ways = collections.Counter(r.setting["task"] for r in records)
    assert ways == {"training": 3, "latent search": 5, "latent search beside the authors'": 2}
    for record in records:
        assert record.metrics["gflops"] > 0
        assert record.metrics["gflops_per_cpu_second"] > 0
    (ours,) = (r for r in records if "programs_later" in r.metrics)
    assert ours.metrics["programs_later"] == 0
    assert ours.metrics["megabytes"] < ours.metrics["megabytes_whole"]
    table = speed.tables(records)
    assert "7x7x2 from 8" in table
    assert "32x32x3 from 8 channels: not installed, so left out: torch." in table
    (path,) = speed.plots(records, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("standard_promotion")
def test_all_ways_to_search_find_the_same():
    contest = contests.searching(LATENT.networks[0], LATENT, 0, CONTEXT)
    ours, every, *loops = (way() for way in contest.ways.values())
    together = jax.numpy.concatenate([jax.numpy.asarray(part) for part in ours], axis=-1)
    assert len(loops) == 2
    for one, other in zip(ours, every, strict=True):
        np.testing.assert_array_equal(one, other)  # two steps: nothing is dropped yet
    for loop in loops:
        assert float(abs(together - jax.numpy.concatenate(loop)).max()) < 1e-3


def test_what_is_compiled_is_counted():
    with contests.CompiledPrograms() as counted:
        for _ in range(2):
            jax.jit(lambda x: 3 * x + 17)(jax.numpy.ones(7)).block_until_ready()
    found = counted.count
    jax.jit(lambda x: 5 * x + 19)(jax.numpy.ones(9)).block_until_ready()
    assert counted.count == found >= 2


@pytest.mark.parametrize(
    ("ours", "share", "verdict"),
    [
        (600.0, 0.05, "6.0 times the loop (target 5); objective short by 0.0020 nats"),
        (600.0, 0.05, "(at least 99.5): met."),
        (300.0, 0.5, "missed; the loop itself reaches 50% of the product's rate."),
    ],
)
def test_what_is_left_to_gain_is_stated(ours, share, verdict):
    def record(way, **metrics):
        setting = {"task": report.SEARCH, "decoder": "7x7x2 from 8"}
        return Record(method=way, setting=setting, seed=0, metrics=metrics, wall_time=1.0)

    rest = {"first_call_seconds": 1.0}
    figures = rest | {"programs_later": 0.0, "megabytes": 1.0, "megabytes_whole": 9.0}
    figures |= {"objective_short": 0.002, "same_labels": 1.0}

    def timed(images):
        rates = ("images_per_second", "images_per_cpu_second")
        return dict.fromkeys(rates, images) | {"gflops_per_cpu_second": images * share}

    records = [
        record(report.OURS, **timed(ours), **figures),
        record(report.LOOP, **timed(100.0), **rest),
        record(report.AT_ONCE, **timed(100.0), **rest),
        record(report.ALL_STARTS, **timed(100.0), **rest),
        record(report.PRODUCT, gflops_per_cpu_second=100.0, **rest),
    ]
    assert verdict in speed.tables(records)


class Program:
    """A program whose stages count this, the first before it is compiled."""

    def __init__(self, *counted):
        self.counted = counted

    def lower(self, *inputs):
        del inputs
        return self

    def compile(self):
        return Program(*self.counted[1:])

    def cost_analysis(self):
        if self.counted[0] is NotImplementedError:
            raise NotImplementedError
        return self.counted[0]


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        (({"flops": 3.0},), 3.0),
        ((None, {"flops": 2.0}), 2.0),
        ((NotImplementedError, {"flops": 2.0}), 2.0),
        ((None, {"bytes accessed": 2.0}), np.nan),
        ((None, NotImplementedError), np.nan),
    ],
)
def test_operations_are_counted_where_the_backend_counts_them(counted, expected):
    """The plugins of GPUs and TPUs count nothing before a program is compiled."""
    np.testing.assert_equal(contests.operations(Program(*counted), 1.0), expected)
