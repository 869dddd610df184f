"""Periods of presence: those asked for, and with the statistics they claim."""

import itertools
import math

import numpy as np
import pytest

from dcasgd_jax import day_and_night, markov_availability, recorded_availability


def first(periods, count):
    return np.array(list(itertools.islice(periods, count)))


def test_days_and_nights_follow_each_other_from_the_phase_on():
    rng = np.random.default_rng(0)
    assert first(day_and_night(3.0, 2.0, phase=0.0)(7, rng), 2).tolist() == [[0, 3], [5, 8]]
    zones = day_and_night(3.0, 2.0, phase=[0.0, 1.0, 3.0, 4.5])
    begins = [first(zones(m, rng), 2).tolist() for m in range(4)]
    assert begins[1] == [[0, 2], [4, 7]]
    assert begins[2] == [[2, 5], [7, 10]]
    assert begins[3] == [[0.5, 3.5], [5.5, 8.5]]
    drawn = [first(day_and_night(3.0, 2.0)(0, np.random.default_rng(s)), 1)[0] for s in range(400)]
    there = np.mean([begin == 0.0 for begin, _ in drawn])
    assert there == pytest.approx(3 / 5, abs=0.07)


def test_markov_periods_have_their_means_and_no_age():
    periods = first(markov_availability(6.0, 2.0)(0, np.random.default_rng(1)), 20_000)
    there, away = periods[:, 1] - periods[:, 0], periods[1:, 0] - periods[:-1, 1]
    assert there.mean() == pytest.approx(6.0, rel=0.03)
    assert there.std() == pytest.approx(6.0, rel=0.03)
    assert away.mean() == pytest.approx(2.0, rel=0.03)
    starts = [next(iter(markov_availability(6.0, 2.0)(0, np.random.default_rng(s))))
              for s in range(400)]  # fmt: skip
    assert np.mean([begin == 0.0 for begin, _ in starts]) == pytest.approx(3 / 4, abs=0.07)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: day_and_night(0.0, 1.0), "day must be finite and above 0, got 0.0"),
        (lambda: day_and_night(1.0, math.inf), "night must be finite and above 0, got inf"),
        (lambda: day_and_night(1.0, 1.0, phase=[0.0, 2.0]), r"in \[0, day \+ night\) = \[0, 2\)"),
        (lambda: day_and_night(1.0, 1.0, phase=[[0.5]]), r"got shape \(1, 1\)"),
        (
            lambda: next(iter(day_and_night(1.0, 1.0, phase=[0.5])(1, np.random.default_rng(0)))),
            "of 1 workers, and worker 1 is asked for",
        ),
        (lambda: markov_availability(-1.0, 1.0), "time_there must be"),
        (lambda: markov_availability(1.0, 0.0), "time_away must be"),
        (lambda: recorded_availability([[], [(2.0, 1.0)]]), "of worker 1 after -inf"),
        (lambda: recorded_availability([[(-1.0, 1.0)]]), "0 <= from < to"),
    ],
)
def test_errors_name_what_came(make, message):
    with pytest.raises(ValueError, match=message):
        make()
