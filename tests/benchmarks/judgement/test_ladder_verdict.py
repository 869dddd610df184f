"""The verdict on the Hessian ladder: either clause of the claim, for every activation."""

import pytest

from benchmarks.judgement.claims import CLAIMS
from benchmarks.judgement.finding import FAILS, HOLDS, INCOMPLETE, PARTLY, UNDECIDED
from benchmarks.judgement.ladder_verdict import ladder
from tests.benchmarks.judgement.made_up import COARSE, FINE, rungs

RECORD = "dcasgd_hessian_ladder"


@pytest.mark.parametrize(
    ("hessian", "diagonal", "spread", "verdict"),
    [
        (0.3, 0.6, FINE, HOLDS),
        (0.3, 0.97, FINE, PARTLY),
        (0.72, 0.6, FINE, PARTLY),
        # The Hessian removes something, but the claim is that it removes most.
        (0.72, 0.97, FINE, FAILS),
        (0.95, 0.97, FINE, FAILS),
        (0.95, 0.9, COARSE, FAILS),  # one clause is refuted, the other not told from its bar
        (0.48, 0.97, COARSE, UNDECIDED),
        (0.48, 0.88, 0.01, UNDECIDED),  # neither "most" nor "useful" is told from its bar
    ],
)
def test_the_ladder_needs_its_top_and_its_lowest_rung(hessian, diagonal, spread, verdict):
    found = ladder({RECORD: rungs(hessian, diagonal, spread=spread)})
    assert found.verdict == verdict
    assert (
        f"Hessian leaves {100 * hessian:.0f}% (tanh) of the error, to be below 50%"
        in found.headline
    )
    assert f"diag(λG) {100 * diagonal:.0f}% (tanh), to be below 90%" in found.headline


@pytest.mark.parametrize(
    ("tanh", "relu", "verdict", "refuted"),
    [
        ((0.3, 0.6), (0.3, 0.6), HOLDS, "neither clause is refuted"),
        ((0.3, 0.6), (0.3, 0.97), PARTLY, '"a useful part" is refuted for relu'),
        ((0.72, 0.6), (0.3, 0.6), PARTLY, '"most of the error" is refuted for tanh'),
        # Each clause is shown, but neither for both activations.
        (
            (0.3, 0.97), (0.72, 0.6), UNDECIDED,
            '"most of the error" is refuted for relu, "a useful part" is refuted for tanh',
        ),
        ((0.72, 0.9), (0.72, 0.6), FAILS, '"most of the error" is refuted for tanh and relu'),
        (
            (0.5, 0.9), (0.72, 0.97), FAILS,  # both for half of them, and neither shown for tanh
            '"most of the error" is refuted for relu, "a useful part" is refuted for relu',
        ),
        ((0.3, 0.9), (0.72, 0.97), UNDECIDED, '"a useful part" is refuted for relu'),
        ((0.5, 0.9), (0.72, 0.9), UNDECIDED, '"most of the error" is refuted for relu'),
        ((0.5, 0.9), (0.5, 0.9), UNDECIDED, "neither clause is refuted"),
    ],
)  # fmt: skip
def test_a_clause_is_shown_or_refuted_for_every_activation(tanh, relu, verdict, refuted):
    found = ladder({RECORD: [*rungs(*tanh), *rungs(*relu, activation="relu")]})
    assert found.verdict == verdict
    none = "" if 1 in (shown := _signs(found.figures)) else ", and none is shown"
    assert f"{refuted}{none};" in found.headline
    assert len(shown) == 4


def _signs(figures):
    """What the figures say of each clause and activation."""
    last = figures.split(" are visible). ")[1]
    words = {"shown": 1, "not told from its bar": 0, "refuted": -1}
    return [words[part.split(": ")[1].rstrip(".")] for part in last.split("; ")]


def test_every_experiment_of_the_claim_reaches_the_judge():
    (claim,) = [claim for claim in CLAIMS if claim.judge is ladder]
    assert claim.experiments == (RECORD,)
    assert claim.judge({RECORD: rungs(0.3, 0.6)}) != INCOMPLETE
