"""Pictures of path space, computed with gsgd_jax wherever they show a result."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.docs.network_drawing import (
    FREE,
    OTHER,
    TREE,
    bare,
    draw_network,
    entries,
    key,
    places,
)
from common.results.plots import COLOURS, figure
from gsgd_jax import (
    allocate,
    basis_paths,
    choose_skeleton,
    gsgd,
    mlp_gauge,
    path_values,
)

_SCALES = (0.5, 1.0, 2.0)


def _layers(params: Any, x: jax.Array) -> jax.Array:
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1]


def _network(widths: tuple[int, ...]) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(widths))
    pairs = zip(keys[:-1], widths[:-1], widths[1:], strict=True)
    return [jax.random.normal(key, (n, n_next)) for key, n, n_next in pairs]


def rescaling(path: Path) -> None:
    """What one element of the rescaling group does.

    Args:
        path: of the picture.
    """
    widths = (3, 3, 2)
    at = places(widths)
    into = [e for e, (layer, _, j) in enumerate(entries(widths)) if layer == 0 and j == 1]
    out = [e for e, (layer, i, _) in enumerate(entries(widths)) if layer == 1 and i == 1]
    styles = dict.fromkeys(into, TREE) | dict.fromkeys(out, FREE)
    with figure(path, panel=(5.2, 3.2)) as panels:
        axes = panels[0, 0]
        bare(axes)
        draw_network(axes, widths, styles)
        x, y = at[1][1]
        axes.text(x, y, "h", ha="center", va="center", zorder=4)
        axes.text(0.5, 1.05, "w → w · c", color=COLOURS[0], ha="center", fontsize=11)
        axes.text(1.5, 1.05, "w → w / c", color=COLOURS[1], ha="center", fontsize=11)
        for layer, name in enumerate(("inputs\n(ground)", "units\n(nodes)", "outputs\n(ground)")):
            axes.text(layer, -1.55, name, ha="center", fontsize=9)


def skeleton(path: Path) -> None:
    """The two arborescences, a basis path, and the cycle that the same entry closes.

    Args:
        path: of the picture.
    """
    widths = (3, 3, 4, 2)
    params = _network(widths)
    gauge = mlp_gauge(params)
    chosen = choose_skeleton(gauge, params, basis="paths")
    tree, out = set(chosen.in_edges.tolist()), set(chosen.out_edges.tolist())
    styles = dict.fromkeys(out - tree, FREE) | dict.fromkeys(tree, TREE)
    numbered = entries(widths)
    off = [e for e in range(len(numbered)) if e not in tree]
    entry = numbered.index((1, 0, 2))
    way = basis_paths(chosen)[off.index(entry)]
    ends = {e: (layer, i, j) for e, (layer, i, j) in enumerate(numbered)}
    cycle, (layer, i, j) = {entry}, ends[entry]
    for start in ((layer, i), (layer + 1, j)):  # both ways back to ground, along the tree
        where = start
        while where[0] > 0:
            edge = next(e for e in tree if (ends[e][0] + 1, ends[e][2]) == where)
            cycle, where = cycle | {edge}, ends[edge][:2]
    marked = {"color": COLOURS[2], "linewidth": 3.0, "zorder": 2}
    with figure(path, columns=3, panel=(3.7, 3.6)) as panels:
        titles = ("tree T and free skeleton S", "basis “paths”", "basis “cycles”")
        looks = (
            styles,
            dict.fromkeys(way, marked),
            dict.fromkeys(tree, TREE) | dict.fromkeys(cycle, marked),
        )
        for axes, title, look in zip(panels[0], titles, looks, strict=True):
            bare(axes, title)
            draw_network(axes, widths, look)
        key(panels[0, 0], (("T", TREE), ("S", FREE), ("N", OTHER)))
        key(panels[0, 1], (("the path of one entry of N", marked),))
        key(panels[0, 2], (("the cycle it closes", marked), ("T", TREE)))


def trajectories(path: Path) -> None:
    """SGD and G-SGD from three starts that are one function.

    Args:
        path: of the picture.
    """

    def loss(params: Any) -> jax.Array:
        return jnp.sum((_layers(params, jnp.ones((1, 1))) - 1.0) ** 2)

    def run(tx: optax.GradientTransformation, scale: float) -> np.ndarray:
        params = [jnp.array([[scale]]), jnp.array([[0.15 / scale]])]
        state, seen = tx.init(params), [[scale, 0.15 / scale]]
        for _ in range(25):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params: Any = optax.apply_updates(params, updates)
            seen.append([params[0].item(), params[1].item()])
        return np.array(seen)

    start = [jnp.array([[1.0]]), jnp.array([[0.15]])]
    ways = (
        ("SGD", optax.sgd(0.05)),
        ("G-SGD", gsgd(0.05, choose_skeleton(mlp_gauge(start), start, basis="paths"))),
    )
    grid = np.linspace(0.02, 2.3, 200)
    values = grid[None, :] * grid[:, None]
    with figure(path, columns=3, panel=(3.8, 3.6)) as panels:
        for axes, (name, tx) in zip(panels[0], ways, strict=False):
            axes.contour(grid, grid, values, levels=[0.15, 0.4, 1.0], colors="#999999",
                         linewidths=[0.9, 0.9, 1.8])  # fmt: skip
            for i, scale in enumerate(_SCALES):
                seen = run(tx, scale)
                axes.plot(*seen.T, color=COLOURS[i], marker="o", markersize=2.5, linewidth=1.2)
                axes.plot(*seen[0], color=COLOURS[i], marker="s", markersize=6)
                line = "--" if name == "SGD" else "-"
                panels[0, 2].plot(seen.prod(axis=1), line, color=COLOURS[i], linewidth=1.4)
            axes.set(title=name, xlabel="w₁", ylabel="w₂", xlim=(0, 2.3), ylim=(0, 2.3))
            axes.grid(visible=False)
        axes = panels[0, 2]
        axes.plot([], [], "--", color="#444444", label="SGD, three starts")
        axes.plot([], [], "-", color="#444444", label="G-SGD, the same three")
        axes.set(title="the function w₁w₂", xlabel="step", ylim=(0, 1.1))
        axes.legend(loc="lower right", fontsize=8)


def valley(path: Path) -> None:
    """A skeleton where one layer is narrower than both its neighbours.

    Args:
        path: of the picture.
    """
    with figure(path, columns=2, panel=(4.4, 3.4)) as panels:
        for axes, widths in zip(panels[0], ((3, 4, 4, 4, 3), (3, 4, 2, 4, 3)), strict=True):
            params = _network(widths)
            gauge = mlp_gauge(params)
            chosen = choose_skeleton(gauge, params, basis="paths")
            tree, out = set(chosen.in_edges.tolist()), set(chosen.out_edges.tolist())
            bare(axes, f"widths {'-'.join(map(str, widths))}: H = {len(tree)} tree entries")
            look = dict.fromkeys(out - tree, FREE) | dict.fromkeys(tree, TREE)
            draw_network(axes, widths, look)
            key(axes, (("T, kept", TREE), ("S, free", FREE)))


def sign(path: Path) -> None:
    """What happens as the value of a free skeleton path nears zero and passes it.

    Args:
        path: of the picture.
    """
    params = [jnp.array([[1.0], [0.5]]), jnp.array([[1.0]])]
    chosen = choose_skeleton(mlp_gauge(params), params, basis="paths")
    values: Any = path_values(params, chosen)
    x = jnp.array([[0.2, 1.0]])
    asked = np.concatenate([np.linspace(1.0, 0.04, 80), np.linspace(-0.04, -0.6, 50)])
    into, told = [], []
    for value in asked:
        moved: Any = allocate([values[0], jnp.full((1, 1), value)], params, chosen)
        into.append(moved[0][1, 0].item())
        told.append(_layers(moved, x).item())
    split = int((asked > 0).sum())
    with figure(path, columns=2, panel=(4.2, 3.2)) as panels:
        texts = ("a weight into the node", "the output for one input")
        for axes, series, text in zip(panels[0], (into, told), texts, strict=True):
            for part in (slice(None, split), slice(split, None)):
                axes.plot(asked[part], series[part], color=COLOURS[0], linewidth=1.6)
            axes.axvline(0.0, color="#444444", linewidth=0.8)
            axes.axvspan(0.1, 1.0, color=COLOURS[2], alpha=0.12, linewidth=0)
            axes.set(xlabel="value of the free skeleton path", title=text)
            axes.invert_xaxis()


def no_graph(path: Path) -> None:
    """Where scales form no graph: a norm that absorbs, and a gated unit with three scales.

    Args:
        path: of the picture.
    """
    dot = {"s": 420, "zorder": 3, "edgecolors": "#333333"}
    arrow = {"arrowstyle": "-|>", "shrinkA": 13, "shrinkB": 13, "linewidth": 1.6}
    with figure(path, columns=2, panel=(4.6, 3.0)) as panels:
        norm, gated = panels[0]
        bare(norm, "normalisation: nothing leaves its node")
        spots = {"ground": (0, 0), "a": (1.3, 0.8), "c": (2.2, 0), "next": (3.5, 0)}
        for name, spot in spots.items():
            ground = name in ("ground", "next")
            norm.scatter(*spot, color="#e8e8e8" if ground else "#ffffff", **dot)
            norm.text(*spot, "" if ground else name, ha="center", va="center", zorder=4)
        for first, last, text, colour in (
            ("ground", "a", "kernel", COLOURS[0]),
            ("ground", "c", "scale, shift", COLOURS[2]),
            ("c", "next", "next kernel", COLOURS[1]),
        ):
            ends = {"xy": spots[last], "xytext": spots[first]}
            norm.annotate("", **ends, arrowprops=arrow | {"color": colour})
            middle = np.mean([spots[first], spots[last]], axis=0)
            lift = 0.22 if first == "ground" and last == "a" else -0.24
            norm.text(
                middle[0] - 0.1, middle[1] + lift, text, color=colour, ha="center", fontsize=9
            )
        norm.text(1.3, 1.06, "before the norm", ha="center", fontsize=9)
        norm.text(2.35, 0.35, "after it", ha="center", fontsize=9)
        norm.set(xlim=(-0.4, 3.9), ylim=(-0.6, 1.3))
        bare(gated, "gated unit: relu(x A) · (x B), then C")
        spots = {"u": (1.2, 0.7), "g": (1.2, -0.7), "": (0, 0), " ": (3.2, 0)}
        for name, spot in spots.items():
            gated.scatter(*spot, color="#ffffff" if name.strip() else "#e8e8e8", **dot)
            gated.text(*spot, name, ha="center", va="center", zorder=4)
        for last, text, colour in (("u", "A · u", COLOURS[0]), ("g", "B · g", COLOURS[2])):
            gated.annotate(
                "", xy=spots[last], xytext=spots[""], arrowprops=arrow | {"color": colour}
            )
            y = 0.62 if last == "u" else -0.62
            gated.text(0.45, y, text, color=colour, ha="center", va="center", fontsize=9)
        for first in ("u", "g"):
            gated.plot(
                [spots[first][0] + 0.14, 2.1], [spots[first][1] * 0.9, 0.0], color=COLOURS[1]
            )
        gated.annotate(
            "", xy=spots[" "], xytext=(2.0, 0.0), arrowprops=arrow | {"color": COLOURS[1]}
        )
        gated.text(2.45, 0.3, "C / (u g)", color=COLOURS[1], ha="center", fontsize=9)
        gated.set(xlim=(-0.4, 3.6), ylim=(-1.2, 1.2))


PICTURES = {
    "rescaling.png": rescaling,
    "skeleton.png": skeleton,
    "trajectories.png": trajectories,
    "valley.png": valley,
    "sign.png": sign,
    "no_graph.png": no_graph,
}
"""By file name, what draws it."""
