"""What all figures are made of: panels side by side, legends outside, marks and rows of dots."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.harness.reports import values
from common.results.plots import figure, plot_dots, plot_spread
from common.results.records import Record


@contextlib.contextmanager
def small_multiples(
    path: Path, rows: Sequence[Any], columns: Sequence[Any], *,
    labels: tuple[str | Callable[[Any], str], str | Callable[[Any], str]],
    title: Callable[[Any, Any], str] = lambda row, column: f"{row}, {column}",
    panel: tuple[float, float] = (3.4, 2.7), share: str = "row",
) -> Iterator[dict[tuple[Any, Any], Axes]]:  # fmt: skip
    """A grid of panels with one legend below, saved when the block ends; axes by (row, column).

    Labels are of abscissae, at the foot, for all columns or by column, and of ordinates, at the
    left, for all rows or by row. One range of ordinates is shared by a "row", by "all", or "none".
    """
    with figure(path, rows=len(rows), columns=len(columns), panel=panel) as grid:
        yield {(row, c): grid[i, j] for i, row in enumerate(rows) for j, c in enumerate(columns)}
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                grid[i, j].set_title(title(row, column), fontsize=10)
        for axes, column in zip(grid[-1], columns, strict=True):
            axes.set_xlabel(labels[0] if isinstance(labels[0], str) else labels[0](column))
        for axes, row in zip(grid[:, 0], rows, strict=True):
            axes.set_ylabel(labels[1] if isinstance(labels[1], str) else labels[1](row))
        for together in {"row": list(grid), "all": [grid.ravel()], "none": []}[share]:
            share_range(together, "y")
        legend_outside(grid)


def share_range(panels: Sequence[Axes], of: str) -> None:
    """Gives panels that are to be compared one range of abscissae, "x", or of ordinates, "y"."""
    limits = np.array([getattr(axes, f"get_{of}lim")() for axes in panels])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    if all(getattr(axes, f"get_autoscale{of}_on")() for axes in panels):
        # The margin of a panel of narrow range is narrow in the range of all, and cuts its marks.
        data = np.array([getattr(axes.dataLim, f"interval{of}") for axes in panels])
        scale = getattr(panels[0], f"{of}axis").get_transform()
        ends = scale.transform(np.array([data.min(), data.max()]))
        if np.isfinite(ends).all():
            margin = 0.05 * (ends[1] - ends[0])
            wide = scale.inverted().transform(ends + np.array([-margin, margin]))
            low, high = min(low, wide[0]), max(high, wide[1])
    for axes in panels:
        axes.set(**{f"{of}lim": (low, high)})


def legend_outside(grid: np.ndarray) -> None:
    """One legend for all panels, below them, where it covers no curve."""
    handles = {
        label: handle
        for axes in grid.ravel()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        whole, most = grid.flat[0].figure, 2 if grid.shape[1] < 3 else 4
        whole.legend(
            handles.values(), handles, loc="outside lower center", fontsize=9,
            ncols=min(most, len(handles)),
        )  # fmt: skip


def plot_by(
    axes: Axes, groups: Mapping[Any, Sequence[Record]], metric: str, *, scale: float = 1.0,
    **look: Any,
) -> None:  # fmt: skip
    """A metric against what records are grouped by: a mark for each group, one sd as a band."""
    columns = [values(runs, metric) for runs in groups.values()]
    look = {"percent": scale == 100} | look
    plot_spread(axes, list(groups), scale * np.asarray(columns).T, marker=True, **look)


def doubling(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic abscissa for values that double or so, each of them named."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def dots_figure(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], *, label: str,
    scale: float = 1.0, reference: float | None = None, log: bool = False,
    absent: str = "diverged",
) -> Path:  # fmt: skip
    """A panel for each title, in it a row of dots for each name (`common.plots.plot_dots`).

    Values are those of the seeds, by title and name, the same names in every panel; a line at the
    reference is drawn to compare with. A row without a finite value says what is `absent`.
    """
    names = list(next(iter(panels.values())))
    width = 2.9 + 0.08 * max(map(len, names)) / len(panels)  # names stand at the left, once
    with figure(path, columns=len(panels), panel=(width, 0.9 + 0.27 * len(names))) as grid:
        for axes, (title, rows) in zip(grid[0], panels.items(), strict=True):
            plot_dots(axes, rows, scale=scale, absent=absent)
            if reference is not None:
                axes.axvline(reference, color="black", linewidth=1)
            axes.set(title=title, xlabel=label, xscale="log" if log else "linear")
        for axes in grid[0, 1:]:
            axes.tick_params(labelleft=False)
        share_range(list(grid[0]), "x")
    return path


def on_whole_numbers(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> np.ndarray:
    """Curves over 0, 1, ... as rows, NaN where one has ended or not begun.

    Kept curves are thinned: what lies between their points is read off the line through them.

    Args:
        curves: (abscissae, whole and rising; ordinates, NaN where there is none) of each.

    Returns:
        Shape [curves, largest abscissa + 1], float64.
    """
    rows = np.full((len(curves), 1 + int(max(x[-1] for x, _ in curves))), np.nan)
    for row, (x, y) in zip(rows, curves, strict=True):
        known = np.isfinite(np.asarray(y, float))
        if known.any():
            places = np.arange(row.size)
            at, values = np.asarray(x, float)[known], np.asarray(y, float)[known]
            row[:] = np.interp(places, at, values, left=np.nan, right=np.nan)
    return rows
