"""Does path space ever blow up where training on weights does not? By default it must not.

Random ReLU networks (depth, widths with valleys, biases, skips, convolutions, gates), six
optimisers and steps from 1e-4 to 10, each run in every kind of coordinates from the same start:

- on weights;
- balanced, the default of `in_path_space`: the weights of the balanced copy of the start;
- balanced at every step: the balanced copy is kept by equi-normalisation after every step. For SGD
  this is the horizontal step, too: at a balanced point the gradient is orthogonal to the orbit;
- cycles: the tree of the largest balanced weights is frozen;
- directed paths, the papers', on the same tree.

In path space weights are bounded alike, as balanced coordinates advise.

Counted are runs that do not end finite, those among them that do on weights, and runs in which a
weight ends more than 100 times as large as the largest of the balanced copy of the same function.
What a kind of coordinates costs in quality is its loss at its best step over that on weights.

Skeletons need a graph, which gated networks are not, and are constants of a program: their rows are
run on the first networks only.

Cost: cpu 2 minutes on one core, day half an hour; full is ten times as many networks.
Command: python -m benchmarks gsgd_stability --preset day --seeds 1
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.registry import Context
from benchmarks.path_space.random_networks import KINDS, Network, draw_network
from common.results.plots import figure
from common.results.records import Record
from common.results.tables import group, markdown
from gsgd_jax import Gauge, balance, choose_skeleton, find_gauge, in_path_space
from gsgd_jax.coordinates.balanced import Balanced
from gsgd_jax.family import with_enorm

WEIGHTS, BALANCED, EVERY_STEP = "on weights", "balanced", "balanced at every step"
CYCLES, PATHS = "cycles, largest tree", "directed paths, largest tree"
OPTIMISERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "SGD": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "Adam": optax.adam,
    "RMSProp": optax.rmsprop,
    "Lion": optax.lion,
    "Muon": optax.contrib.muon,
}
OUTGROWN = 100.0
"""How many times the largest balanced weight of the same function a weight may be."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the experiment depends on."""

    networks: int = 2
    optimisers: tuple[str, ...] = ("SGD",)
    rates: tuple[float, ...] = (1e-3, 1e-1, 10.0)
    starts: int = 2
    """Initialisations of each network."""
    steps: int = 50
    skeletons: int = 1
    """On how many networks the rows with skeletons are run."""


PRESETS = {
    "smoke": Settings(),
    "cpu": Settings(networks=2, optimisers=tuple(OPTIMISERS), steps=100),
    "day": Settings(
        networks=12,
        optimisers=tuple(OPTIMISERS),
        rates=(1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 10.0),
        steps=200,
        skeletons=3,
    ),
    "full": Settings(
        networks=120,
        optimisers=tuple(OPTIMISERS),
        rates=(1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        starts=8,
        steps=400,
        skeletons=12,
    ),
}


class Ends(NamedTuple):
    """Where the runs of one program end."""

    params: Any  # leaves [rates, starts, ...]
    loss: np.ndarray  # [rates, starts]


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each kind of coordinates, network and optimiser.

    Args:
        settings: the experiment's.
        context: seeds, progress.
    """
    total = len(context.seeds) * settings.networks * len(settings.optimisers)
    with context.progress.task("random networks", total=total) as bar:
        for seed in context.seeds:
            for number in range(settings.networks):
                for optimiser in settings.optimisers:
                    stage = f"network {number}, {optimiser}, seed {seed}"
                    yield from context.stages.of(
                        stage, functools.partial(_compare, settings, number, optimiser, seed)
                    )
                    bar.advance(note=stage)


def _compare(settings: Settings, number: int, optimiser: str, seed: int) -> Iterator[Record]:
    """One network under one optimiser, in all coordinates."""
    network = draw_network(1000 * seed + number // len(KINDS), KINDS[number % len(KINDS)])
    starts = [
        network.init(np.random.default_rng([seed, number, i])) for i in range(settings.starts)
    ]
    group_ = find_gauge(network.apply, starts[0], network.inputs[:1])
    rates = np.asarray(settings.rates, np.float32)
    on_weights: Ends | None = None
    for coordinates, chosen in _rows(group_, starts, number < settings.skeletons):
        begun = time.perf_counter()
        parts = [
            trained(network, OPTIMISERS[optimiser], around, own, rates, settings.steps)
            for around, own in chosen
        ]
        ends = Ends(
            jax.tree.map(
                lambda *leaves: np.concatenate(leaves, 1), *(part.params for part in parts)
            ),
            np.concatenate([part.loss for part in parts], axis=1),
        )
        on_weights = ends if on_weights is None else on_weights
        yield Record(
            method=coordinates,
            setting={"network": network.name, "optimiser": optimiser},
            seed=seed,
            metrics=judged(ends, on_weights, group_),
            curve={"rate": list(settings.rates), "loss": _medians(ends.loss)},
            wall_time=time.perf_counter() - begun,
        )


Wrapped = Callable[[optax.GradientTransformation], optax.GradientTransformation]


def _rows(
    gauge: Any, starts: list[Any], skeletons: bool
) -> Iterator[tuple[str, list[tuple[Wrapped, list[Any]]]]]:
    """Kinds of coordinates: what is put around an optimiser, and the starts that it is for."""
    yield WEIGHTS, [(lambda inner: inner, starts)]
    yield BALANCED, [(lambda inner: in_path_space(inner, gauge), starts)]
    if not isinstance(gauge, Gauge):
        return
    copies = [balance(start, gauge) for start in starts]
    yield EVERY_STEP, [(lambda inner: with_enorm(inner, gauge), copies)]
    if skeletons:
        for name, options in (
            (CYCLES, {"basis": "cycles", "tree_values": "balanced"}),
            (PATHS, {"basis": "paths"}),
        ):
            choose = functools.partial(choose_skeleton, gauge, rule="largest", **options)
            yield (
                name,
                [
                    (functools.partial(_inside, coordinates=choose(start)), [start])
                    for start in starts
                ],
            )


def _inside(inner: optax.GradientTransformation, *, coordinates: Any) -> Any:
    return in_path_space(inner, coordinates, max_growth=Balanced.advised_growth)


def trained(
    network: Network,
    optimiser: Callable[[Any], optax.GradientTransformation],
    around: Wrapped,
    starts: list[Any],
    rates: np.ndarray,
    steps: int,
) -> Ends:
    """All steps sizes from all starts, side by side, as one program.

    Args:
        network: what is trained.
        optimiser: of a step size.
        around: what makes a transformation in some coordinates of it.
        starts: parameter trees.
        rates: step sizes, [n].
        steps: how many.
    """
    states = [around(optimiser(1.0)).init(start) for start in starts]  # frames are found here
    stacked, state = (jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (starts, states))

    def one(rate: jax.Array, params: Any, state: Any) -> tuple[Any, jax.Array]:
        tx = around(optimiser(rate))

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, state = carry
            updates, state = tx.update(jax.grad(network.loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, state), length=steps)
        return params, network.loss(params)

    from_each = jax.vmap(one, in_axes=(None, 0, 0))
    params, loss = jax.jit(jax.vmap(from_each, in_axes=(0, None, None)))(rates, stacked, state)
    return Ends(jax.device_get(params), np.asarray(loss))


def judged(ends: Ends, on_weights: Ends, gauge: Any) -> dict[str, float]:
    """Counts of what must not happen, and the loss at the best step over that on weights.

    Args:
        ends: of the runs in some coordinates.
        on_weights: of the same runs on weights.
        gauge: the network's group.
    """
    finite, there = (_finite(e) for e in (ends, on_weights))
    ratios = [_growth(ends.params, place, gauge) for place in zip(*np.nonzero(finite), strict=True)]
    best, usual = (np.where(_finite(e), e.loss, np.inf).min() for e in (ends, on_weights))
    return {
        "runs": float(finite.size),
        "finite": float(finite.sum()),
        "finite_on_weights": float(there.sum()),
        "overflowed": float((there & ~finite).sum()),
        "outgrown": float(sum(ratio > OUTGROWN for ratio in ratios)),
        "largest_growth": float(max(ratios, default=0.0)),
        "loss_over_weights": float(best / usual) if np.isfinite(usual) else math.nan,
    }


def _finite(ends: Ends) -> np.ndarray:
    """Which runs end with finite weights and a finite loss."""
    finite = np.isfinite(ends.loss)
    for leaf in jax.tree.leaves(ends.params):
        finite &= np.isfinite(leaf).all(axis=tuple(range(2, leaf.ndim)))
    return finite


def _growth(params: Any, place: tuple[int, ...], gauge: Any) -> float:
    """The largest weight over the largest one of the balanced copy of the same function."""
    own = jax.tree.map(lambda leaf: leaf[place], params)
    copy = balance(own, gauge)
    most, balanced = (
        max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree)) for tree in (own, copy)
    )
    return most / balanced


def _medians(losses: np.ndarray) -> list[float]:
    """Of each step size the median loss over starts; infinite where most runs overflow."""
    return np.median(np.where(np.isfinite(losses), losses, np.inf), axis=1).tolist()


def tables(records: Sequence[Record]) -> str:
    """What happened in each kind of coordinates, over all networks, optimisers and steps.

    Args:
        records: of this experiment.
    """
    header = [
        "coordinates", "runs", "not finite", "finite on weights", "overflowed, finite on weights",
        "finite, overflowed on weights",
        f"a weight over {OUTGROWN:g} times the balanced copy's", "largest such ratio",
        "loss at the best step / on weights",
    ]  # fmt: skip
    rows = []
    for method, own in group(records, lambda r: r.method).items():
        sums = {
            name: sum(r.metrics[name] for r in own)
            for name in ("runs", "finite", "finite_on_weights", "overflowed", "outgrown")
        }
        worst = max(r.metrics["largest_growth"] for r in own)
        quality = np.nanmedian([r.metrics["loss_over_weights"] for r in own])
        saved = sums["finite"] - (sums["finite_on_weights"] - sums["overflowed"])
        counts = (
            sums["runs"], sums["runs"] - sums["finite"], sums["finite_on_weights"],
            sums["overflowed"], saved, sums["outgrown"],
        )  # fmt: skip
        rows.append([method, *(f"{count:.0f}" for count in counts),
                     f"{worst:.3g}", f"{quality:.2f}"])  # fmt: skip
    balanced = [r for r in records if r.method == BALANCED]
    runs = sum(r.metrics["finite_on_weights"] for r in balanced)
    lost = sum(r.metrics["overflowed"] for r in balanced)
    saved = sum(r.metrics["finite"] for r in balanced) - (runs - lost)
    verdict = (
        f"Of {runs:.0f} runs that stay finite on weights, {lost:.0f} overflow in path space by "
        f"default; {saved:.0f} that overflow on weights stay finite there."
    )
    note = "The last column is the median over networks and optimisers."
    return "\n\n".join([verdict, markdown(header, rows), note])


CAPTIONS = {
    "best_losses.png": "A point for each network and optimiser: the loss at the best step size "
    "over that on weights. Left of the line the coordinates train better than weights. Far from "
    "the line both losses may be next to nothing, or neither run trains: the curves in the records "
    "tell.",
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """The loss at the best step over that on weights: a point for each network and optimiser.

    Args:
        records: of this experiment.
        out: folder of the figure.
    """
    path = out / "best_losses.png"
    methods = [name for name in group(records, lambda r: r.method) if name != WEIGHTS]
    names = list(group(records, lambda r: str(r.setting["optimiser"])))
    all_ratios = [r.metrics["loss_over_weights"] for r in records if r.method != WEIGHTS]
    finite = [ratio for ratio in all_ratios if np.isfinite(ratio) and ratio > 0] or [1.0]
    with figure(path, columns=len(methods)) as panels:
        for axes, method in zip(panels[0], methods, strict=True):
            for i, name in enumerate(names):
                ratios = [
                    r.metrics["loss_over_weights"]
                    for r in records
                    if r.method == method and r.setting["optimiser"] == name
                ]
                axes.plot(ratios, [i] * len(ratios), "o", alpha=0.6)
            axes.axvline(1.0, color="grey", linewidth=1)
            axes.set(xscale="log", title=method, yticks=range(len(names)), yticklabels=names)
            axes.set_xlim(min(finite) / 2, 2 * max(finite))  # alike, so that panels compare
            axes.set_xlabel("loss at the best step / on weights")
    return [path]
