"""What is decoded from a LaCIM's latents, as pixels in a record, and drawn from there."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from common.data.generated.colored_digits import as_rgb
from common.results.plots import figure
from common.results.records import Record
from lacim_jax import Examples, LaCIM, Search, infer_along

TILES = 8
"""Images in a row."""
ROWS = ("test image", "decoded", "searched", "s moved", "s moved", "v moved", "v moved")
"""Decoded from the best start, and from where the search led; then the first image again, while
one latent moves over 2.5 standard deviations either side: the two most active of s and of v."""


def picture(
    model: LaCIM, variables: dict[str, Any], *, test: Examples, validation: Examples,
    key: jax.Array, steps: int, search: Search,
) -> dict[str, list[float]]:  # fmt: skip
    """The rows of tiles that `plot_picture` draws, as columns of a record's curve.

    Of test images, at least `TILES`; how active each latent is, validation images tell. Columns are
    the two channels of the whole picture row by row, 0 to 255.
    """
    images = test.images[:TILES]
    ends = infer_along(model, variables, images, key, steps=(0, steps), search=search)
    start, end = (jnp.concatenate(each.latents, axis=-1) for each in ends)
    densities: Any = model.apply(variables, validation.images, validation.domains)
    means, activity = densities.posterior.mean, densities.posterior.kl(densities.prior).mean(0)
    moved = []
    for part in (np.arange(model.s_dim), model.s_dim + np.arange(model.v_dim)):
        for dim in part[np.argsort(-np.asarray(activity)[part])[:2]]:
            values = jnp.linspace(-2.5, 2.5, TILES) * means[:, dim].std() + means[:, dim].mean()
            moved.append(jnp.tile(start[:1], (TILES, 1)).at[:, dim].set(values))
    logits = model.apply(variables, jnp.concatenate([start, end, *moved]), method="decode")
    pixels = np.concatenate([images, model.likelihood.mean(jnp.asarray(logits))])
    rows = pixels.reshape(len(ROWS), TILES, *pixels.shape[1:]).transpose(0, 2, 1, 3, 4)
    red, green = np.rint(255 * rows.reshape(-1, 2)).T
    return {"red": red.tolist(), "green": green.tolist()}


def plot_picture(record: Record, path: Path) -> None:
    """Draws a record whose curve is a `picture` of square images."""
    pixels = np.stack([record.curve["red"], record.curve["green"]], axis=-1) / 255
    side = round((len(pixels) / (len(ROWS) * TILES)) ** 0.5)
    with figure(path, panel=(7.4, 5.1)) as panels:
        axes: Axes = panels[0, 0]
        axes.imshow(as_rgb(pixels.reshape(len(ROWS) * side, -1, 2)), interpolation="nearest")
        axes.set_yticks(side * (np.arange(len(ROWS)) + 0.5), ROWS)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
