"""How a training run is carried out: in which pieces, on what, and which runs side by side."""

import dataclasses
import itertools
import math
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from common.training.epochs import Loop


class Keys(NamedTuple):
    """The random streams of a run; typed PRNG keys, scalar, or [runs] for many runs at once."""

    order: jax.Array
    """Of the data order; folded with the epoch."""
    noise: jax.Array
    """Handed to the loss function; folded with the step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How runs are carried out. Their results depend on it only up to rounding."""

    loop: Loop = "auto"
    """"scan", "driven", or "auto", which chooses by backend; see `Loop`."""
    chunk: int = 250
    """The most steps between two checks of the losses."""
    at_once: int | None = None
    """The most runs that are trained side by side, for want of memory. More are trained in groups,
    of sizes as even as can be, one group after another. None for all at once."""
    on_divergence: Literal["stop", "raise"] = "stop"
    """"stop" makes a loss that is not finite a result, as in a search of learning rates; "raise"
    makes it an error, of the first run that diverges."""
    mesh: Mesh | None = None
    """Devices to train on, its axes automatic; None for one device."""

    def __post_init__(self):
        """Refuses settings out of their range."""
        if self.loop not in ("auto", "scan", "driven"):
            raise ValueError(f"loop must be 'auto', 'scan' or 'driven', got {self.loop!r}.")
        if self.chunk < 1:
            raise ValueError(f"chunk must be at least 1 step, got {self.chunk}.")
        if self.on_divergence not in ("stop", "raise"):
            raise ValueError(
                f"on_divergence must be 'stop' or 'raise', got {self.on_divergence!r}."
            )


def groups(runs: int, at_once: int | None) -> list[slice]:
    """Consecutive runs that are trained side by side, in groups of sizes as even as can be.

    Args:
        runs: how many, at least 1.
        at_once: at most so many in a group; None for one group.

    Raises:
        ValueError: if there would be none in a group.

    Example:
        >>> [(rows.start, rows.stop) for rows in groups(7, 3)]
        [(0, 2), (2, 5), (5, 7)]
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be None or at least 1 run, got {at_once}.")
    number = 1 if at_once is None else math.ceil(runs / at_once)
    ends = np.linspace(0, runs, number + 1).round().astype(int).tolist()
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def at_once_with_convolutions(at_once: int) -> int:
    """How many runs of a network with convolutions to train side by side: on CPU one.

    Convolutions with a kernel for each run are grouped ones, which XLA runs many times slower there
    than one after another.

    Args:
        at_once: how many fit into an accelerator's memory.
    """
    return 1 if jax.default_backend() == "cpu" else at_once
