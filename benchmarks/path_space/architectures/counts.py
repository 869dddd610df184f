"""Is the rescaling group that is found the whole one? On published networks, counted twice.

Networks from LeNet to GPT, each rebuilt at small width as its authors write it. `find_gauge` counts
the scales that can be moved, from shapes alone. Without tracing, in float64, they are counted as
the directions v that are in the null space of d(outputs)/d(log|w|) at many random parameters and
inputs at once. Then exp(t v) leaves the outputs alone for all t, and nothing else is a scaling.
Both counts must be equal: fewer found would be scales that were missed, more would be wrong.

Parameters that the outputs never see are in neither count: a shift that the next norm's mean takes
away, the bias of keys, which a softmax does not see. Networks that are stacks of equal layers, or
steps in time, are written as a loop and as a scan, which must be the same function with the same
count. Last, a random finite rescaling of the float64 network must leave its outputs alone. Norms
have the epsilon 1e-5 for the count by tracing, and next to none where rescaling is to be exact.

Cost: day 6 minutes on one core; full draws ten times as many parameters and inputs, and was not
run.
Command: python -m benchmarks gsgd_architectures --preset day --seeds 1
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.harness.reports import magnitude
from benchmarks.path_space.architectures import ARCHITECTURES, Architecture, Form, drawn
from benchmarks.path_space.architectures.architecture import like, stacked
from benchmarks.path_space.architectures.null_space import common_null_space
from common.results.plots import figure
from common.results.records import Record
from common.results.tables import markdown
from gsgd_jax import find_gauge

EXACT = 1e-13
"""The epsilon of norms where rescaling is to leave outputs alone to rounding."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    networks: tuple[str, ...] = tuple(ARCHITECTURES)
    draws: int = 24
    """Of parameters and inputs, at least."""
    examples: int = 16
    """In the inputs of each draw."""


PRESETS = {
    "smoke": Settings(networks=("maxout", "GCN", "actor-critic"), draws=8),
    "cpu": Settings(draws=4),
    "day": Settings(),
    "full": Settings(draws=240),
}


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each network and seed.

    Args:
        settings: the experiment's.
        context: seeds, progress.

    Raises:
        ValueError: if a network is unknown.
    """
    if unknown := set(settings.networks) - ARCHITECTURES.keys():
        raise ValueError(
            f"networks are {', '.join(ARCHITECTURES)}, got {', '.join(sorted(unknown))}."
        )
    with context.progress.task("networks", total=len(settings.networks)) as bar:
        for seed in context.seeds:
            for name in settings.networks:
                stage = functools.partial(_compared, ARCHITECTURES[name], settings, seed)
                yield from context.stages.of(f"{name}, seed {seed}", stage)
                bar.advance(note=name)


def _compared(row: Architecture, settings: Settings, seed: int) -> Iterator[Record]:
    """One network, counted both ways."""
    begun = time.perf_counter()
    groups = [traced(row, form) for form in row.forms]
    group = groups[0]
    with jax.enable_x64(True):  # pyright: ignore[reportCallIssue] (a jax State)
        built = row.build(Form(epsilon=EXACT))

        def draw(number: int) -> tuple[Any, tuple[Any, ...]]:
            number += 10_000 * seed
            params = drawn(built.shapes, number, row.gain)
            return params, row.inputs(settings.examples, number)

        counts = common_null_space(built.network, draw, least_draws=settings.draws)
        params, inputs = draw(0)
        network = jax.jit(built.network)
        moved = group.rescale(params, jax.random.key(seed), spread=0.5)
        metrics = {"rescaled_deviation": _apart(network(params, *inputs), network(moved, *inputs))}
        if row.stack:
            scanned = jax.jit(row.build(Form(scanned=True, epsilon=EXACT)).network)
            outputs = scanned(stacked(params), *inputs)
            metrics["scanned_deviation"] = _apart(network(params, *inputs), outputs)
            metrics["scanned_nodes"] = float(groups[1].num_nodes)
    pinned = {p.primitive: 0 for p in group.pins}
    for pin in group.pins:
        pinned[pin.primitive] += pin.scales
    because = "; ".join(
        f"{name} ({count}): {row.pins.get(name, 'unexplained')}" for name, count in pinned.items()
    )
    yield Record(
        method=row.name,
        setting={"source": row.source, "framework": row.framework, "pins": because},
        seed=seed,
        metrics={
            "parameters": float(group.num_entries),
            "nodes": float(group.num_nodes),
            "absorbing": float(len(getattr(group, "absorbing", ()))),
            **{name: float(value) for name, value in counts._asdict().items()},
            **metrics,
        },
        wall_time=time.perf_counter() - begun,
    )


def traced(row: Architecture, form: Form) -> Any:
    """The group of a network in a form, from shapes alone.

    Args:
        row: the network.
        form: how it is written.
    """
    built = row.build(form)
    return find_gauge(built.network, built.shapes, *like(row.inputs()))


def _apart(one: Any, other: Any) -> float:
    """The largest difference of two outputs, over the largest of each."""
    gaps = [
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(a))))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return max(gaps)


def tables(records: Sequence[Record]) -> str:
    """Every network with both counts, and what pins its other scales.

    Args:
        records: of this experiment.
    """
    header = [
        "network", "source", "written in", "parameters", "nodes found", "of them absorbing",
        "scalings in the null space", "parameters never seen", "nodes of the scan",
        "pinned (scales): because",
    ]  # fmt: skip
    rows = []
    for record in records:
        metrics, setting = record.metrics, record.setting
        counts = [
            f"{metrics[name]:.0f}"
            for name in ("parameters", "nodes", "absorbing", "scalings", "unseen")
        ]
        scan = f"{metrics['scanned_nodes']:.0f}" if "scanned_nodes" in metrics else "no stack"
        rows.append([record.method, str(setting["source"]), str(setting["framework"]), *counts,
                     scan, str(setting["pins"]) or "-"])  # fmt: skip
    return "\n\n".join([verdict(records), markdown(header, rows)])


def verdict(records: Sequence[Record]) -> str:
    """How many networks have equal counts, in words.

    Args:
        records: of this experiment.
    """
    every = [record.metrics for record in records]
    equal = sum(m["nodes"] == m["scalings"] for m in every)
    fewer, more = (
        [r.method for r in records if sign * (r.metrics["nodes"] - r.metrics["scalings"]) > 0]
        for sign in (-1, 1)
    )
    stacks = [m for m in every if "scanned_nodes" in m]
    alike = sum(m["nodes"] == m["scanned_nodes"] for m in stacks)
    lines = [
        f"In {equal} of {len(every)} networks tracing finds as many nodes as there are scalings.",
        f"Fewer: {', '.join(fewer) or 'none'}. More: {', '.join(more) or 'none'}.",
        f"{alike} of {len(stacks)} stacks have as many as a scan as they have as a loop.",
        "A random rescaling moves the outputs by at most "
        f"{magnitude(max(m['rescaled_deviation'] for m in every))} of the largest",
    ]
    if stacks:
        apart = max(m["scanned_deviation"] for m in stacks)
        lines[-1] += f"; loop and scan differ by at most {magnitude(apart)}"
    return " ".join(lines) + "."


CAPTIONS = {
    "gap.png": "A pair of points for each network: the largest singular value of "
    "d(outputs)/d(log|w|) that counts as zero, and the smallest of the others, over the largest of "
    "all. What counts as zero is rounding, far below the rest: the count hangs on no threshold.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The singular values on both sides of what counts as zero.

    Args:
        records: of this experiment.
        out: folder of the figure.
    """
    path = out / "gap.png"
    order = sorted(records, key=lambda r: r.metrics["parameters"])
    sizes = [r.metrics["parameters"] for r in order]
    with figure(path) as panels:
        axes = panels[0, 0]
        for name, label in (("smallest_other", "smallest other"), ("largest_null", "largest zero")):
            values = [max(r.metrics[name], 1e-18) for r in order]
            axes.plot(sizes, values, "o", label=label, alpha=0.7)
        axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="singular value / largest")
        axes.legend()
    return [path]
