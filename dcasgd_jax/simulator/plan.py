"""How a stretch of a run is carried out: chosen in one place, by a pure function."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dcasgd_jax.schedules.schedule import Schedule
from dcasgd_jax.schedules.waves import waves
from dcasgd_jax.simulator.batches import BatchSource
from dcasgd_jax.simulator.chunks import Chunk, cut_into_chunks
from dcasgd_jax.simulator.options import Loop, Options
from dcasgd_jax.simulator.server import gradient_arguments
from dcasgd_jax.simulator.state import SimulatorState, slot_columns
from dcasgd_jax.simulator.traced_functions import TracedFunction

WIDEST_UNROLLED, WIDEST_UNROLLED_CONVOLUTIONS = 8, 4
"""The widest chunk that "auto" unrolls: programs grow with it, and so does compiling."""

STEPS_WORTH_A_CALL = 4
"""Steps that a call from Python must take on average, where one compiled loop would do too."""

CACHED_PARAMETERS = 2**17
"""Parameters up to which gradients are vectorised on CPU. On two cores, perceptrons at batch 32
were faster by it up to some 120,000 parameters (1.2 times) and slower from 270,000 on (0.8)."""


class Circumstances(NamedTuple):
    """What the choice of a plan depends on beside what was asked for and the schedule."""

    num_params: int
    """Entries of all parameters together."""
    iterated: bool
    """Whether batches are iterated over, so that Python has to ask for each."""
    in_trace: bool
    """Whether the caller is inside jit, vmap or scan, so that Python cannot drive."""
    on_cpu: bool
    convolves: bool
    """Whether gradients contain convolutions; looked for on CPU only, where it matters."""
    local_devices: int


class Plan(NamedTuple):
    """How a stretch of a run is carried out; `print` shows it in words."""

    loop: Loop
    """Never "auto"."""
    together: str
    """How the gradients of a chunk are computed: "vmap", "pmap" or "unrolled", or "one by one"."""
    separate_snapshots: bool
    """Whether snapshots are in arrays of their own, none of which is copied, or all in one."""
    chunks: tuple[Chunk, ...]
    """In order; () for the slot engine, which takes every step by itself."""

    def __str__(self) -> str:
        """In one line."""
        loop = {"scan": "one compiled loop", "driven": "driven from Python"}[self.loop]
        snapshots = "separate" if self.separate_snapshots else "stacked"
        widths = Counter(chunk.kind.width for chunk in self.chunks)
        chunks = ", ".join(f"{number} of {width}" for width, number in sorted(widths.items()))
        return f"{loop}; gradients {self.together}; snapshots {snapshots}; chunks: {chunks or '-'}"


def faster_engine(schedule: Schedule, *, on_cpu: bool) -> Literal["slots", "wavefront"]:
    """The engine that "auto" stands for on one device.

    A CPU computes one gradient as fast as its share of several, and by slots compiles one; an
    accelerator computes a wave in hardly more time than one gradient.

    Example:
        >>> from dcasgd_jax import round_robin
        >>> [faster_engine(round_robin(8, 64), on_cpu=on_cpu) for on_cpu in (True, False)]
        ['slots', 'wavefront']
    """
    if on_cpu or isinstance(schedule.staleness, Tracer) or not schedule.worker.size:
        return "slots"
    narrow = waves(schedule).length.mean() < 2
    return "slots" if narrow else "wavefront"


def choose_plan(options: Options, circumstances: Circumstances, schedule: Any) -> Plan:
    """Chooses how a stretch is carried out; for "slots", the schedule is not looked at.

    Args:
        options: what was asked for.
        circumstances: what the run meets.
        schedule: of the stretch.

    Raises:
        ValueError: if what was asked for, or what the batches need, cannot be done.

    Example:
        A small network and a larger one on CPU:

        >>> from dcasgd_jax import round_robin
        >>> options, cluster = Options(engine="wavefront"), round_robin(8, 64)
        >>> small = Circumstances(1000, False, False, True, False, 1)
        >>> print(choose_plan(options, small, cluster))
        one compiled loop; gradients vmap; snapshots stacked; chunks: 8 of 8
        >>> print(choose_plan(options, small._replace(num_params=10**6), cluster))
        driven from Python; gradients unrolled; snapshots separate; chunks: 8 of 8
    """
    if options.engine == "slots":
        loop = _choose_loop(options.loop, circumstances, faster_driven=circumstances.convolves)
        return Plan(loop, "one by one", separate_snapshots=False, chunks=())
    together, widest, faster_driven = _choose_together(options, circumstances, schedule)
    chunks = _cut(options, circumstances, schedule, together, widest=widest)
    loop = _choose_loop(options.loop, circumstances, faster_driven=faster_driven)
    chosen_unrolled = options.together == "auto" and together == "unrolled"
    separate = loop == "driven" and chosen_unrolled and options.mesh is None
    return Plan(loop, together, separate, chunks)


def _choose_together(
    options: Options, circumstances: Circumstances, schedule: Schedule
) -> tuple[str, int | None, bool]:
    """How gradients are computed, the widest chunk of them, and whether driving is faster."""
    convolves = circumstances.convolves
    if options.together != "auto":
        return options.together, None, convolves
    if convolves:
        return "unrolled", None if options.mesh else WIDEST_UNROLLED_CONVOLUTIONS, True
    if _fills_caches(options, circumstances):
        wide = _cut(options, circumstances, schedule, "unrolled", widest=WIDEST_UNROLLED)
        if _worth_driving(options, circumstances, schedule.worker.shape[0], len(wide)):
            return "unrolled", WIDEST_UNROLLED, True
        return "vmap", 1, False  # one worker after another in a compiled loop
    return "vmap", None, False


def _fills_caches(options: Options, circumstances: Circumstances) -> bool:
    """Whether the weights of several workers at once are more than a CPU's caches hold."""
    large = circumstances.num_params > CACHED_PARAMETERS
    return circumstances.on_cpu and large and options.mesh is None


def _worth_driving(
    options: Options, circumstances: Circumstances, num_steps: int, num_chunks: int
) -> bool:
    """Whether calls from Python are possible, and few enough for the steps that they take."""
    possible = options.loop != "scan" and not circumstances.in_trace
    return possible and num_steps >= STEPS_WORTH_A_CALL * num_chunks


def _cut(
    options: Options,
    circumstances: Circumstances,
    schedule: Schedule,
    together: str,
    *,
    widest: int | None,
) -> tuple[Chunk, ...]:
    """The chunks of a schedule, in widths that the devices can share."""
    if options.mesh is not None:
        shares = options.mesh.size
    else:
        shares = circumstances.local_devices if together == "pmap" else 1
    longest = options.longest if options.longest is not None else widest
    reads = np.asarray(slot_columns(schedule).read, np.int32)
    return cut_into_chunks(schedule, reads, longest=longest, multiple=shares)


def _choose_loop(loop: Loop, circumstances: Circumstances, *, faster_driven: bool) -> Loop:
    """The loop, "scan" or "driven"."""
    iterated, in_trace = circumstances.iterated, circumstances.in_trace
    if loop == "scan" and iterated:
        raise ValueError(
            "batches that are iterated over cannot be scanned: leave loop at 'auto', or pass "
            "arrays or a function of the step."
        )
    if (loop == "driven" or iterated) and in_trace:
        raise ValueError(
            "a simulation inside jit, vmap or scan cannot be driven from Python, nor iterate over "
            "batches: call it outside, or use loop='scan' with arrays or a function of the step."
        )
    if iterated:
        return "driven"
    if loop != "auto":
        return loop
    return "driven" if circumstances.on_cpu and faster_driven and not in_trace else "scan"


def observe(
    options: Options,
    state: SimulatorState,
    source: BatchSource,
    convolves: Callable[..., bool],
    *,
    in_trace: bool,
) -> Circumstances:
    """What a run meets; whether it convolves is asked only where the plan depends on it."""
    on_cpu = jax.default_backend() == "cpu"
    loop_is_open = options.loop == "auto" and not (source.iterated or in_trace)
    together_is_open = options.engine == "wavefront" and options.together == "auto"
    return Circumstances(
        num_params=sum(w.size for w in jax.tree.leaves(state.params)),
        iterated=source.iterated,
        in_trace=in_trace,
        on_cpu=on_cpu,
        convolves=on_cpu
        and (loop_is_open or together_is_open)
        and _convolves(convolves, state, source),
        local_devices=jax.local_device_count(),
    )


def _convolves(convolves: Callable[..., bool], state: SimulatorState, source: BatchSource) -> bool:
    """Whether gradients convolve, by the finder of their function."""
    batch = jax.eval_shape(lambda s: source.example(s.step), state)
    return convolves(*gradient_arguments(state.params, state.model_state, batch))


def convolution_finder(function: Callable[..., Any]) -> Callable[..., bool]:
    """(*args) -> whether the function convolves, anywhere within it; arrays or shapes will do."""
    # It is asked before every stretch of a run, and tracing costs as much as many small steps:
    # answers for arguments of the same shapes are remembered.
    if isinstance(function, TracedFunction):
        return lambda *_: function.convolves
    answers: dict[Any, bool] = {}

    def convolves(*args: Any) -> bool:
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        if key not in answers:
            answers[key] = "conv_general_dilated" in str(jax.make_jaxpr(function)(*args))
        return answers[key]

    return convolves
