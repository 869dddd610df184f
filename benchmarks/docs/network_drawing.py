"""Small fully connected networks, drawn as the graph that their gauge is."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from common.results.plots import COLOURS

Style = Mapping[str, Any]
INPUT, OUTPUT, HIDDEN = "#e8e8e8", "#e8e8e8", "#ffffff"


def bare(axes: Axes, title: str = "") -> None:
    """Takes away everything but the drawing.

    Args:
        axes: where to draw.
        title: above it.
    """
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def places(widths: Sequence[int]) -> list[np.ndarray]:
    """Where the units of each layer stand; one array [width, 2] a layer.

    Args:
        widths: of all layers, inputs and outputs included.
    """
    return [
        np.stack([np.full(width, float(layer)), (width - 1) / 2 - np.arange(width)], axis=1)
        for layer, width in enumerate(widths)
    ]


def entries(widths: Sequence[int]) -> list[tuple[int, int, int]]:
    """(layer, from, to) of every entry of kernels [n, n'], in the order of their numbers.

    Args:
        widths: of all layers.
    """
    return [
        (layer, i, j)
        for layer, (n, n_next) in enumerate(itertools.pairwise(widths))
        for i in range(n)
        for j in range(n_next)
    ]


def draw_network(axes: Axes, widths: Sequence[int], styles: Mapping[int, Style]) -> None:
    """Units as circles, entries as lines; ground, at either end, is grey.

    Args:
        axes: where to draw.
        widths: of all layers.
        styles: of some entries, by their numbers; the others are thin and grey.
    """
    at = places(widths)
    for number, (layer, i, j) in enumerate(entries(widths)):
        style: dict[str, Any] = {"color": "#bbbbbb", "linewidth": 0.8, "zorder": 1} | dict(
            styles.get(number, {})
        )
        ends = np.stack([at[layer][i], at[layer + 1][j]])
        axes.plot(ends[:, 0], ends[:, 1], **style)
    for layer, units in enumerate(at):
        ground = layer in (0, len(at) - 1)
        axes.scatter(
            *units.T, s=170, zorder=3, color=INPUT if ground else HIDDEN, edgecolors="#333333"
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)


TREE: Style = {"color": COLOURS[0], "linewidth": 2.4, "zorder": 2}
FREE: Style = {"color": COLOURS[1], "linewidth": 2.4, "zorder": 2}
OTHER: Style = {"color": "#bbbbbb", "linewidth": 0.8, "zorder": 1}


def key(axes: Axes, lines: Sequence[tuple[str, Style]]) -> None:
    """A legend under a drawing.

    Args:
        axes: of the drawing.
        lines: label and style of each.
    """
    for label, style in lines:
        axes.plot([], [], label=label, **dict(style))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=len(lines), fontsize=8)
