"""Figures drawn from records, in one style, with the spread over seeds always shown."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from common.results.records import Record

# Okabe and Ito's palette: distinct to colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@contextlib.contextmanager
def figure(
    path: Path, *, rows: int = 1, columns: int = 1, panel: tuple[float, float] = (5.2, 3.6)
) -> Iterator[np.ndarray]:
    """A figure that is saved to `path` when the block ends, and never shown.

    Args:
        path: the PNG file to write.
        rows: panels down.
        columns: panels across.
        panel: width and height of one panel, inches.

    Yields:
        The panels, an object array of `matplotlib.axes.Axes`, shape [rows, columns].
    """
    with mpl.rc_context(_STYLE):
        # No pyplot: it would keep global state and look for a display.
        fig = Figure(figsize=(panel[0] * columns, panel[1] * rows))
        yield fig.subplots(rows, columns, squeeze=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(path)


def plot_curve(
    axes: Axes,
    records: Sequence[Record],
    *,
    x: str,
    y: str,
    label: str,
    style: int = 0,
    scale: float = 1.0,
    **options: Any,
) -> None:
    """One line: the mean over records of curve column `y` against `x`, the band one sd either side.

    Args:
        axes: where to draw.
        records: the seeds of one method in one setting; their columns `x` must agree.
        x: name of the abscissa's column.
        y: name of the ordinate's column; non-finite entries are left out of mean and band.
        label: the legend's entry.
        style: index into the palette.
        scale: factor on `y`, 100 for percent.
        **options: of `plot_spread`.

    Raises:
        ValueError: if the records' abscissae differ.
    """
    abscissa = np.asarray(records[0].curve[x], dtype=float)
    for record in records:
        if not np.array_equal(abscissa, np.asarray(record.curve[x], dtype=float)):
            raise ValueError(f"the records of one curve must share their {x!r} column.")
    values = scale * np.asarray([record.curve[y] for record in records], dtype=float)
    options = {"percent": scale == 100} | options
    plot_spread(axes, abscissa, values, label=label, style=style, **options)


def plot_spread(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    style: int = 0,
    marker: bool = False,
    geometric: bool = False,
    percent: bool = False,
) -> None:
    """Mean line and one-sd band of `values` over their first axis.

    Args:
        axes: where to draw.
        x: abscissa, shape [points].
        values: shape [seeds, points]; non-finite entries are left out.
        label: the legend's entry.
        style: index into the palette.
        marker: whether to mark the points.
        geometric: whether mean and sd are of the logarithms, for a logarithmic ordinate.
        percent: whether these are percentages: the band ends at 0 and 100.
    """
    masked = np.ma.masked_invalid(np.log(values) if geometric else values)
    mean = masked.mean(axis=0).filled(np.nan)
    back = np.exp if geometric else np.asarray
    colour = COLOURS[style % len(COLOURS)]
    axes.plot(
        x,
        back(mean),
        label=label,
        color=colour,
        linewidth=1.6,
        marker=MARKERS[style % len(MARKERS)] if marker else None,
        markersize=4,
    )
    if len(values) > 1:
        sd = masked.std(axis=0, ddof=1).filled(np.nan)
        low, high = back(mean - sd), back(mean + sd)
        if percent:
            low, high = np.maximum(low, 0), np.minimum(high, 100)
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def plot_dots(
    axes: Axes, rows: Mapping[str, Sequence[float]], *, scale: float = 1.0,
    absent: str = "diverged",
) -> None:  # fmt: skip
    """A row for each name: every seed a grey dot, their mean a mark with one sd either side.

    One colour serves any number of rows; names at the left tell them apart.

    Args:
        axes: where to draw.
        rows: the seeds of each, top to bottom; values that are not finite are left out.
        scale: factor on the values, 100 for percent.
        absent: what stands in a row without a finite value.
    """
    for i, seeds in enumerate(rows.values()):
        finite = scale * np.asarray([v for v in seeds if np.isfinite(v)], dtype=float)
        if not finite.size:
            axes.annotate(
                absent, (0.02, i), xycoords=("axes fraction", "data"), va="center",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # over a reference line
            )  # fmt: skip
            continue
        axes.plot(finite, np.full(finite.size, i), ".", color="#999999", markersize=6, zorder=1)
        sd = finite.std(ddof=1) if finite.size > 1 else 0.0
        axes.errorbar(
            [finite.mean()], [i], xerr=[sd], fmt="o", color=COLOURS[0], markersize=5, capsize=2.5
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
