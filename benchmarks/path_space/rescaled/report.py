"""Tables and figures of rescaled starts, made from records only.

A record's setting holds problem, start, and spread (None for a start that was not rescaled at
random). Its metrics are start_accuracy, chance_accuracy, and by each protocol, tuned and kept, the
step size and the accuracy on test data; its curve is every step size that was tried.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.path_space.rescaled.board import CONTROL, PROTOCOLS, Board
from benchmarks.path_space.rescaled.rows import BALANCED, PATHS, WAYS, Way
from benchmarks.path_space.rescaled.verdict import verdict
from common.results.plots import COLOURS, MARKERS, figure, plot_spread
from common.results.records import Record
from common.results.tables import markdown, percent, summarise

_TITLES = {
    "tuned": "Step size tuned at each s: test accuracy, %",
    "kept": "Step size tuned at s = 0 and kept: test accuracy, %",
}


def tables(records: Sequence[Record]) -> str:
    """The verdict in words; then every row by s, a table for each network and protocol.

    Args:
        records: of this experiment.
    """
    board = Board(records)
    sections = [verdict(board)]
    for problem in board.problems:
        sections.append(f"### {problem}")
        for protocol in PROTOCOLS:
            sections += [f"**{_TITLES[protocol]}**", _by_start(board, problem, protocol)]
        if board.damages(problem):
            sections += [
                "**Damaged networks, fine-tuned at the step tuned for each: test accuracy, %**",
                _damaged(board, problem),
            ]
    return "\n\n".join(sections)


def _by_start(board: Board, problem: str, protocol: str) -> str:
    names = [*board.rescaled(problem), CONTROL]
    rows = [
        [board.row(rule, way), *(_cell(board, problem, rule, way, n, protocol) for n in names)]
        for rule in board.rules
        for way in WAYS
    ]
    return markdown(["row", *names], rows)


def _damaged(board: Board, problem: str) -> str:
    names = board.damages(problem)
    before = [percent(summarise(board.before(problem, name))) for name in names]
    rows = [["before fine-tuning", *before]]
    rows += [
        [board.row(rule, way), *(_cell(board, problem, rule, way, n, "tuned") for n in names)]
        for rule in board.rules
        for way in WAYS
    ]
    return markdown(["row", *names], rows)


def _cell(board: Board, problem: str, rule: str, way: Way, start: str, protocol: str) -> str:
    return percent(summarise(board.raw(problem, rule, way, start, protocol)))


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy against s, a figure for each protocol; and the damaged networks.

    Args:
        records: of this experiment.
        out: folder of the figures.
    """
    board = Board(records)
    written = [_against_s(board, protocol, out / f"{protocol}.png") for protocol in PROTOCOLS]
    damaged = [problem for problem in board.problems if board.damages(problem)]
    return written + [_damage_figure(board, p, out / "damaged.png") for p in damaged[:1]]


def _against_s(board: Board, protocol: str, path: Path) -> Path:
    """A panel for each rule and network, a line for each way."""
    shape = {"rows": len(board.rules), "columns": len(board.problems)}
    with figure(path, panel=(3.0, 2.1), **shape) as panels:
        for column, problem in zip(panels.T, board.problems, strict=True):
            names = board.rescaled(problem)
            spreads = [board.spread(problem, name) for name in names]
            low, high = 100.0, 0.0
            for axes, rule in zip(column, board.rules, strict=True):
                for i, way in enumerate(WAYS):
                    values = 100 * np.stack(
                        [board.values(problem, rule, way, name, protocol) for name in names], axis=1
                    )
                    plot_spread(axes, spreads, values, label=way.name, style=i, marker=True)
                    # Two rows that theory has fall together: one broad, the other dashed upon it.
                    if way == BALANCED:
                        axes.lines[-1].set(linewidth=4.5, alpha=0.5)
                    elif way == PATHS:
                        axes.lines[-1].set_linestyle("--")
                    low, high = min(low, values.mean(0).min()), max(high, values.mean(0).max())
            for axes in column:
                axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
            column[0].set_title(problem)
            column[-1].set_xlabel("s")
        for axes, rule in zip(panels[:, 0], board.rules, strict=True):
            axes.set_ylabel(rule)
        _head(panels, _TITLES[protocol])
    return path


def _head(panels: np.ndarray, title: str) -> None:
    """One legend above all panels, under the figure's title."""
    fig = panels[0, 0].figure
    handles, labels = panels[0, 0].get_legend_handles_labels()
    narrow = panels.shape[1] == 1
    fig.suptitle(title.replace(": ", ":\n") if narrow else title, fontsize=11)
    columns = 2 if narrow else len(labels)
    size = 8 if narrow else 10
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=size)


def _damage_figure(board: Board, problem: str, path: Path) -> Path:
    """A panel for each damage: the four ways of every rule, and the network before."""
    names = board.damages(problem)
    with figure(path, columns=len(names), panel=(3.2, 3.4)) as panels:
        for axes, name in zip(panels[0], names, strict=True):
            _dots(axes, board, problem, name)
            axes.set(title=name, xlabel="test accuracy, %")
        for axes in panels[0, 1:]:
            axes.tick_params(labelleft=False)
        _head(panels, f"{problem}: damaged networks fine-tuned, step tuned for each")
    return path


def _dots(axes: Axes, board: Board, problem: str, name: str) -> None:
    before = 100 * float(np.nanmean(board.before(problem, name)))
    for j, way in enumerate(WAYS):
        values = [100 * board.values(problem, rule, way, name, "tuned") for rule in board.rules]
        sds = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        places = np.arange(len(values)) + 0.16 * (j - 1.5)
        axes.errorbar(
            [v.mean() for v in values], places, xerr=sds, fmt=MARKERS[j], color=COLOURS[j],
            markersize=4, linewidth=1.2, label=way.name,
        )  # fmt: skip
    # Said, not drawn: it is often far outside, and the differences should stay in sight.
    axes.text(0.03, 0.02, f"before: {before:.1f}%", transform=axes.transAxes, fontsize=8)
    axes.set_yticks(range(len(board.rules)), board.rules)
    axes.set_ylim(-0.5, len(board.rules) - 0.3)
    axes.invert_yaxis()
