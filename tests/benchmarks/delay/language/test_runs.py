"""Runs of the language model: side by side, as on an accelerator, and one after another."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks.delay.language import delayed_model, rules
from benchmarks.delay.language.network import Size
from benchmarks.delay.language.runs import Runner, load
from benchmarks.delay.language.settings import Case
from benchmarks.delay.language.text import Text

SETTINGS = dataclasses.replace(
    delayed_model.PRESETS["smoke"], size=Size(width=8, heads=2, layers=1, length=8), steps=4,
    points=2, learning_rates=(0.001, 0.01), watched=2, held_out=2,
)  # fmt: skip
CASE = Case(rules.ADAMW, rules.NOTHING, 2)


def measured(tried):
    part = np.arange(64, dtype=np.uint8)
    runner = Runner(SETTINGS, load(Text(part, part, part, "", {}), SETTINGS))
    return runner, runner(CASE, 0, tried)


@pytest.mark.usefixtures("standard_promotion")
def test_runs_side_by_side_are_the_runs_alone(monkeypatch):
    """More than fit side by side, and fewer: all by one program."""
    tried = [(0.001, 0.0), (0.01, 0.0), (0.03, 0.0)]
    _, alone = measured(tried)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    runner, together = measured(tried)
    assert runner.width == 2
    assert len(together) == len(alone) == 3
    for one, other in zip(together, alone, strict=True):
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert together[0].test != together[1].test != together[2].test
