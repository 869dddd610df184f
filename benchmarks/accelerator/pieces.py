"""What is worth an accelerator's minutes, in order, and how each piece is made to fit into them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.accelerator import timed, work
from benchmarks.accelerator.work import Work
from benchmarks.delay.images import shortened
from benchmarks.delay.language import rules
from benchmarks.delay.report import ADAPTIVE, ALL_SYNCHRONOUS, ASGD, CONSTANT, SGD, SYNCHRONOUS
from benchmarks.harness.halving import Halving
from benchmarks.latent.contests import Network
from benchmarks.latent.reports.colored_digits import ERM_, LACIM
from benchmarks.path_space.timed.networks import PERCEPTRON, PLAIN


def trained_for(settings: Any, epochs: int) -> Any:
    """The same settings with other epochs."""
    return dataclasses.replace(settings, epochs=epochs)


class Piece(NamedTuple):
    """One experiment."""

    name: str
    share: float
    """Of the minutes; what an earlier piece leaves over goes to those behind it."""
    reach: float
    """Share of the card's peak that its programs should reach; an estimate, see `why`."""
    why: str
    changes: Mapping[str, Any]
    """To the full preset, whatever the minutes."""
    narrow: Mapping[str, Any]
    """Further ones, where half of the preset's epochs do not fit: the comparison asked for most."""
    work: Callable[[Any, int], tuple[Work, ...]]
    """From settings and number of seeds."""
    cut: Callable[[Any, int], Any] | None = None
    """From settings, and fewer epochs, to settings; None where there are no epochs."""


PIECES: tuple[Piece, ...] = (
    Piece(
        "dcasgd_cifar10", 0.23, 0.03,
        "16 to 64 channels fill an eighth to a half of a matrix unit, and kernels of runs side by "
        "side are grouped",
        {
            "bfloat16": True, "workers": (8, 4), "halving": Halving(factor=5, seeds=2),
            # What is asked for most comes first: a run may be stopped.
            "methods": (SGD, ASGD, CONSTANT, ADAPTIVE, ALL_SYNCHRONOUS, SYNCHRONOUS),
        },
        {"workers": (8,), "learning_rates": (0.5, 0.25, 1.0), "halving": None},
        work.under_delay, shortened,
    ),
    Piece(
        "gsgd_cifar10", 0.23, 0.10,
        "64 to 512 channels at batches of 128 fill matrix units; norms and grouped kernels take as "
        "long again",
        {
            "bfloat16": True, "networks": (PLAIN,), "halving": Halving(seeds=3),
            "methods": ("G-SGD, skeleton init", "SGD, skeleton init", "SGD", "G-SGD"),
        },
        {
            "methods": ("G-SGD, skeleton init", "SGD, skeleton init", "SGD"),
            "learning_rates": (1.0, 0.3), "halving": None,
        },
        work.in_path_space, trained_for,
    ),
    Piece(
        "gsgd_speed", 0.12, 0.30, "one network at a time, ungrouped",
        {
            "networks": (PERCEPTRON, PLAIN), "batch_sizes": ((128,), (128,)), "steps": (1000, 20),
            "compilations": 1, "traces": 1, "from_shapes": (),
        },
        {"repetitions": (7, 3), "networks": (PERCEPTRON,)},
        timed.in_path_space,
    ),
    Piece(
        "dcasgd_speed", 0.10, 0.03, "small networks, ungrouped",
        # Event loops and real servers are the host's, and measured there.
        {
            "batch_sizes": (128,), "workers": (1, 16), "steps": (1024, 64), "repetitions": 5,
            "push_sizes": (), "loops": None,
        },
        {"networks": ("MLP",)},
        timed.under_delay,
    ),
    Piece(
        "lacim_speed", 0.10, 0.02, "small decoders, many starts",
        {
            "networks": (Network(1, (512, 256)),), "train_images": 12_800, "search_images": 256,
            "chunk_size": 128, "repetitions": 3,
        },
        {"search_images": 128, "repetitions": 2, "channels": (32, 64)},
        timed.latent,
    ),
    Piece(
        "delayed_language_model", 0.13, 0.20, "products of width 384 or more",
        {"delays": (0, 8), "main_delays": (8,), "further": 1},
        {
            "optimisers": (rules.MUON,), "rows": (rules.NOTHING, rules.PREDICTION),
            "extra_rules": (), "learning_rates": (0.001, 0.002, 0.004), "steps": 150, "points": 15,
        },
        work.language,
    ),
    Piece(
        "lacim_colored_digits", 0.09, 0.02,
        "32 and 64 channels on 28x28 images: time goes into reading and writing activations",
        {"bfloat16": True},
        {
            "methods": (ERM_, LACIM), "label_noises": (0.25,), "trials": 4,
            "search_weights": (0.3,), "search_steps": (0, 10, 50), "search_draws": 1,
        },
        work.coloured, trained_for,
    ),
)  # fmt: skip
"""By worth a minute: first what is asked for most, the published comparisons."""
