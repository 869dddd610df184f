"""How a run is carried out is chosen by a pure function of what was asked for and what it meets."""

import itertools

import chex
import jax
import pytest

from dcasgd_jax import exponential_times, gamma_times, round_robin, waves
from dcasgd_jax.simulator.chunks import ALL_SLOTS, ANY_SLOTS, ONE_SLOT
from dcasgd_jax.simulator.options import Options
from dcasgd_jax.simulator.plan import (
    CACHED_PARAMETERS,
    STEPS_WORTH_A_CALL,
    WIDEST_UNROLLED,
    WIDEST_UNROLLED_CONVOLUTIONS,
    Circumstances,
    choose_plan,
    faster_engine,
)

WORKERS, STEPS = 16, 64
SCHEDULE = round_robin(WORKERS, STEPS)
ACCELERATOR = Circumstances(
    num_params=1000, iterated=False, in_trace=False, on_cpu=False, convolves=False, local_devices=1
)
CPU = ACCELERATOR._replace(on_cpu=True)
LARGE = CPU._replace(num_params=CACHED_PARAMETERS + 1)
CONVOLVING = CPU._replace(convolves=True)
WAVES = Options(engine="wavefront")


def widths(plan):
    return {chunk.kind.width for chunk in plan.chunks}


@pytest.mark.parametrize("circumstances", [ACCELERATOR, CPU, CPU._replace(in_trace=True)])
@pytest.mark.parametrize("options", [Options(), WAVES])
def test_small_networks_and_accelerators_take_one_compiled_loop(options, circumstances):
    plan = choose_plan(options, circumstances, SCHEDULE)
    assert plan.loop == "scan"
    assert not plan.separate_snapshots
    if options.engine == "slots":
        assert (plan.together, plan.chunks) == ("one by one", ())
    else:
        assert plan.together == "vmap"
        assert {chunk.kind for chunk in plan.chunks} == {(WORKERS, ALL_SLOTS)}


def test_convolutions_on_cpu_are_driven_and_unrolled():
    assert choose_plan(Options(), CONVOLVING, SCHEDULE).loop == "driven"
    plan = choose_plan(WAVES, CONVOLVING, SCHEDULE)
    assert (plan.loop, plan.together, plan.separate_snapshots) == ("driven", "unrolled", True)
    assert widths(plan) == {WIDEST_UNROLLED_CONVOLUTIONS}
    # Where Python cannot drive, they are unrolled all the same.
    plan = choose_plan(WAVES, CONVOLVING._replace(in_trace=True), SCHEDULE)
    assert (plan.loop, plan.together, plan.separate_snapshots) == ("scan", "unrolled", False)


def test_larger_networks_on_cpu_keep_their_snapshots_separate():
    plan = choose_plan(WAVES, LARGE, SCHEDULE)
    assert (plan.loop, plan.together, plan.separate_snapshots) == ("driven", "unrolled", True)
    assert widths(plan) == {WIDEST_UNROLLED}
    assert choose_plan(Options(), LARGE, SCHEDULE).loop == "scan"
    assert choose_plan(WAVES, LARGE._replace(num_params=CACHED_PARAMETERS), SCHEDULE).loop == "scan"
    assert choose_plan(WAVES, LARGE._replace(on_cpu=False), SCHEDULE).together == "vmap"


@pytest.mark.parametrize(
    ("options", "circumstances", "num_workers"),
    [
        (WAVES._replace(loop="scan"), LARGE, WORKERS),
        (WAVES, LARGE._replace(in_trace=True), WORKERS),
        (WAVES, LARGE, STEPS_WORTH_A_CALL - 1),  # narrow waves: too many calls for their steps
    ],
)
def test_where_driving_does_not_pay_they_take_one_worker_after_another(
    options, circumstances, num_workers
):
    plan = choose_plan(options, circumstances, round_robin(num_workers, STEPS))
    assert (plan.loop, plan.separate_snapshots, widths(plan)) == ("scan", False, {1})


def test_the_faster_engine_is_taken():
    """Slots on CPU; on an accelerator waves, where they are wide and can be planned."""
    narrow = exponential_times(2, STEPS, seed=0)
    assert waves(narrow).length.mean() < 2
    for schedule, engine in ((SCHEDULE, "wavefront"), (narrow, "slots")):
        assert faster_engine(schedule, on_cpu=False) == engine
        assert faster_engine(schedule, on_cpu=True) == "slots"
    jax.jit(lambda s: chex.assert_equal(faster_engine(s, on_cpu=False), "slots"))(SCHEDULE)


def test_what_was_asked_for_is_done():
    for loop, together in itertools.product(("scan", "driven"), ("vmap", "unrolled", "pmap")):
        for circumstances in (ACCELERATOR, CPU, LARGE, CONVOLVING):
            options = WAVES._replace(loop=loop, together=together)
            plan = choose_plan(options, circumstances, SCHEDULE)
            assert (plan.loop, plan.together, plan.separate_snapshots) == (loop, together, False)
            assert widths(plan) == {WORKERS}
    assert widths(choose_plan(WAVES._replace(longest=5), LARGE, SCHEDULE)) == {1, 4}
    bounded = choose_plan(WAVES._replace(longest=3), CONVOLVING, SCHEDULE)
    assert max(widths(bounded)) == 2


def test_devices_share_chunks_evenly():
    cluster = gamma_times(WORKERS, STEPS, seed=0, variation=0.5)
    shared = choose_plan(WAVES._replace(together="pmap"), CPU._replace(local_devices=3), cluster)
    assert all(width == 1 or width % 3 == 0 or width == 2 for width in widths(shared))
    assert any(width % 3 == 0 for width in widths(shared))
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    on_mesh = choose_plan(WAVES._replace(mesh=mesh), CONVOLVING, SCHEDULE)
    assert (on_mesh.together, on_mesh.separate_snapshots) == ("unrolled", False)
    assert widths(on_mesh) == {WORKERS}


def test_batches_that_are_iterated_over_are_driven():
    for options in (Options(), WAVES):
        assert choose_plan(options, CPU._replace(iterated=True), SCHEDULE).loop == "driven"
        with pytest.raises(ValueError, match="iterated over cannot be scanned"):
            choose_plan(options._replace(loop="scan"), CPU._replace(iterated=True), SCHEDULE)
        for asked, meets in ((options._replace(loop="driven"), {}), (options, {"iterated": True})):
            with pytest.raises(ValueError, match="inside jit, vmap or scan cannot be driven"):
                choose_plan(asked, CPU._replace(in_trace=True, **meets), SCHEDULE)


def test_chunks_say_what_they_read():
    rounds = round_robin(WORKERS, STEPS, wait_for=8)
    assert {chunk.kind for chunk in choose_plan(WAVES, CPU, rounds).chunks} == {(8, ONE_SLOT)}
    odd = choose_plan(WAVES, CPU, round_robin(WORKERS, WORKERS + 3)).chunks
    assert [(chunk.start, *chunk.kind) for chunk in odd] == [
        (0, WORKERS, ALL_SLOTS),
        (WORKERS, 2, ANY_SLOTS),
        (WORKERS + 2, 1, ANY_SLOTS),
    ]


def test_a_plan_can_be_printed():
    assert str(choose_plan(Options(), CPU, SCHEDULE)) == (
        "one compiled loop; gradients one by one; snapshots stacked; chunks: -"
    )
    assert str(choose_plan(WAVES, LARGE, round_robin(WORKERS, 27))) == (
        "driven from Python; gradients unrolled; snapshots separate; chunks: 1 of 1, 1 of 2, 3 of 8"
    )
