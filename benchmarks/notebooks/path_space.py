# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     cell_markers: r"""
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
r"""
# Path space

A ReLU network does not change when a hidden unit's incoming weights are multiplied by $c > 0$ and
its outgoing ones divided by $c$. Its gradient does. This notebook derives coordinates that such
rescalings cannot touch, steps in them (G-SGD), and looks at what that buys: the trajectory no
longer depends on how the start is scaled. It also looks at what it does not buy.

What was measured at length is in [the evidence](../evidence/README.md); the theory, with the cases
left out here, in [Path space](../docs/pages/path_space.md).
"""

# %%
# Where nothing is installed, as in Colab: upload the wheel that `uv build --wheel` makes first.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("gsgd_jax") is None:
    wheel = "gsgd_dcasgd_lacim_jax-0.1.0-py3-none-any.whl"
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, wheel, "matplotlib", "scikit-learn"], check=True)

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from gsgd_jax import (
    allocate,
    basis_paths,
    choose_skeleton,
    describe_path,
    find_gauge,
    gsgd,
    in_path_space,
    inverse_chain_rule,
    path_values,
    skeleton_init,
)

plt.rcParams.update({
    "axes.grid": True, "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 10,
    "figure.constrained_layout.use": True, "figure.dpi": 110, "font.size": 9, "grid.alpha": 0.3,
    "legend.fontsize": 8, "legend.frameon": False,
    "axes.prop_cycle": plt.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00",
                                         "#56B4E9", "#000000", "#999999"]),
})  # fmt: skip
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#bbbbbb"

# %% [markdown]
r"""
## The symmetry

$$f_w(x) = W_3^\top \, \mathrm{relu}(W_2^\top \, \mathrm{relu}(W_1^\top x))$$

Every entry $e$ of a kernel is an edge from a unit, its tail, to a unit of the next layer, its head.
Give every hidden unit $h$ a scale $c_h > 0$, and inputs and outputs ("ground") the scale 1. Since
$\mathrm{relu}(c z) = c \, \mathrm{relu}(z)$, the function stays the same under

$$w_e \;\to\; w_e \, \frac{c_{\mathrm{head}(e)}}{c_{\mathrm{tail}(e)}}, \qquad \text{and so} \qquad
\frac{\partial L}{\partial w_e} \;\to\; \frac{\partial L}{\partial w_e} \,
\frac{c_{\mathrm{tail}(e)}}{c_{\mathrm{head}(e)}}$$

for any loss $L$ of the function. Weights and gradient move in opposite directions, so
$w - \eta \, \partial L / \partial w$ is another function for every scaling.

`find_gauge` finds the group by tracing: with $m$ weights and $H$ nodes (here, hidden units), what
rescaling cannot change has $m - H$ dimensions.
"""


# %%
def network(params, x):
    """A perceptron without biases: one kernel [in, out] a layer."""
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1]


def initial(key, widths):
    """He's initialisation."""
    keys = jax.random.split(key, len(widths) - 1)
    pairs = zip(keys, widths[:-1], widths[1:], strict=True)
    return [jax.random.normal(key, (n, k)) * np.sqrt(2 / n) for key, n, k in pairs]


small = initial(jax.random.key(9), (3, 4, 3, 2))
x = jax.random.normal(jax.random.key(1), (5, 3))
gauge = find_gauge(network, small, x)
print(gauge)

copy = gauge.rescale(small, jax.random.key(2))
slope = jax.grad(lambda params: jnp.sum(network(params, x) ** 2))
print("outputs apart by", f"{jnp.abs(network(small, x) - network(copy, x)).max():.0e}")
for name, params in (("start", small), ("copy", copy)):
    norms = [f"{jnp.linalg.norm(g):.2f}" for g in slope(params)]
    print(f"norms of the gradient, {name}:", *norms)

# %% [markdown]
r"""
## A skeleton, and the values of paths

Choose for every hidden unit one *in-edge* and one *out-edge*. Following in-edges back leads to an
input, following out-edges forward to an output. The in-edges are the *tree* $T$; out-edges that are
not in $T$ are the *free skeleton* $S$; all else is $N$. Let $\alpha_h$ be the product of weights
from the input to $h$ along in-edges, $\beta_h$ that from $h$ to the output along out-edges. Then
for every $e$ in $S$ or $N$

$$v_e = \alpha_{\mathrm{tail}(e)} \, w_e \, \beta_{\mathrm{head}(e)}$$

is the product of the weights along a whole path from input to output. Along a path every $c_h$
cancels: these $m - H$ values do not change under rescaling, and together with the signs on the
skeleton they tell the network, up to rescaling.
"""


# %%
def draw(axes, params, skeleton, path):
    """The network as a graph: tree, free skeleton, and one basis path."""
    tree, free = set(skeleton.in_edges.tolist()), set(skeleton.out_edges.tolist())
    widths = [len(params[0]), *(kernel.shape[1] for kernel in params)]
    place = [np.linspace(1, -1, width) * width / max(widths) for width in widths]
    entry = 0
    for layer, kernel in enumerate(params):
        for i, j in np.ndindex(kernel.shape):
            colour = BLUE if entry in tree else ORANGE if entry in free else GREY
            width = 2.2 if entry in tree | free else 0.8
            ends = [layer, layer + 1], [place[layer][i], place[layer + 1][j]]
            if entry in path:
                axes.plot(*ends, color=GREEN, linewidth=7, alpha=0.35, zorder=0)
            axes.plot(*ends, color=colour, linewidth=width, zorder=1)
            entry += 1
    for layer, spots in enumerate(place):
        ground = layer in (0, len(params))
        colour = "#dddddd" if ground else "white"
        axes.scatter([layer] * len(spots), spots, s=150, color=colour, edgecolors="#333333",
                     zorder=2)  # fmt: skip
    for label, colour, width in (("T, the tree", BLUE, 2.2), ("S, free skeleton", ORANGE, 2.2),
                                 ("N", GREY, 0.8), ("one basis path", GREEN, 7)):  # fmt: skip
        alpha = 0.35 if width == 7 else 1.0
        axes.plot([], [], color=colour, linewidth=width, alpha=alpha, label=label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    axes.axis("off")


skeleton = choose_skeleton(gauge, small, basis="paths")
paths = basis_paths(skeleton)
fig, axes = plt.subplots(figsize=(6, 3))
draw(axes, small, skeleton, paths[5])
plt.show()
print(skeleton)
print("the path in green:", describe_path(paths[5], gauge))


def coordinates(params):
    """The path values as one vector; `path_values` leaves the tree's weights in their places."""
    entries = jnp.concatenate([leaf.ravel() for leaf in path_values(params, skeleton)])
    return jnp.delete(entries, skeleton.in_edges)


apart = jnp.abs(coordinates(small) - coordinates(copy)).max()
print(len(coordinates(small)), "path values, of start and copy apart by", f"{apart:.0e}")

# %% [markdown]
r"""
## The step, and the way back to weights

Given new path values $v'$, keep the tree, and with it $\alpha$, and go from the outputs back:

$$w'_e = \frac{v'_e}{\alpha_{\mathrm{tail}(e)} \, \beta'_{\mathrm{head}(e)}}.$$

This *weight allocation* is one pure function, `allocate`. The gradient with respect to the path
values, the papers' *inverse chain rule*, is its vector-Jacobian product:

$$\frac{\partial L}{\partial v} =
\Big( \frac{\partial\, \mathrm{allocate}(v)}{\partial v} \Big)^{\top}
\frac{\partial L}{\partial w}.$$

So G-SGD is: pull the gradient back, let any Optax transformation step on the path values, allocate.
The library takes a closed form; here it is against automatic differentiation.
"""

# %%
values = path_values(small, skeleton)
_, back = jax.vjp(lambda v: allocate(v, small, skeleton), values)
(by_vjp,) = back(slope(small))
by_rule = inverse_chain_rule(slope(small), small, skeleton)
apart = [jnp.abs(a - b).max() for a, b in zip(by_vjp, by_rule, strict=True)]
print("the two apart by", f"{max(apart):.0e}")

# %% [markdown]
r"""
## Two weights, three starts

The smallest case can be drawn. A network that is the product of two weights, and a loss that wants
it to be 1. Grey hyperbolas are weights of one function each. The three starts lie on one of them.
"""


# %%
def descend(tx, start, num_steps=25):
    """The weights (w1, w2) at every step."""

    def loss(params):
        return jnp.sum((network(params, jnp.ones((1, 1))) - 1.0) ** 2)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), jnp.concatenate(params).ravel()

    return jax.lax.scan(step, (start, tx.init(start)), length=num_steps)[1]


one = [jnp.ones((1, 1)), jnp.full((1, 1), 0.15)]
product = choose_skeleton(find_gauge(network, one, jnp.ones((1, 1))), one, basis="paths")
scales = jnp.array([0.5, 1.0, 2.0]).reshape(3, 1, 1)
starts = [scales, 0.15 / scales]
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3))
grid = np.linspace(0.02, 2.3, 100)
for axes, name, tx, line in ((left, "SGD", optax.sgd(0.05), "--"),
                             (middle, "G-SGD", gsgd(0.05, product), "-")):  # fmt: skip
    axes.contour(grid, grid, grid * grid[:, None], levels=[0.15, 0.4, 1.0], colors=GREY)
    ways = np.asarray(jax.vmap(lambda start, tx=tx: descend(tx, start))(starts))
    for i, way in enumerate(ways):
        axes.plot(*way.T, "o-", markersize=2.5, color=f"C{i}")
        axes.plot(*way[0], "s", color=f"C{i}")
        right.plot(way.prod(1), line, color=f"C{i}")
    axes.set(title=name, xlabel="$w_1$", ylabel="$w_2$", xlim=(0, 2.3), ylim=(0, 2.3))
    axes.grid(visible=False)
    right.plot([], [], line, color="#444444", label=f"{name}, three starts")
right.set(title="the function $w_1 w_2$", xlabel="step", ylim=(0, 1.1))
right.legend(loc="lower right")
plt.show()

# %% [markdown]
r"""
SGD takes the one function three ways, and the three part at the first step. G-SGD moves $w_2$ only
(the tree is $w_1$), by what makes all three the same function at every step: its three lines on the
right are one. They are not the fastest: SGD from a lucky scale is. *Invariance says that the scale
of the start does not matter, not that the path taken is a good one.*

## Digits: the same function, trained twice

Now a network of 64–32–32–10 on 8×8 digits. One start, and a copy of it with every hidden unit
rescaled at random. For each optimiser: how far apart are the two networks' logits, relative to
their size, after each step?

In a network of random weights the papers' path values are a bad choice: a step on $v_e$ is a step
on $w_e$ divided by $(\alpha\beta)^2$, and small skeleton entries make that explode. Either all
skeleton entries are first reset to 1, which is another start (`skeleton_init`, the papers' way), or
path values are the weights of the *balanced* copy of the start, in which every unit's incoming and
outgoing weights have equal norms. These are never singular and leave the usual initialisation
alone. They are what `in_path_space` takes when it is given the gauge, and used here.
"""

# %%
pixels, labels = load_digits(return_X_y=True)
pixels, labels = pixels / 16, labels
order = np.random.default_rng(0).permutation(len(labels))
train_set, validation, test = order[:1197], order[1197:1497], order[1497:]
all_x, all_y = jnp.asarray(pixels, jnp.float32), jnp.asarray(labels)


def batches(seed, num_steps=200, size=32):
    """Which training images each step sees, [num_steps, size]."""
    return train_set[np.random.default_rng(seed).integers(len(train_set), size=(num_steps, size))]


def loss(params, x, y):
    """Cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()


def train(tx, params, xs, ys, probe):
    """The weights after all batches, and the loss and the logits of the probe at every step."""

    def step(carry, batch):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        updates, state = tx.update(gradient, state, params)
        seen = value, network(params, probe)
        return (optax.apply_updates(params, updates), state), seen

    (params, _), (losses, logits) = jax.lax.scan(step, (params, tx.init(params)), (xs, ys))
    return params, losses, logits


start = initial(jax.random.key(0), (64, 32, 32, 10))
gauge = find_gauge(network, start, all_x[:1])
print(gauge)
optimisers = {"SGD": optax.sgd(0.1), "G-SGD": gsgd(0.1, gauge),
              "G-Adam": in_path_space(optax.adam(3e-3), gauge)}  # fmt: skip
together = {}
for name, dtype in (("SGD", "float32"), ("G-SGD", "float32"), ("G-SGD", "float64"),
                    ("G-Adam", "float64")):  # fmt: skip
    with jax.enable_x64(dtype == "float64"):
        first = [jnp.asarray(kernel, dtype) for kernel in start]
        copy = gauge.rescale(first, jax.random.key(1), spread=0.7)
        both = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, copy)
        xs, ys = jnp.asarray(pixels[batches(0)], dtype), jnp.asarray(labels[batches(0)])

        def run(params, tx=optimisers[name], data=(xs, ys, xs[0])):
            return train(tx, params, *data)

        _, losses, logits = jax.jit(jax.vmap(run))(both)
        gap = jnp.linalg.norm(logits[0] - logits[1], axis=(1, 2))
        apart = np.asarray(gap / jnp.linalg.norm(logits[0], axis=(1, 2)))
        together[name, dtype] = apart, np.asarray(losses)
        print(f"{name}, {dtype}: apart by up to {apart.max():.0e}")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
for (name, dtype), (apart, losses) in together.items():
    colour = {"SGD": ORANGE, "G-SGD": BLUE, "G-Adam": GREEN}[name]
    left.semilogy(apart, ":" if dtype == "float64" else "-", color=colour, label=f"{name}, {dtype}")
    if dtype == "float32":
        for i, kind in enumerate(("start", "rescaled copy")):
            smooth = np.convolve(losses[i], np.ones(10) / 10, mode="valid")
            look = {"linestyle": "--", "color": "black"} if i else {"linewidth": 3, "alpha": 0.6}
            right.plot(smooth, **({"color": colour} | look), label=f"{name}, {kind}")
left.set(title="distance of the two networks, relative", xlabel="step", ylim=(1e-17, 100))
left.legend(loc="center right", bbox_to_anchor=(1.0, 0.38))
right.set(title="training loss, mean of 10 steps", xlabel="step", ylim=(0, None))
right.legend()
plt.show()

# %% [markdown]
r"""
On weights the two networks are as far apart as their own size within a few steps. In path space
they stay one function, up to the rounding of the numbers they are computed in, with G-SGD and with
Adam inside alike. On the right, SGD's copy happens to be scaled luckily and learns faster than its
start; the two lines of G-SGD are one. (In longer training float32 magnifies rounding, and some
answers differ in the end: [gsgd_invariance](../evidence/gsgd_invariance.md).)

## Does it also learn better?

The fair question is put beside SGD *from the same weights*, each at its own best step, chosen on
validation data. Two starts: the usual initialisation, with the weights of its balanced copy; and
the papers', every skeleton entry 1, with their path values. One initialisation of each, three
orders of the data.
"""

# %%
rates = jnp.array([0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
orders = jnp.asarray(np.stack([batches(seed) for seed in (1, 2, 3)]))
papers = choose_skeleton(gauge, start, basis="paths")
reset = skeleton_init(start, papers)


def sweep(make, params):
    """Loss curves and accuracies at every step size and order of the data."""

    def one(rate, seen):
        trained, losses, _ = train(make(rate), params, all_x[seen], all_y[seen], all_x[:1])
        right = network(trained, all_x).argmax(-1) == all_y
        return losses, 100 * right[validation].mean(), 100 * right[test].mean()

    over_orders = jax.vmap(one, in_axes=(None, 0))
    found = jax.jit(jax.vmap(over_orders, in_axes=(0, None)))(rates, orders)
    return [np.asarray(part) for part in found]


runs = {
    "SGD, usual start": (sweep(optax.sgd, start), BLUE, "--"),
    "G-SGD, usual start": (sweep(lambda rate: gsgd(rate, gauge), start), BLUE, "-"),
    "SGD, papers' start": (sweep(optax.sgd, reset), ORANGE, "--"),
    "G-SGD, papers' start": (sweep(lambda rate: gsgd(rate, papers), reset), ORANGE, "-"),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for name, ((losses, valid, tested), colour, line) in runs.items():
    mean, spread = tested.mean(1), tested.std(1, ddof=1)
    left.errorbar(rates, mean, spread, color=colour, linestyle=line, marker="o", markersize=3,
                  label=name)  # fmt: skip
    best = int(valid.mean(1).argmax())
    smooth = np.convolve(losses[best].mean(0), np.ones(10) / 10, mode="valid")
    right.plot(smooth, color=colour, linestyle=line, label=f"{name}, step {rates[best]:g}")
    assert mean[best] > 80, "every pair trains at its best step"
    print(f"{name:<21} best step {rates[best]:<6g} test {mean[best]:.1f} ± {spread[best]:.1f} %")
left.set(xscale="log", title="test accuracy, %", xlabel="step size", ylim=(0, 100))
left.legend(loc="lower center")
right.set(title="training loss at the best step, mean of 10 steps", xlabel="step", ylim=(0, 2.5))
right.legend()
plt.show()

# %% [markdown]
r"""
At the best step of each, path space and weights end about alike, from either start: a few tenths of
a point, on 300 test images, are no finding. From the papers' start G-SGD bears a longer step than
SGD here; from the usual one they fall together. Larger networks, other rules and several seeds do
not tell the two apart at their best steps either: the count is kept in
[the evidence](../evidence/README.md), claim 1.

Where the scale of the start is bad or not known, or two trainings are to be compared that differ in
scale only, path space takes the scale out of the question; for a well-scaled start that is tuned
anyway, it is SGD with extra steps.

Do not use it where scales are pinned (tanh, GELU: `find_gauge` says so), nor with the papers' path
values from a usual initialisation, where every useful step diverges.
"""

# %% [markdown]
r"""
**Exercise.** Put `jnp.tanh` in place of `jax.nn.relu` behind the first kernel of `network` alone.
Say beforehand how many nodes `find_gauge(network, small, x)` has left, and what it names as the
reason; then print it. Undo that, and add a bias to each layer: which dimensions does the group
gain, and which ends do the biases' edges have?
"""
