"""Weighing: each outcome of a comparison, and each verdict on a table of them."""

import pytest

from benchmarks.judgement.finding import FAILS, HOLDS, PARTLY, UNDECIDED, joint
from benchmarks.judgement.weighing import (
    BETTER,
    BLIND,
    EDGE,
    NONE,
    UNTRAINED,
    WORSE,
    Comparison,
    as_good,
    in_short,
    losses_in_short,
    outcomes,
    points,
    verdict,
    words,
)
from common.results.comparison import interval

WON, LOST, SAME = interval([2.0, 2.01, 2.02]), interval([-2.0, -2.01, -2.02]), interval([0.01, 0.0])
FLAT, WIDE = interval([0.0, 0.01, -0.01]), interval([0.0, 3.0, -3.0])
NEAR = interval([0.9, 1.1, 0.55, 1.3])  # its interval, 0.45 to 1.47, covers 1


def compared(gain, hoped=1.0, reached=90.0):
    return Comparison("task", gain, hoped, reached, 100.0)


@pytest.mark.parametrize(
    ("comparison", "outcome"),
    [
        (compared(WON), BETTER),
        (compared(LOST), WORSE),
        (compared(FLAT), NONE),
        (compared(WIDE), BLIND),  # 1 is not visible
        (compared(FLAT, hoped=0.01), BLIND),
        (compared(WON, reached=79.9), UNTRAINED),  # whatever the seeds say
        (compared(interval([5.0])), BLIND),  # one seed tells nothing
        (compared(interval([])), BLIND),
    ],
)
def test_a_comparison_says_one_of_so_many_things(comparison, outcome):
    assert outcomes([comparison]) == [outcome]


def test_a_gain_that_the_interval_covers_is_not_excluded():
    """By itself it is won; beside others it is not, though what is hoped for would be visible."""
    table = [compared(NEAR, hoped=2.0)] + [compared(FLAT)] * 9
    assert outcomes(table)[0] == NONE
    table = [compared(NEAR)] + [compared(FLAT)] * 9
    assert table[0].visible < 1
    assert outcomes(table)[0] == BLIND
    assert outcomes(table[:1])[0] == BETTER


@pytest.mark.parametrize(
    ("gains", "found"),
    [
        ([WON, WON], HOLDS),
        ([WON, WIDE, WIDE, WIDE], PARTLY),
        ([WON, LOST, FLAT], FAILS),  # as many lost as won
        ([WON, FLAT, FLAT, FLAT, FLAT], FAILS),
        ([FLAT, WIDE], FAILS),
        ([FLAT, WIDE, WIDE], UNDECIDED),
        ([LOST, WIDE, WIDE], UNDECIDED),
        ([WIDE], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_a_verdict_needs_half_of_the_comparisons_or_a_quarter_won(gains, found):
    assert verdict([compared(gain) for gain in gains]) == found


def test_words_give_the_figures_of_each_outcome():
    table = [compared(gain) for gain in (WON, LOST, FLAT, WIDE)]
    said = words([*table, compared(WON, reached=20.0)])
    for part in (
        "better in 1 of 5 comparisons (most: task, +2.0 points), worse in 1 (most: task, -2.0",
        "no gain as large as hoped in 1 (task: visible from 0.03 points on, hoped for 1)",
        "not told apart in 1 (task: visible from 9.8 points on, hoped for 1)",
        "too little learnt in 1 (at best task: 20 of 100, where 80% of it is asked for)",
    ):
        assert part in said
    assert words([]) == "not compared"


def test_points_are_hundredths_or_what_a_score_is_worth():
    assert points(interval([0.1, 0.3])).mean == pytest.approx(20)
    scaled = points(interval([100.0, 200.0]), scale=0.2)
    assert scaled.half_width == pytest.approx(0.2 * interval([100.0, 200.0]).half_width)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (HOLDS, HOLDS, HOLDS),
        (FAILS, FAILS, FAILS),
        (HOLDS, FAILS, PARTLY),
        (UNDECIDED, PARTLY, PARTLY),
        (UNDECIDED, FAILS, UNDECIDED),
        (UNDECIDED, UNDECIDED, UNDECIDED),
    ],
)
def test_a_claim_of_two_parts_is_judged_on_both(one, other, both):
    assert joint(one, other) == joint(other, one) == both


def test_in_short_every_reason_why_nothing_is_decided_is_said():
    assert in_short([]) == "not compared"
    table = [compared(WON), compared(LOST), compared(FLAT), compared(WIDE), compared(WIDE)]
    seen = f"{table[3].visible:.1f}"
    said = in_short(table)
    assert said.startswith("better in 1 of 5 comparisons (most: task, +2.0 points), worse in 1")
    assert said.endswith(f"not decided in 2 (typically visible from {seen} points on, hoped for 1)")
    few = [compared(WIDE), compared(WIDE, reached=10.0), compared(WIDE, reached=20.0)]
    assert in_short(few).endswith(
        f"not decided in 3 (1: typically visible from {seen} points on, hoped for 1; "
        "2: too little is learnt)"
    )
    assert in_short(few[1:]).endswith("not decided in 2 (too little is learnt)")
    said = in_short([compared(FLAT), compared(FLAT)])
    assert said == "better or worse in none of 2 comparisons, no gain as large as hoped in 2"


def test_what_only_the_correction_hides_is_told():
    """By itself each would be told apart; among so many it is not."""
    below = NEAR._replace(mean=-NEAR.mean)
    table = [compared(NEAR), compared(below)] + [compared(FLAT)] * 8
    assert not {BETTER, WORSE} & set(outcomes(table))
    lost = "worse in 1 more (most: task, -1.0 points)"
    won = "without correction better in 1 more (most: task, +1.0 points)"
    assert f"{won} and {lost}" in words(table)
    assert f"comparisons, without correction {lost}, no gain" in in_short(table)
    assert "without correction" not in words([compared(FLAT)] * 3)
    # What is won or lost as it is, or decides nothing for another reason, is not told again.
    edge = compared(LOST)._replace(at_edge=True)
    assert "without" not in words([compared(WON), compared(LOST), edge, compared(LOST, reached=1)])


def test_a_gain_is_excluded_by_a_loss_too():
    """Not told apart after correction, and the interval is below the gain hoped for."""
    below = compared(NEAR._replace(mean=-NEAR.mean), hoped=1.0)
    assert outcomes([below] + [compared(FLAT)] * 9)[0] == NONE


def test_where_a_whole_scale_would_not_be_seen_no_number_of_points_is_told():
    for gain in (interval([5.0]), interval([0.0, 90.0, -90.0])):
        assert "too few seeds to see anything, hoped for 1" in in_short([compared(gain)])


def test_a_baseline_at_the_edge_of_its_grid_decides_nothing():
    edge = compared(WON)._replace(at_edge=True)
    assert outcomes([edge, compared(LOST)]) == [EDGE, WORSE]
    assert verdict([edge]) == as_good([edge]) == UNDECIDED
    reason = "not decided in 2 (baseline's step at the edge of its grid)"
    assert in_short([edge, edge]).endswith(reason)
    assert losses_in_short([edge, edge]).endswith(reason)
    assert "baseline's step at the edge of its grid in 1 (task the first)" in words([edge])


@pytest.mark.parametrize(
    ("gains", "found"),
    [
        ([WON, FLAT], HOLDS),
        ([FLAT, WIDE], HOLDS),
        ([WON, WON, LOST], FAILS),  # one that is lost is enough
        ([FLAT, WIDE, WIDE], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_as_good_needs_no_loss_and_half_of_the_comparisons_to_exclude_one(gains, found):
    assert as_good([compared(gain) for gain in gains]) == found


def test_a_loss_that_the_interval_covers_is_not_excluded():
    """Its seeds would have seen a loss of 1, and cannot tell that there is none."""
    below = NEAR._replace(mean=-NEAR.mean)
    assert as_good([compared(below, hoped=2.0)] + [compared(WIDE)] * 9) == UNDECIDED
    table = [compared(below)] + [compared(WIDE)] * 9
    assert table[0].visible < 1
    assert "excluded" not in losses_in_short(table)


def test_losses_are_told_with_the_largest():
    assert losses_in_short([]) == "not compared"
    said = losses_in_short([compared(LOST), compared(FLAT), compared(WIDE)])
    assert said.startswith(
        "worse in 1 of 3 comparisons (most: task, -2.0 points), a loss as large as the gain hoped "
        "for is excluded in 1, not decided in 1 (typically visible from 9.8 points on"
    )
    assert losses_in_short([compared(WON)]) == (
        "worse in none of 1 comparisons, a loss as large as the gain hoped for is excluded in 1"
    )
