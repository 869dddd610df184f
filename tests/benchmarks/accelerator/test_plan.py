"""The plan: as much of each piece as fits into its minutes, and what that takes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks.accelerator import plan
from benchmarks.accelerator.cards import Card
from benchmarks.accelerator.costs import Program
from benchmarks.accelerator.pieces import Piece, trained_for
from benchmarks.accelerator.plan import Fitted, Planner
from benchmarks.accelerator.work import Work
from benchmarks.harness import registry
from benchmarks.harness.halving import Halving


@dataclasses.dataclass(frozen=True)
class Settings:
    epochs: int = 100
    learning_rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    bfloat16: bool = False
    halving: Halving | None = None


def program():
    shape = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    return Program(lambda w, x: (x @ w).sum(), shape, (shape,))  # 2e6 operations a step


def work(settings, seeds):
    runs = seeds * len(settings.learning_rates)
    made = Work("a product", program, 10.0 * runs * settings.epochs, compiled=0,
                compile_seconds=0.0, runs=runs, together=2, half=settings.bfloat16)  # fmt: skip
    return (made,)


def two_numbers(settings, seeds):
    (made,) = work(settings, seeds)
    other = made._replace(name="other", half=False, compiled=3, compile_seconds=20.0, driven=True)
    return made, other


# 2e6 * 10 steps * 12 runs = 2.4e8 operations an epoch; at a tenth of the peak, in minutes:
CARD = Card("slow", 2.4e9 / 60, 1.2e9 / 60)
FIRST = Piece(
    "line", 0.3, 0.1, "it is so", {"bfloat16": True}, {"learning_rates": (0.4,)}, work, trained_for
)
SECOND = FIRST._replace(share=0.2, cut=None, narrow={"epochs": 7})


@pytest.fixture
def planner(line, monkeypatch):
    line()
    monkeypatch.setattr(registry.load("line"), "PRESETS", {"full": Settings()})
    monkeypatch.setattr(plan, "START", 0.0)
    monkeypatch.setattr(plan, "BEGUN", 0.0)
    return Planner(CARD, "full")


@pytest.mark.parametrize(
    ("minutes", "narrow", "epochs", "expected"),
    [
        (1000.0, False, None, 100.0),  # all of it
        (100.0, False, 60, 60.0),  # more than half of its epochs
        (10.0, True, 24, 6.0),  # the comparison asked for most: a quarter of the runs
        (0.01, True, 1, 0.25),  # never less than an epoch
    ],
)
def test_as_many_epochs_as_fit_and_fewer_runs_first(minutes, narrow, epochs, expected, planner):
    first, second = planner.all((FIRST, SECOND), minutes=1.001 * minutes, seeds=3)
    assert (first.fitted.narrow, first.fitted.epochs) == (narrow, epochs)
    assert first.minutes == pytest.approx(0.6006 * minutes)
    assert first.expected == pytest.approx(expected, rel=0.05)
    assert first.operations == pytest.approx(2.4e8 * expected, rel=0.05)
    assert first.settings.bfloat16
    assert len(first.settings.learning_rates) == (1 if narrow else 4)
    # What has no epochs to cut is taken whole, or as what is asked for most.
    assert second.fitted == Fitted(narrow=minutes < 200)
    assert second.settings.epochs == (7 if minutes < 200 else 100)


def test_one_piece_is_planned_as_it_was_asked_for(planner):
    for fitted, expected in (
        (Fitted(), 100.0), (Fitted(epochs=30), 30.0), (Fitted(narrow=True, epochs=24), 6.0),
    ):  # fmt: skip
        alone = planner.alone(FIRST, fitted, seeds=3, minutes=None)
        assert alone.expected == pytest.approx(expected, rel=0.05)
        assert (alone.fitted, alone.whole, alone.minutes) == (fitted, 100, None)
        assert alone.settings == plan.settings_of(
            FIRST, "full", narrow=fitted.narrow, epochs=fitted.epochs
        )
        assert f"{fitted.epochs or 100} of 100" in plan.table([alone], "H100")


def test_starting_compiling_and_beginning_steps_take_time_too(planner, monkeypatch):
    monkeypatch.setattr(plan, "START", 2.0)
    monkeypatch.setattr(plan, "BEGUN", 6.0)
    monkeypatch.setattr(plan, "DRIVEN", 600.0)
    piece = FIRST._replace(work=two_numbers)
    one = planner.alone(piece, Fitted(epochs=1), seeds=3, minutes=None)
    # 120 steps, two side by side: at 6 and at 600 seconds each; three programs of 20 seconds.
    assert one.expected == pytest.approx(2 + 6 + 600 + 1)
    assert "- line: 10% in bfloat16 and float32, as it is so." in plan.table([one], "slow")


def test_the_share_of_the_peak_is_that_of_the_numbers_computed_in(planner):
    whole, single = (
        planner.alone(FIRST._replace(changes={"bfloat16": half}), Fitted(), seeds=3, minutes=None)
        for half in (True, False)
    )
    assert single.expected == pytest.approx(2 * whole.expected)


def test_only_the_full_preset_is_narrowed(planner, monkeypatch):
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings(bfloat16=True))
    first, _ = Planner(CARD, "smoke").all((FIRST, SECOND), minutes=10.01, seeds=3)
    assert (first.fitted.narrow, first.fitted.epochs) == (False, 6)
    assert len(first.settings.learning_rates) == 4


def test_halving_is_never_cut_below_an_epoch_of_its_first_rung(planner, monkeypatch):
    presets = registry.load("line").PRESETS
    monkeypatch.setitem(presets, "full", Settings(halving=Halving(factor=3)))  # 4, 2, 1 rates
    piece = FIRST._replace(narrow={})
    assert plan.least_epochs(plan.settings_of(piece, "full")) == 9
    least = planner.fitting(piece, 0.01, 3)
    assert least.fitted == Fitted(epochs=9)
    assert "needs 9 or more, got 8: give more of the 100." in str(
        plan.unfit(piece, "full", Fitted(epochs=8))
    )
    narrow = FIRST._replace(narrow={"halving": None})
    assert planner.fitting(narrow, 0.01, 3).fitted == Fitted(narrow=True, epochs=1)
    assert "or name --narrow." in str(plan.unfit(narrow, "full", Fitted(epochs=8)))
    assert plan.unfit(narrow, "full", Fitted(narrow=True, epochs=8)) is None


def test_what_a_piece_has_not_is_not_asked_of_it(planner, monkeypatch):
    assert plan.unfit(FIRST, "full", Fitted(narrow=True, epochs=2)) is None
    assert plan.unfit(FIRST, "full", Fitted()) is None
    plain = FIRST._replace(narrow={})
    assert "nothing narrower" in str(plan.unfit(plain, "full", Fitted(narrow=True)))
    assert "it has none" in str(plan.unfit(SECOND, "full", Fitted(epochs=2)))
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings())
    assert "at preset smoke" in str(plan.unfit(FIRST, "smoke", Fitted(narrow=True)))


def test_the_table_says_what_each_takes_and_should_reach(planner):
    planned = planner.all((FIRST, SECOND), minutes=10.01, seeds=3)
    shown = plan.table(planned, "H100", "A note.")
    assert "3 (2)" in shown  # runs, side by side
    assert "24 of 100" in shown
    assert "- line: 10% in bfloat16, as it is so." in shown
    assert "A note.\n\nThe share of the peak of H100" in shown


def test_another_preset_is_left_as_it_is(planner, monkeypatch):
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings(epochs=3))
    assert plan.settings_of(FIRST, "smoke", narrow=True) == Settings(epochs=3)
    assert plan.settings_of(FIRST, "smoke", epochs=2) == Settings(epochs=2)
