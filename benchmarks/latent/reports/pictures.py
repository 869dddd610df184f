"""Pictures of latents: kept as pixels in a record, drawn from there, and what is counted beside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from benchmarks.harness.reports import by_method, by_setting
from common.data.generated.colored_digits import as_rgb
from common.results.plots import figure
from common.results.records import Record
from common.results.tables import markdown, metric, number, percent

TRAVERSALS, EXCHANGES, SALIENCY = "traversals", "exchanges", "saliency"
ROWS = {
    TRAVERSALS: ("s moved", "s moved", "v moved", "v moved"),
    EXCHANGES: (),
    SALIENCY: ("image", "s", "v", "ERM"),
}
"""What the rows of a picture are called."""


def picture_record(
    method: str, setting: Mapping[str, Any], name: str, pixels: np.ndarray, seed: int
) -> Record:
    """A record with a grid of images as its curve: [rows, columns, height, width, channels]."""
    names = ("rows", "columns", "height", "width", "channels")
    bytes_ = np.rint(255 * np.clip(pixels, 0, 1)).astype(int)
    return Record(
        method=method,
        setting={**setting, "picture": name, **dict(zip(names, pixels.shape, strict=True))},
        seed=seed, metrics={}, curve={"pixel": bytes_.ravel().tolist()}, wall_time=0.0,
    )  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """What follows which latents when s and v are exchanged, and what the latents hold."""
    rows = []
    for data, runs in by_setting(
        (r for r in records if "picture" not in r.setting), "data"
    ).items():
        methods = by_method(runs)
        lacim = methods["LaCIM"]
        cells = [
            percent(metric(lacim, name))
            for name in ("label_kept", "label_follows_s", "label_follows_v")
        ]
        cells += [number(metric(lacim, name), digits=1) for name in ("kl_s", "kl_v")]
        cells += [percent(metric(methods[name], "test_accuracy")) for name in ("judge", "ERM")]
        rows.append([data, *cells])
    header = [
        "data", "label of the own image, %", "of the one that lent s", "of the one that lent v",
        "nats in s", "in v", "judge's test accuracy, %", "ERM's",
    ]  # fmt: skip
    return (
        "Labels as a colour-blind network sees them in decoded images, for pairs whose labels "
        f"differ:\n\n{markdown(header, rows)}"
    )


_CAPTION = (
    "Left: one latent moved at a time. Middle: every s with every v; if s is the cause, the label "
    "stays along a row and everything else along a column. Right: the pixels that s, v and ERM's "
    "logits depend on, white for most."
)
CAPTIONS = {"coloured_digits.png": _CAPTION, "pacs.png": _CAPTION}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """One figure a data set: traversals, exchanges and saliency of the first seed."""
    paths = []
    for data, pictures in by_setting(
        (r for r in records if "picture" in r.setting), "data"
    ).items():
        path = out / f"{data.replace(' ', '_').lower()}.png"
        first = [record for record in pictures if record.seed == pictures[0].seed]
        with figure(path, columns=len(first), panel=(4.4, 4.2)) as panels:
            for axes, record in zip(panels[0], first, strict=True):
                _draw(axes, record)
        paths.append(path)
    return paths


def _draw(axes: Axes, record: Record) -> None:
    setting, name = record.setting, str(record.setting["picture"])
    rows, columns, height, width, channels = (
        int(setting[key] or 0) for key in ("rows", "columns", "height", "width", "channels")
    )
    pixels = np.asarray(record.curve["pixel"]).reshape(rows, columns, height, width, channels) / 255
    shown = as_rgb(pixels) if channels == 2 else np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
    if name == SALIENCY:  # below the images stand amounts, which have no colour
        grey = pixels[1:].mean(-1, keepdims=True)
        shown = np.concatenate([shown[:1], np.broadcast_to(grey, shown[1:].shape)])
    if name == EXCHANGES:
        shown = shown.copy()
        shown[0, 0] = 1.0  # the corner, which shows nothing
    whole = shown.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    axes.imshow(whole, interpolation="nearest")
    if name == EXCHANGES:
        axes.set(xlabel="v from the image above", ylabel="s from the image at the left")
        axes.axhline(height - 0.5, color="white", linewidth=2)
        axes.axvline(width - 0.5, color="white", linewidth=2)
    axes.set_yticks(height * (np.arange(len(ROWS[name])) + 0.5), ROWS[name])
    axes.set_xticks([])
    axes.set_title(name)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
