"""What is read off the curves of runs that nobody made."""

import dataclasses
import math

import pytest

from benchmarks.delay.language import reading, rules
from tests.benchmarks.delay.language.made_up import record

TOKENS = [100.0, 200.0, 300.0, 400.0]


def curved(losses, seed=0):
    run = record(rules.ADAMW, rules.NOTHING, "8", 0.0, seed)
    return dataclasses.replace(run, curve={"tokens": TOKENS, "validation_loss": losses})


BASE = curved([4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("end", "ratio"),
    [
        (1.0, 1.0),
        (2.0, 400 / 300),  # at a point of the curve of no delay
        (2.5, 400 / 250),  # between two
        (4.0, 4.0),  # at its first
        (4.1, math.inf),
        (math.nan, math.inf),
    ],
)
def test_a_run_that_ends_above_no_delay_wasted_text(end, ratio):
    run = curved([5.0, 5.0, 5.0, end])
    assert reading.text_ratios([run], [BASE]) == {0: pytest.approx(ratio)}


def test_a_run_that_ends_below_no_delay_saved_text():
    run = curved([3.0, 2.0, 0.5, 0.4])
    # From 2 at 200 to 0.5 at 300, it is at 1 after two thirds of the way.
    assert reading.text_ratios([run], [BASE]) == {0: pytest.approx((200 + 200 / 3) / 400)}


def test_the_first_time_counts_where_a_curve_goes_up_again():
    base = curved([4.0, 2.0, 3.0, 1.0])
    assert reading.text_ratios([curved([5.0, 5.0, 5.0, 2.0])], [base]) == {0: 2.0}


def test_seeds_are_compared_with_their_own_and_those_without_one_are_left_out():
    other = curved([8.0, 6.0, 4.0, 2.0], seed=1)
    runs = [curved([5.0, 5.0, 5.0, 2.0], seed) for seed in (0, 1, 2)]
    assert reading.text_ratios(runs, [BASE, other]) == {0: pytest.approx(4 / 3), 1: 1.0}


def test_no_loss_is_compared_with_that_of_a_base_that_diverged():
    base = curved([4.0, math.nan, math.nan, math.nan])
    assert reading.text_ratios([BASE], [base]) == {0: math.inf}
