"""What may be asked of a simulation, in one tuple that every engine takes."""

from typing import Literal, NamedTuple, get_args

from jax.sharding import Mesh
from jax.typing import DTypeLike

from dcasgd_jax.simulator.checks import check_choice
from dcasgd_jax.simulator.state import Merge

EngineName = Literal["auto", "slots", "wavefront"]
"""One event at a time, or a wave of gradients at a time."""

How = Literal["auto", "vmap", "pmap", "unrolled"]
"""How a wave's gradients are computed; see `Together`."""

Loop = Literal["auto", "scan", "driven"]
"""How a run goes from one chunk of steps to the next: "auto", "scan" or "driven".

"scan" is one compiled loop, a pure function that can be jitted and vmapped. "driven" calls one
compiled chunk after another from Python. "auto" drives in three cases, and scans in all others:
gradients with convolutions on CPU, which XLA runs 5 to 24 times slower inside a loop
(https://github.com/jax-ml/jax/issues/12868); waves of a larger network on CPU, where a loop would
copy a snapshot at every step; and batches that are iterated over."""


class Engine(NamedTuple):
    """How `simulate` computes a run: by which engine, in which loop and on which devices."""

    name: EngineName = "auto"
    """One event at a time, "slots"; a wave of gradients at a time, "wavefront"; or the faster of
    the two, "auto": slots on CPU, and where waves have fewer than two steps on average; waves on
    accelerators and on a mesh."""
    loop: Loop = "auto"
    """One compiled loop, "scan"; chunk after chunk from Python, "driven"; or the faster, "auto"."""
    mesh: Mesh | None = None
    """Of one axis: devices that share the gradients of a wave; for "wavefront" only."""


class Together(NamedTuple):
    """How the wavefront engine computes gradients together, and how many at most.

    "auto" vectorises, with two exceptions on CPU. Convolutions with a kernel for each worker become
    grouped convolutions, which XLA runs many times slower there: they are unrolled. Gradients at
    weights that fill the caches are computed one worker after another. What "auto" unrolls and
    drives from Python also keeps every snapshot in arrays of its own and copies none.
    """

    how: How = "auto"
    """Vectorised, "vmap"; vectorised and shared by the local devices, "pmap"; side by side in one
    program, "unrolled"; or "auto"."""
    longest: int | None = None
    """At most this many gradients are computed together, >= 1; None for no bound."""


class Options(NamedTuple):
    """What may be asked of an engine beside its gradients, its rule and its number of workers."""

    engine: EngineName = "slots"
    """One step at a time, "slots", or a wave of gradients at a time, "wavefront"."""
    merge: Merge | None = None
    """Of model states; None keeps what was pushed last."""
    snapshot_dtype: DTypeLike | None = None
    """Of the snapshots' floating-point leaves; None for the parameters' own."""
    loop: Loop = "auto"
    log_distance: bool = False
    """Whether |w - snapshot| is computed at every step."""
    together: How = "auto"  # as `Together.how`; this one and all below: of "wavefront" only
    longest: int | None = None
    """At most this many gradients are computed together; None for no bound."""
    mesh: Mesh | None = None
    """Of one axis: the devices that share the gradients of a chunk."""
    shard_snapshots: bool = False
    """Whether each device of the mesh keeps its share of the snapshots alone."""


def check_options(options: Options, num_workers: int) -> None:
    """Refuses options that do not exist or do not go together."""
    check_choice("engine", options.engine, get_args(EngineName))
    check_choice("loop", options.loop, get_args(Loop))
    check_choice("together", options.together, get_args(How))
    if options.together == "pmap" and options.mesh is not None:
        raise ValueError("together='pmap' uses the local devices by itself; pass no mesh.")
    _check_mesh(options.mesh, num_workers, shard_snapshots=options.shard_snapshots)


def _check_mesh(mesh: Mesh | None, num_workers: int, *, shard_snapshots: bool) -> None:
    """Refuses a mesh of several axes, and snapshots that it cannot share evenly."""
    if mesh is None:
        if shard_snapshots:
            raise ValueError("shard_snapshots needs a mesh to share them out over; pass one.")
        return
    if len(mesh.axis_names) != 1:
        raise ValueError(f"mesh must have one axis, got {mesh.axis_names}; flatten its devices.")
    if shard_snapshots and num_workers % mesh.size:
        raise ValueError(
            "to shard snapshots, the number of workers must be a multiple of the number of "
            f"devices, got {num_workers} workers on {mesh.size} devices."
        )
