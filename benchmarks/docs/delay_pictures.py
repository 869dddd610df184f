"""Pictures of delayed gradients, computed with dcasgd_jax."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes

from common.results.plots import COLOURS, figure
from dcasgd_jax import (
    Schedule,
    curvature_compensation,
    delay_compensation,
    exponential_times,
    gamma_times,
    hessian,
    hessian_diagonal,
    round_robin,
    simulate,
    stable_step,
    staleness_histogram,
    straggler_times,
    waves,
)


def taylor(path: Path) -> None:
    """A stale gradient and its repair: along one weight, and the error's order in many.

    Args:
        path: of the picture.
    """
    with figure(path, columns=2, panel=(4.6, 3.5)) as panels:
        _along_one_weight(panels[0, 0])
        _orders(panels[0, 1])


def _along_one_weight(axes: Axes) -> None:
    slope = jax.grad(lambda w: jnp.log1p(jnp.exp(-2.0 * w)) + 0.15 * w**2)
    stale, now = -0.9, 0.15
    w = np.linspace(-1.5, 0.9, 100)
    g, h = slope(stale).item(), jax.grad(slope)(stale).item()
    axes.plot(w, jax.vmap(slope)(jnp.asarray(w)), color="#444444", label="gradient")
    axes.plot(w, g + h * (w - stale), color=COLOURS[0], label="tangent: exact curvature")
    strength = 0.25
    axes.plot(
        w, g + strength * g * g * (w - stale), color=COLOURS[1], label="g + λ g² (w - w_stale)"
    )
    for value, colour, marker in (
        (slope(now).item(), "#444444", "o"),
        (g, COLOURS[3], "s"),
        (g + h * (now - stale), COLOURS[0], "^"),
        (g + strength * g * g * (now - stale), COLOURS[1], "D"),
    ):
        axes.plot(now, value, marker, color=colour, markersize=7, zorder=4)
    axes.hlines(g, stale, now, color=COLOURS[3], linestyles=":", label="used as it is")
    for where, name in ((stale, "w_stale"), (now, "w")):
        axes.axvline(where, color="#999999", linewidth=0.8)
        axes.text(where + 0.03, -2.25, name, fontsize=9)
    axes.set(
        xlabel="weight",
        title="gradients of a loss of one weight",
        ylim=(-2.3, 0.9),
        xlim=(-1.5, 0.9),
    )
    axes.legend(fontsize=8, loc="upper left")


def _orders(axes: Axes) -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "a": jax.random.normal(keys[0], (4, 16)) / 2,
        "b": jax.random.normal(keys[1], (16, 3)),
    }
    batch = (jax.random.normal(keys[2], (64, 4)), jax.random.randint(keys[3], (64,), 0, 3))

    def loss(p: Any, batch: Any) -> jax.Array:
        logits = jnp.tanh(batch[0] @ p["a"]) @ p["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def size_of(tree: Any) -> float:
        return float(optax.tree.norm(tree))

    gradient = jax.grad(loss)
    towards = optax.tree.random_like(keys[4], params)
    probed = hessian_diagonal(gradient, jax.random.key(1), num_probes=256)
    strengths = np.geomspace(0.1, 1e4, 26).tolist()
    rules: tuple[tuple[str, list[Any], str], ...] = (
        ("used as it is", [optax.identity()], COLOURS[3]),
        ("λ g² (best λ)", [delay_compensation(s) for s in strengths], COLOURS[1]),
        ("exact diagonal", [curvature_compensation(probed)], COLOURS[2]),
        ("exact Hessian", [curvature_compensation(hessian(gradient))], COLOURS[0]),
    )
    sizes = np.geomspace(1e-2, 0.6, 7)
    for name, choices, colour in rules:
        errors = []
        for share in (sizes / size_of(towards)).tolist():
            now = optax.tree.add_scale(params, share, towards)
            stale, fresh = gradient(params, batch), gradient(now, batch)
            left = []
            for choice in choices:
                tx = optax.with_extra_args_support(choice)
                made, _ = tx.update(stale, tx.init(now), now, stale_params=params, batch=batch)
                left.append(size_of(optax.tree.sub(made, fresh)))
            errors.append(min(left))
        width, line = (4.0, "-") if name == "used as it is" else (1.4, "o-")
        axes.loglog(sizes, errors, line, color=colour, markersize=3, linewidth=width, label=name)
    axes.set(xlabel="|w - w_stale|", title="error left, a tanh perceptron")
    axes.legend(fontsize=8)


def stability(path: Path) -> None:
    """The largest stable step on a quadratic: closed forms, and what the simulator does.

    Args:
        path: of the picture.
    """
    delays = np.array([0, 1, 3, 7, 15, 31])
    kappas = np.linspace(0.0, 1.6, 161)
    with figure(path, columns=2, panel=(4.6, 3.5)) as panels:
        axes = panels[0, 0]
        line = np.arange(32)
        axes.plot(
            line, [stable_step(int(t)) for t in line], color=COLOURS[3], label="ASGD, closed form"
        )
        axes.plot(delays, [_largest(int(t), 0.0) for t in delays], "s", color=COLOURS[3],
                  markersize=4, label="ASGD, simulated")  # fmt: skip
        axes.plot(line, np.full(32, 2.0), color=COLOURS[0], label="exact curvature, closed form")
        axes.plot(delays, [_largest(int(t), 1.0) for t in delays], "^", color=COLOURS[0],
                  markersize=4, label="exact curvature, simulated")  # fmt: skip
        axes.set(yscale="log", xlabel="delay τ", title="largest stable step times curvature")
        axes.legend(fontsize=8, loc="lower left")
        axes = panels[0, 1]
        for i, delay in enumerate((1, 3, 7, 15)):
            limits = [_limit(delay, kappa) for kappa in kappas]
            axes.plot(kappas, limits, color=COLOURS[i], label=f"τ = {delay}")
        above = kappas[kappas > 1]
        axes.plot(above, 2 / (2 * above - 1), "--", color="#444444", label="2 / (2κ - 1)")
        axes.set(xlabel="κ: compensation / curvature", title="largest stable step times curvature",
                 ylim=(0, 3.2))  # fmt: skip
        axes.legend(fontsize=8, loc="upper right")


def _largest(delay: int, kappa: float) -> float:
    """By bisection on runs of the simulator, w' = w - x (w_stale + κ (w - w_stale))."""
    num_steps = 40 * (delay + 1) + 400
    schedule = round_robin(delay + 1, num_steps)

    def gradient(w: Any, batch: Any) -> Any:
        return w

    curvature = curvature_compensation(hessian(gradient), strength=kappa)

    @jax.jit
    def end(step: jax.Array) -> jax.Array:
        tx, batches = optax.chain(curvature, optax.sgd(step)), jnp.zeros(num_steps)
        w: Any = simulate(gradient, jnp.ones(()), tx, schedule, batches)[0]
        return jnp.abs(w)

    low, high = 0.0, 4.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if end(jnp.float32(middle)) < 1.0 else (low, middle)
    return (low + high) / 2


def _limit(delay: int, kappa: float) -> float:
    """The step x from which on z^(τ+1) - (1 - κx) z^τ + x (1 - κ) has a root outside."""

    def radius(x: float) -> float:
        polynomial = np.zeros(delay + 2)
        polynomial[:2] = 1.0, -(1 - kappa * x)
        polynomial[-1] += x * (1 - kappa)
        return float(np.abs(np.roots(polynomial)).max())

    low, high = 0.0, 4.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if radius(middle) <= 1 + 1e-9 else (low, middle)
    return low


def diagonal(path: Path) -> None:
    """Why a diagonal cannot: a sharp direction that is no axis.

    Args:
        path: of the picture.
    """
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    matrix = (turn * [1.0, 0.05]) @ turn.T
    grid = np.linspace(-1.6, 1.6, 160)
    x, y = np.meshgrid(grid, grid)
    value = 0.5 * np.einsum("iab,ij,jab->ab", np.stack([x, y]), matrix, np.stack([x, y]))
    moves = (np.array([0.95, 0.95]), np.array([0.95, -0.95]))
    titles = ("moved along the sharp direction", "moved along the flat one")
    with figure(path, columns=2, panel=(4.0, 4.0)) as panels:
        for axes, move, title in zip(panels[0], moves, titles, strict=True):
            axes.contour(
                x,
                y,
                value,
                levels=[0.02, 0.08, 0.2, 0.4, 0.7, 1.1],
                colors="#bbbbbb",
                linewidths=0.8,
            )
            for vector, colour, name, width in (
                (move, "#bbbbbb", "w - w_stale", 7.0),
                (matrix @ move, COLOURS[0], "H (w - w_stale)", 3.5),
                (np.diag(matrix) * move, COLOURS[1], "diag(H) (w - w_stale)", 1.5),
            ):
                axes.annotate(
                    "",
                    xy=tuple(vector),
                    xytext=(0.0, 0.0),
                    arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": width,
                                "shrinkA": 0, "shrinkB": 0},
                )  # fmt: skip
                axes.plot([], [], color=colour, label=name, linewidth=width)
            axes.set(title=title, aspect="equal", xlabel="w₁", ylabel="w₂")
            axes.grid(visible=False)
        panels[0, 0].legend(fontsize=8, loc="upper left")


def arrivals(path: Path) -> None:
    """Who computes when, cut into waves.

    Args:
        path: of the picture.
    """
    clusters = (
        ("machines alike", gamma_times(4, 20, seed=1)),
        (
            "one machine four times as slow",
            straggler_times(4, 20, seed=1, slow_workers=1, slowdown=4.0),
        ),
    )
    with figure(path, columns=2, panel=(5.0, 2.9)) as panels:
        for axes, (title, schedule) in zip(panels[0], clusters, strict=True):
            starts = np.asarray(waves(schedule).start)
            wave = np.searchsorted(starts, np.arange(len(schedule.worker)), side="right") - 1
            begun = np.zeros(4)
            workers, clock = np.asarray(schedule.worker), np.asarray(schedule.clock)
            for t, (worker, end) in enumerate(zip(workers, clock, strict=True)):
                axes.barh(worker, end - begun[worker], left=begun[worker], height=0.62,
                          color=COLOURS[wave[t] % 6], edgecolor="white")  # fmt: skip
                begun[worker] = end
            axes.set(title=f"{title}: {len(starts)} waves", xlabel="simulated time",
                     yticks=range(4), ylabel="worker")  # fmt: skip
            axes.grid(visible=False)
            axes.invert_yaxis()


def staleness(path: Path) -> None:
    """How stale gradients are, and how many can be computed at once, by the kind of cluster.

    Args:
        path: of the picture.
    """
    clusters: tuple[tuple[str, Schedule], ...] = (
        ("turns", round_robin(16, 4000)),
        ("gamma, alike", gamma_times(16, 4000, seed=0)),
        ("gamma, unequal", gamma_times(16, 4000, seed=0, heterogeneity=0.6)),
        ("stragglers", straggler_times(16, 4000, seed=0, slow_probability=0.05, slowdown=4.0)),
        ("exponential", exponential_times(16, 4000, seed=0)),
    )
    with figure(path, columns=2, panel=(4.8, 3.4)) as panels:
        lengths = []
        for i, (name, schedule) in enumerate(clusters):
            counts = np.asarray(staleness_histogram(schedule.staleness))[:61]
            shares = counts / len(schedule.worker)
            panels[0, 0].plot(np.arange(len(shares)), shares, color=COLOURS[i], label=name)
            lengths.append(len(schedule.worker) / len(waves(schedule).start))
        panels[0, 0].set(xlabel="staleness", ylabel="share of gradients", yscale="log",
                         title="16 workers", ylim=(1e-3, 1.5))  # fmt: skip
        panels[0, 0].legend(fontsize=8)
        names = [name for name, _ in clusters]
        panels[0, 1].barh(names, lengths, color=[COLOURS[i] for i in range(len(names))])
        panels[0, 1].set(title="gradients a wave, on average")
        panels[0, 1].invert_yaxis()


PICTURES = {
    "taylor.png": taylor,
    "stability.png": stability,
    "diagonal.png": diagonal,
    "arrivals.png": arrivals,
    "staleness.png": staleness,
}
"""By file name, what draws it."""
