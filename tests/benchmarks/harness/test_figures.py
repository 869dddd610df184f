"""Panels side by side: one legend, shared ranges, rows of dots."""

import math

import numpy as np
import pytest

from benchmarks.harness.figures import (
    dots_figure,
    doubling,
    on_whole_numbers,
    plot_by,
    small_multiples,
)
from common.results.records import Record


def runs(accuracy):
    return [
        Record(method="m", setting={}, seed=seed, metrics={"accuracy": accuracy + 0.01 * seed},
               wall_time=0.0)
        for seed in range(2)
    ]  # fmt: skip


def test_panels_share_a_legend_and_the_range_of_their_row(tmp_path):
    path = tmp_path / "panels.png"
    labels = (lambda column: f"x of {column}", "y")
    with small_multiples(path, [4, 8], ["a", "b"], labels=labels) as panels:
        for (row, column), axes in panels.items():
            axes.plot([0, 1], [0, row if column == "a" else 1], label="line")
        whole = panels[4, "a"].figure
    assert [panels[4, c].get_ylim() for c in "ab"] == [panels[4, "a"].get_ylim()] * 2
    assert panels[4, "a"].get_ylim() != panels[8, "a"].get_ylim()
    assert panels[8, "b"].get_title() == "8, b"
    assert (panels[8, "a"].get_xlabel(), panels[8, "b"].get_xlabel()) == ("x of a", "x of b")
    (legend,) = whole.legends
    assert [text.get_text() for text in legend.get_texts()] == ["line"]
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("scale", "low", "top"), [("linear", 10.0, 97.0), ("log", 1e-3, 97.0)])
def test_a_panel_of_narrow_range_keeps_its_marks_whole(scale, low, top, tmp_path):
    """Its own margin, of 7 units, would leave half a mark outside of a range of 87."""
    with small_multiples(tmp_path / "p.png", [""], ["a", "b"], labels=("x", "y")) as panels:
        for column, ends in (("a", (low, 20.0)), ("b", (90.0, top))):
            panels["", column].plot([0, 1], ends, "o")
            panels["", column].set_yscale(scale)
    of = np.log10 if scale == "log" else np.asarray
    (bottom, end), *others = [of(axes.get_ylim()) for axes in panels.values()]
    assert all((other == (bottom, end)).all() for other in others)
    share = 0.045 * (of(top) - of(low))
    assert bottom < of(low) - share
    assert end > of(top) + share


def test_a_range_that_was_set_stays(tmp_path):
    with small_multiples(tmp_path / "p.png", [""], ["a", "b"], labels=("x", "y")) as panels:
        for axes in panels.values():
            axes.plot([0, 1], [0, 100])
            axes.set_ylim(0, 100)
    assert {axes.get_ylim() for axes in panels.values()} == {(0.0, 100.0)}


def test_a_metric_is_drawn_against_what_runs_are_grouped_by(tmp_path):
    path = tmp_path / "panels.png"
    with small_multiples(path, [""], [""], labels=("x", "y")) as panels:
        axes = panels["", ""]
        plot_by(axes, {0.1: runs(0.5), 0.2: runs(0.6)}, "accuracy", scale=100, label="m", style=0)
        doubling(axes, [0.1, 0.2])
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [50.5, 60.5])
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.2"]


@pytest.mark.parametrize("log", [False, True])
def test_rows_of_dots_share_their_names_and_their_range(log, tmp_path):
    panels = {title: {"one": [1.0, 2.0], "two": [far]} for title, far in (("a", 3.0), ("b", 30.0))}
    path = dots_figure(tmp_path / "dots.png", panels, label="x", reference=1.0, log=log)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_thinned_curve_stands_where_its_abscissae_say():
    """A histogram of 64 delays is kept as 32 points: its peak must not move to half its place."""
    thinned = ([0, 2, 4, 6], [0.0, 1.0, 3.0, 1.0])
    short = ([0, 1, 2], [math.nan, 5.0, 6.0])
    rows = on_whole_numbers([thinned, short, ([0, 1], [math.nan, math.nan])])
    nan = math.nan
    np.testing.assert_array_equal(
        rows, [[0, 0.5, 1, 2, 3, 2, 1], [nan, 5, 6, nan, nan, nan, nan], [nan] * 7]
    )
