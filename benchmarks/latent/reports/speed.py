"""Tables and plots of the speed of training and latent search, from their records alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.results.plots import figure, plot_bars
from common.results.records import Record
from common.results.tables import group, markdown, metric, number, summarise

TARGET = 5.0
"""The ratio that the search is meant to reach on CPU."""

TRAINING, SEARCH = "training", "latent search"
OURS, LOOP, AT_ONCE = "compiled", "per-batch loop", "per-batch loop, starts at once"
PRODUCT = "product of matrices"


def tables(records: Sequence[Record]) -> str:
    """Throughputs and their ratios, task by task and network by network.

    Args:
        records: of one experiment.

    Returns:
        Markdown.
    """
    parts = []
    for task, own in group(records, lambda r: str(r.setting["task"])).items():
        networks = group(own, lambda r: str(r.setting["decoder"]))
        parts.append(f"{task.capitalize()}:\n\n{_throughputs(task, networks)}")
        if task == SEARCH:
            parts += [f"- {_verdict(name, runs)}" for name, runs in networks.items()]
            parts.append(_compiled(networks))
    return "\n\n".join(parts)


def _throughputs(task: str, networks: dict[str, list[Record]]) -> str:
    loops = (LOOP, AT_ONCE) if task == SEARCH else (LOOP,)
    rows = []
    for name, own in networks.items():
        for way in (OURS, *loops):
            row = [name, way, f"{_mean(own, way, 'images_per_second'):,.0f}"]
            if way == OURS:
                row += ["", ""]
            else:
                row += [
                    _spread(ratios(own, way, speed))
                    for speed in ("images_per_second", "images_per_cpu_second")
                ]
            rows.append([*row, f"{100 * _share(own, way):.0f}", f"{1 / _share(own, way):.1f}"])
    header = [
        "decoder", "way", "images/s", f"{OURS} is faster by, seconds", "by, CPU seconds",
        "% of the product's rate", "times that rate leaves",
    ]  # fmt: skip
    return markdown(header, rows)


def _compiled(networks: dict[str, list[Record]]) -> str:
    rows = []
    for name, own in networks.items():
        ours = [record for record in own if record.method == OURS]
        row = [name, *(f"{_mean(own, way, 'first_call_seconds'):.1f}" for way in (OURS, LOOP))]
        row.append(number(metric(ours, "programs_later"), digits=0))
        row += [number(metric(ours, m), digits=1) for m in ("megabytes", "megabytes_whole")]
        rows.append(row)
    header = [
        "decoder", f"first call s, {OURS}", LOOP, "programs compiled in a later evaluation",
        "MB of a chunk's search", "of all images at once",
    ]  # fmt: skip
    return markdown(header, rows)


def _verdict(name: str, records: Sequence[Record]) -> str:
    found = ratios(records)
    most = 1 / _share(records, LOOP)
    text = f"{name}: {np.median(found):.1f} times the loop (target {TARGET:g}: "
    if min(found) >= TARGET:
        return text + "met)."
    text += f"missed); the loop itself reaches {100 / most:.0f}% of the product's rate, "
    if most < TARGET:
        return f"{text}so that no program of the same arithmetic is {TARGET:g} times as fast."
    return f"{text}which leaves {most:.1f} times."


def _mean(records: Sequence[Record], way: str, name: str) -> float:
    return summarise(r.metrics[name] for r in records if r.method == way).mean


def _share(records: Sequence[Record], way: str) -> float:
    """Of the product's rate, each by the processor's seconds."""
    name = "gflops_per_cpu_second"
    return _mean(records, way, name) / _mean(records, PRODUCT, name)


def _spread(found: Sequence[float]) -> str:
    """The median, and the range where there is more than one."""
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{np.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def ratios(
    records: Sequence[Record], way: str = LOOP, speed: str = "images_per_second"
) -> list[float]:
    """The compiled way's throughput over another's, a seed each.

    Args:
        records: of one task and network.
        way: the other.
        speed: the metric that tells it.
    """
    seeds = group(records, lambda r: r.seed)
    found = []
    for runs in seeds.values():
        of_way = {r.method: r.metrics[speed] for r in runs if r.method != PRODUCT}
        found.append(of_way[OURS] / of_way[way])
    return found


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The ratios of every task and network, a dot a seed.

    Args:
        records: of one experiment.
        out: the folder.

    Returns:
        The files written.
    """
    own = group(records, lambda r: f"{r.setting['task']}, {r.setting['decoder']}")
    path = out / "ratio.png"
    with figure(path, panel=(6.4, 2.6)) as panels:
        axes = panels[0, 0]
        plot_bars(axes, list(own), [ratios(runs) for runs in own.values()])
        axes.axvline(1.0, color="black", linewidth=1)
        axes.set(xlabel="images a second, compiled / per-batch loop")
    return [path]
