"""Plots: the lines drawn are the means and deviations of the records, written to a PNG file."""

import numpy as np
import pytest

from common.results.plots import figure, plot_curve, plot_dots, plot_spread
from common.results.records import Record


def records(columns):
    return [
        Record(method="m", setting={}, seed=i, metrics={}, wall_time=0.0,
               curve={"epoch": [1, 2, 3], "accuracy": column})
        for i, column in enumerate(columns)
    ]  # fmt: skip


def test_a_curve_is_mean_and_spread(tmp_path):
    columns = np.asarray([[0.1, 0.5, np.nan], [0.3, 0.7, 0.8]])
    with figure(tmp_path / "deep" / "curve.png") as panels:
        axes = panels[0, 0]
        plot_curve(axes, records(columns), x="epoch", y="accuracy", label="m", scale=100.0)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [20.0, 60.0, 80.0])
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].min() == pytest.approx(20.0 - 100 * np.std([0.1, 0.3], ddof=1))
    assert (tmp_path / "deep" / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_band_of_percentages_ends_at_0_and_100(tmp_path):
    columns = np.asarray([[0.6, 0.5, 0.0], [1.0, 0.5, 0.1], [1.0, 0.5, 0.0]])
    with figure(tmp_path / "curve.png") as panels:
        axes = panels[0, 0]
        plot_curve(axes, records(columns), x="epoch", y="accuracy", label="m", scale=100.0)
        heights = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (0, 100)
        plot_curve(axes, records(columns), x="epoch", y="accuracy", label="m")
        heights = axes.collections[1].get_paths()[0].vertices[:, 1]
        assert heights.min() < 0 < 1 < heights.max()


def test_curves_on_different_abscissae_are_refused(tmp_path):
    mixed = records([[1, 2, 3]])
    other = Record(method="m", setting={}, seed=1, metrics={}, wall_time=0.0,
                   curve={"epoch": [2, 3, 4], "accuracy": [1, 2, 3]})  # fmt: skip
    with (
        figure(tmp_path / "c.png") as panels,
        pytest.raises(ValueError, match="share their 'epoch'"),
    ):
        plot_curve(panels[0, 0], [*mixed, other], x="epoch", y="accuracy", label="m")


def test_rows_show_every_seed_and_name_what_diverged(tmp_path):
    with figure(tmp_path / "b.png") as panels:
        axes = panels[0, 0]
        plot_dots(axes, {"a": [0.5, 0.7, np.nan], "b": [np.nan]}, scale=100.0)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), [50.0, 70.0])
        (mean,) = [line for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(mean.get_xdata(orig=False), [60.0])
        assert [t.get_text() for t in axes.texts] == ["diverged"]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
        plot_dots(axes, {"a": [0.5], "b": [np.inf]}, absent="never")
        assert [t.get_text() for t in axes.texts] == ["diverged", "never"]


def test_on_a_logarithmic_axis_the_mean_is_the_geometric_one(tmp_path):
    with figure(tmp_path / "b.png") as panels:
        axes = panels[0, 0]
        plot_spread(axes, [1.0], np.asarray([[1e-4], [1e-2]]), label="m", geometric=True)
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [1e-3])
        band = axes.collections[0].get_paths()[0].vertices
        assert band[:, 1].max() == pytest.approx(1e-3 * 10 ** np.std([-4, -2], ddof=1))
