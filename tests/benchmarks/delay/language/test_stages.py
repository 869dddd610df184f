"""The search goes on while the best is at its edge, and all seeds try what it found."""

import dataclasses

import numpy as np
import pytest

from benchmarks.delay.language import rules
from benchmarks.delay.language.runs import Measured
from benchmarks.delay.language.settings import Settings
from benchmarks.delay.language.stages import stages_of

SETTINGS = Settings(learning_rates=(0.1, 0.2, 0.4), delays=(0, 2), main_delays=(2,), further=3)


def made(stage, best, settings=SETTINGS, **fixed):
    """Records of a stage whose loss is least at `best`, a step and a lambda for each delay."""

    def runner(case, seed, tried):
        rate, strength = best[str(case.delay)]
        return [
            Measured(
                np.ones(settings.points),
                np.log(r / rate) ** 2 + (strength and np.log(s / strength) ** 2),
                np.float32(1.0),
                {"head": 2},
            )
            for r, s in tried
        ]

    records = stages_of(settings)[stage](runner, (0, 1), "0123")
    return [
        (r.seed, r.setting["learning_rate"], r.setting.get("lambda"))
        for r in records
        if all(r.setting[name] == value for name, value in fixed.items())
    ]


@pytest.mark.parametrize(
    ("best", "found"),
    [
        (0.2, [0.1, 0.2, 0.4]),
        (0.8, [0.1, 0.2, 0.4, 0.8, 1.6]),
        (0.05, [0.025, 0.05, 0.1, 0.2, 0.4]),
        (100.0, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]),  # no further than three times
    ],
)
def test_steps_go_on_until_the_best_has_neighbours(best, found):
    optima = dict.fromkeys(("0", "2", "profile"), (best, 0.0))
    runs = made("Muon, no rule", optima, delay="0")
    assert sorted(rate for seed, rate, _ in runs if seed == 0) == found
    assert [rate for seed, rate, _ in runs if seed == 1] == [min(best, 3.2)]


def test_every_delay_is_run_at_the_step_of_none_in_every_seed():
    optima = {"0": (0.8, 0.0), "2": (0.2, 0.0), "profile": (0.2, 0.0)}
    runs = made("Muon, no rule", optima, delay="2")
    assert sorted(rate for seed, rate, _ in runs if seed == 0) == [0.1, 0.2, 0.4, 0.8]
    assert [rate for seed, rate, _ in runs if seed == 1] == [0.2, 0.8]


def test_lambdas_go_on_upwards_with_the_steps_beside_them():
    settings = dataclasses.replace(SETTINGS, adaptive_lambdas=(2.0, 20.0))
    runs = made(f"Muon, {rules.ADAPTIVE}, 2", {"2": (0.2, 200.0)}, settings)
    grid = [(0, rate, lambda_) for lambda_ in (2.0, 20.0) for rate in (0.1, 0.2, 0.4)]
    beyond = [(0, 0.2, 200.0), (0, 0.1, 200.0), (0, 0.4, 200.0), (0, 0.2, 2000.0)]
    assert runs == [*grid, *beyond, (1, 0.2, 200.0)]
