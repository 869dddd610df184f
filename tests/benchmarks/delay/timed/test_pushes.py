"""The verdict on the cost of a push; it is timed once among the tests of real workers."""

import pytest

from benchmarks.delay.timed import pushes
from common.results.records import Record


def record(method, ratio):
    metrics = {"seconds": 2e-3 * ratio, "ratio": ratio, "driver_seconds": 1e-3}
    setting = {"network": "real workers", "parameters": 26_000}
    return Record(method=method, setting=setting, seed=0, metrics=metrics, wall_time=1.0)


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, "1.2: met"), (1.3, "1.2: missed")])
def test_the_verdict_follows_from_the_records(ratio, verdict):
    table = pushes.table([record(pushes.BARE, 1.0), record(pushes.PUSH, ratio)])
    assert f"{ratio:.2f} at most (target {verdict})" in table
    assert "26,000" in table
