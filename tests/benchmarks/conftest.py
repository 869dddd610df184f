"""What all tests of experiments share, and an experiment for tests of the command line."""

import dataclasses
import sys
import types

import numpy as np
import pytest

from benchmarks.harness import registry
from common.results.plots import figure
from common.results.records import Record
from common.results.tables import markdown, metric, number


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: int = 2


def experiment(made, fail_at=None, error=KeyboardInterrupt, stage="seed {}"):
    """An experiment that fits a line in closed form; it breaks off before seed `fail_at`.

    The seeds that it computes are added to the list `made`.
    """

    def run(settings, context):
        for seed in context.seeds:
            if seed == fail_at:
                raise error
            yield from context.stages.of(
                stage.format(seed), lambda seed=seed: one_seed(seed, settings, context)
            )

    def one_seed(seed, settings, context):
        made.append(seed)
        rng = np.random.default_rng(seed)
        slope = np.polyfit(np.arange(5.0), np.arange(5.0) + 0.01 * rng.normal(size=5), 1)[0]
        with context.progress.task("fit", total=settings.steps) as bar:
            bar.advance(settings.steps)
        yield Record(method="fit", setting={}, seed=seed, metrics={"slope": slope},
                     wall_time=0.0)  # fmt: skip

    def tables(records):
        return markdown(["method", "slope"], [["fit", number(metric(records, "slope"))]])

    def plots(records, out):
        with figure(out / "slope.png") as panels:
            panels[0, 0].plot([r.metrics["slope"] for r in records])
        return [out / "slope.png"]

    module = types.ModuleType("benchmarks.line")
    vars(module).update(PRESETS={"smoke": Settings()}, run=run, tables=tables, plots=plots)
    module.CAPTIONS = {"slope.png": "Slopes of lines; all are near 1."}
    return module


@pytest.fixture
def line(monkeypatch):
    """Registers the experiment above under the name "line"; gives the list of seeds computed."""

    def register(**options):
        made = []
        monkeypatch.setattr(registry, "MODULES", {"line": "line"})
        monkeypatch.setattr(registry, "NAMES", ("line",))
        monkeypatch.setattr(registry, "DEMO", ("line",))
        monkeypatch.setattr(registry, "describe", lambda name: "A claim.\n\nIts cost.")
        monkeypatch.setitem(sys.modules, "benchmarks.line", experiment(made, **options))
        return made

    return register
