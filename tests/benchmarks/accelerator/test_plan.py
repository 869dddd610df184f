"""The plan: as much of each piece as fits into its minutes, and what that takes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from benchmarks.accelerator import pieces, plan
from benchmarks.accelerator.costs import Program
from benchmarks.accelerator.pieces import PIECES, Piece, Work
from benchmarks.harness import registry


@dataclasses.dataclass(frozen=True)
class Settings:
    epochs: int = 100
    rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    bfloat16: bool = False


def work(settings, seeds):
    shape = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    program = Program(lambda w, x: (x @ w).sum(), shape, (shape,))  # 2e6 operations a step
    return Work(program, seeds * len(settings.rates), 2, 10)


@pytest.fixture
def planned(line, monkeypatch):
    """Plans for two pieces with three fifths and two fifths of the minutes, on a slow card."""
    line()
    monkeypatch.setattr(registry.load("line"), "PRESETS", {"full": Settings()})
    first = Piece("line", 0.3, 0.1, "it is so", {"bfloat16": True}, {"rates": (0.4,)}, work)
    second = first._replace(share=0.2, work=None)
    monkeypatch.setattr(plan, "PIECES", (first, second, first._replace(name="unknown")))
    # 2e6 * 10 steps * 12 runs = 2.4e8 operations an epoch; at a tenth of the peak, in minutes:
    return lambda minutes: plan.plan("full", minutes=minutes, seeds=3, peak=2.4e9 / 60)


@pytest.mark.parametrize(
    ("minutes", "narrow", "epochs", "expected"),
    [
        (1000.0, False, None, 100.0),  # all of it
        (100.0, False, 60, 60.0),  # more than half of its epochs
        (10.0, True, 24, 6.0),  # the comparison asked for most: a quarter of the runs
        (0.01, True, 1, 0.25),  # never less than an epoch
    ],
)
def test_as_many_epochs_as_fit_and_fewer_runs_first(planned, minutes, narrow, epochs, expected):
    first, second = planned(minutes)  # what is not registered is left out
    assert (first.fitted.narrow, first.fitted.epochs) == (narrow, epochs)
    assert first.minutes == pytest.approx(0.6 * minutes)
    assert first.expected == pytest.approx(expected, rel=0.05)
    assert first.settings.bfloat16
    assert len(first.settings.rates) == (1 if narrow else 4)
    assert second.expected is None
    assert second.minutes == pytest.approx(0.4 * minutes)


@pytest.mark.parametrize(
    ("fitted", "expected"),
    [
        (plan.Fitted(), 100.0),
        (plan.Fitted(epochs=30), 30.0),
        (plan.Fitted(narrow=True, epochs=24), 6.0),
    ],
)
def test_one_piece_is_planned_as_it_was_asked_for(planned, fitted, expected):
    first, second, _ = plan.PIECES
    alone = plan.alone(first, "full", fitted, seeds=3, peak=2.4e9 / 60, minutes=None)
    assert alone.expected == pytest.approx(expected, rel=0.05)
    assert (alone.fitted, alone.whole) == (fitted, 100)
    assert alone.settings == plan.settings_of(
        first, "full", narrow=fitted.narrow, epochs=fitted.epochs
    )
    assert f"{fitted.epochs or 100} of 100" in plan.table([alone], "H100")
    uncounted = plan.alone(second, "full", fitted, seeds=3, peak=1.0, minutes=2.0)
    assert (uncounted.minutes, uncounted.expected) == (2.0, None)


def test_only_the_full_preset_is_narrowed(planned, monkeypatch):
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings())
    first, _ = plan.plan("smoke", minutes=10.0, seeds=3, peak=2.4e9 / 60)
    assert (first.fitted.narrow, first.fitted.epochs) == (False, 6)
    assert len(first.settings.rates) == 4


def test_what_a_piece_has_not_is_not_asked_of_it(planned, monkeypatch):
    first, *_ = plan.PIECES
    assert plan.unfit(first, "full", plan.Fitted(narrow=True, epochs=2)) is None
    assert plan.unfit(first, "full", plan.Fitted()) is None
    plain = first._replace(narrow={})
    assert "nothing narrower" in str(plan.unfit(plain, "full", plan.Fitted(narrow=True)))
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings())
    assert "at preset smoke" in str(plan.unfit(first, "smoke", plan.Fitted(narrow=True)))


def test_the_table_says_what_each_takes_and_should_reach(planned):
    shown = plan.table(planned(10.0), "H100")
    assert "3 (2)" in shown  # runs, side by side
    assert "24 of 100" in shown
    assert "- line: 10%, as it is so." in shown
    assert "The share of the peak of H100" in shown


def test_another_preset_is_left_as_it_is(planned, monkeypatch):
    monkeypatch.setitem(registry.load("line").PRESETS, "smoke", Settings(epochs=3))
    (piece, *_) = plan.PIECES
    assert plan.settings_of(piece, "smoke", narrow=True) == Settings(epochs=3)
    assert plan.settings_of(piece, "smoke", epochs=2) == Settings(epochs=2)


def test_every_piece_changes_what_its_full_preset_has_and_is_counted():
    for piece in PIECES:
        if piece.name not in registry.NAMES:
            continue
        settings = plan.settings_of(piece, "full", narrow=True)
        for name, value in {**piece.changes, **piece.narrow}.items():
            assert getattr(settings, name) == value
        if piece.work is not None:
            smoke = plan.settings_of(piece, "smoke")
            counted = plan.cost(piece.work(smoke, 1).program)
            assert counted.operations > 0
    assert sum(piece.share for piece in pieces.PIECES) == pytest.approx(1.0)
