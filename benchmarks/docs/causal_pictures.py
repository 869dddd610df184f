"""Pictures of latent causes: the graph, a correlation that flips, what identification needs."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse
from sklearn.linear_model import LogisticRegression

from benchmarks.docs.network_drawing import bare
from common.results.plots import COLOURS, figure
from lacim_jax import domain_diversity


def causal_graph(path: Path) -> None:
    """Who causes whom, and what differs between domains.

    Args:
        path: of the picture.
    """
    spots = {"D": (0, 0), "C": (1, 0), "S": (2, 0.65), "V": (2, -0.65), "Y": (3.1, 0.65),
             "X": (3.1, -0.35)}  # fmt: skip
    seen, varies = {"D", "X", "Y"}, {("D", "C"), ("C", "S"), ("C", "V")}
    edges = (*varies, ("S", "Y"), ("S", "X"), ("V", "X"))
    with figure(path, panel=(6.4, 3.0)) as panels:
        axes = panels[0, 0]
        bare(axes)
        for first, last in sorted(edges):
            colour = COLOURS[1] if (first, last) in varies else COLOURS[0]
            axes.annotate("", xy=spots[last], xytext=spots[first],
                          arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2.0,
                                      "shrinkA": 15, "shrinkB": 16})  # fmt: skip
        for name, spot in spots.items():
            colour = "#dddddd" if name in seen else "#ffffff"
            axes.scatter(*spot, s=620, color=colour, edgecolors="#333333", zorder=3)
            axes.text(*spot, name, ha="center", va="center", zorder=4, fontsize=12)
        for x, y, text in (
            (0, -0.42, "domain"),
            (1, -0.42, "what makes\ndomains differ"),
            (2, 1.02, "causes of the label"),
            (2, -1.08, "the rest"),
            (3.5, 0.6, "label"),
            (3.5, -0.4, "image"),
        ):
            middle = "left" if x > 3 else "center"
            axes.text(x, y, text, ha=middle, va="top" if y < -0.41 else "bottom", fontsize=9)
        axes.plot(
            [], [], color=COLOURS[1], linewidth=2, label="p(s, v | d): its own in each domain"
        )
        axes.plot(
            [], [], color=COLOURS[0], linewidth=2, label="p(x | s, v), p(y | s): the same in all"
        )
        axes.set(xlim=(-0.5, 4.3), ylim=(-1.5, 1.45))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=2, fontsize=8.5)


def flip(path: Path) -> None:
    """A correlation that flips its sign, and the rule that was learnt from it.

    Args:
        path: of the picture.
    """
    rng = np.random.default_rng(0)

    def drawn(rho: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
        latents = rng.multivariate_normal([0.0, 0.0], [[1.0, rho], [rho, 1.0]], count)
        labels = rng.random(count) < 1 / (1 + np.exp(-3 * latents[:, 0]))
        return latents + rng.normal(size=(count, 2)) * [1.0, 0.1], labels

    train, test = [drawn(0.9), drawn(0.8)], drawn(-0.9)
    images, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    slope = LogisticRegression().fit(images, labels).coef_[0]
    with figure(path, columns=2, panel=(4.4, 3.8)) as panels:
        titles = ("the two training domains", "the test domain")
        for axes, title, rhos in zip(panels[0], titles, ((0.9, 0.8), (-0.9,)), strict=True):
            images, labels = train[0] if len(rhos) == 2 else test
            for label, name, colour in ((0, "y = 0", COLOURS[5]), (1, "y = 1", COLOURS[4])):
                some = images[:1500][labels[:1500] == label]
                axes.plot(*some.T, ".", color=colour, markersize=2.2, alpha=0.6)
                axes.plot([], [], ".", color=colour, markersize=8, label=name)
            for rho in rhos:
                _ellipse(axes, rho)
            line = np.array([-4.0, 4.0])
            axes.plot(
                line, -slope[0] / slope[1] * line, color=COLOURS[1], linewidth=2.2, label="ERM"
            )
            axes.axvline(0.0, color=COLOURS[0], linewidth=2.2, label="the cause alone")
            right = (labels == (images @ slope > 0)).mean(), (labels == (images[:, 0] > 0)).mean()
            axes.set(title=title, xlim=(-4, 4), ylim=(-4, 4),
                     xlabel=f"x₁ = s + noise\nright: ERM {right[0]:.0%}, the cause {right[1]:.0%}",
                     ylabel="x₂ = v + little noise")  # fmt: skip
            axes.grid(visible=False)
        panels[0, 1].legend(fontsize=8, loc="upper right")


def _ellipse(axes: Axes, rho: float) -> None:
    """Two standard deviations of the latents' prior."""
    sizes = 4 * np.sqrt([1 + rho, 1 - rho])
    axes.add_patch(
        Ellipse((0, 0), *sizes, angle=45, fill=False, edgecolor="#333333", linestyle="--")
    )


def diversity(path: Path) -> None:
    """How many domains identification asks for, and how far from failing it is beyond that.

    Args:
        path: of the picture.
    """
    dims = np.arange(1, 17)
    with figure(path, columns=2, panel=(4.6, 3.3)) as panels:
        axes = panels[0, 0]
        axes.plot(dims, 2 * dims + 1, "o-", color=COLOURS[0], markersize=3, label="diagonal")
        axes.plot(dims, dims + dims * (dims + 1) // 2 + 1, "s-", color=COLOURS[1], markersize=3,
                  label="full covariance")  # fmt: skip
        axes.set(xlabel="dimensions of s", title="domains needed", yscale="log")
        axes.legend(fontsize=8)
        axes = panels[0, 1]
        counts = np.arange(2, 13)
        for i, spread in enumerate((1.0, 0.3)):
            smallest = np.array(
                [[_smallest(int(m), spread, seed) for m in counts] for seed in range(300)]
            )
            axes.plot(counts, np.median(smallest, axis=0), "o-", color=COLOURS[i], markersize=3,
                      label=f"log-variances spread by {spread}")  # fmt: skip
        axes.axvline(5, color="#444444", linewidth=0.8)
        axes.set(xlabel="domains", title="smallest singular value, s in two dimensions")
        axes.legend(fontsize=8, loc="upper left")


def _smallest(count: int, spread: float, seed: int) -> float:
    """The least of the four singular values of random domains' differences; 0 where one lacks."""
    rng = np.random.default_rng(seed)
    mean, log_var = rng.normal(size=(count, 2)), spread * rng.normal(size=(count, 2))
    found = domain_diversity(mean, np.exp(log_var))
    values = np.asarray(found.singular_values)
    return float(values.min()) if len(values) >= found.statistics else 0.0


PICTURES = {
    "causal_graph.png": causal_graph,
    "flip.png": flip,
    "diversity.png": diversity,
}
"""By file name, what draws it."""
