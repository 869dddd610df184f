"""Event loops that the simulator is compared with take the same steps."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.delay.timed import appfl_clients, event_loops, torch_loop
from benchmarks.delay.timed.heap import arrivals, equal_times
from benchmarks.delay.timed.torch_loop import TorchNetwork
from benchmarks.delay.timed.workload import build
from benchmarks.judgement.speed_verdict import speed
from common.progress import Silent
from common.results.records import Record
from dcasgd_jax import dcasgd, from_compute_times, round_robin, simulate

STEPS, WORKERS, RATE, STRENGTH = 24, 4, 0.02, 1.0
TIMES = np.random.default_rng(0).gamma(2.0, size=(WORKERS, STEPS + 1))
LOOPS = event_loops.Loops(widths=(4,), workers=(2,), batch_size=3, steps=4, appfl_steps=2)


def drawn():
    return [itertools.chain(own.tolist()) for own in TIMES]


@pytest.fixture(scope="module")
def workload():
    """A perceptron in float64, in which the network itself does not compute."""

    def loss(params, batch):
        hidden, labels = batch
        for number in range(3):
            layer = params[f"layer_{number}"]
            hidden = (jax.nn.relu(hidden) if number else hidden) @ layer["kernel"]
            hidden += layer["bias"][None]
        return -jnp.take_along_axis(jax.nn.log_softmax(hidden), labels[:, None], 1).mean()

    with jax.enable_x64():
        made = build("MLP", (6, 1.0), 3, STEPS, 0)
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), made.params)
        images, labels = made.batches
        batches = jnp.asarray(images, jnp.float64), labels
        return made._replace(gradient=jax.grad(loss), params=double, batches=batches)


def simulated(workload, strength):
    tx = dcasgd(RATE, strength) if strength else optax.sgd(RATE)
    schedule = from_compute_times(TIMES, STEPS)
    assert schedule.staleness.max() > 2
    ours = simulate(workload.gradient, workload.params, tx, schedule, workload.batches)[0]
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    return tx, ours


def test_the_heap_is_the_schedule():
    assert list(arrivals(drawn(), STEPS)) == from_compute_times(TIMES, STEPS).worker.tolist()
    assert list(arrivals(equal_times(3), 8)) == round_robin(3, 8).worker.tolist()


@pytest.mark.parametrize("strength", [0.0, STRENGTH])
def test_the_loop_in_jax_ends_where_the_simulator_does(workload, strength, x64):
    tx, ours = simulated(workload, strength)
    theirs = event_loops.jax_loop(workload, tx, drawn, STEPS)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), ours, theirs)


@pytest.mark.parametrize("strength", [0.0, STRENGTH])
def test_the_loop_in_pytorch_ends_where_the_simulator_does(workload, strength, x64):
    pytest.importorskip("torch", reason="needs PyTorch, the extra torch")
    network = torch_loop.of_perceptron(workload.params, workload.batches)
    run = torch_loop.event_loop(network, drawn, STEPS, learning_rate=RATE, strength=strength)
    _, ours = simulated(workload, strength)
    flat = [ours[layer][name] for layer in sorted(ours) for name in ("kernel", "bias")]
    for _ in range(2):  # a second call begins anew
        for a, b in zip(flat, run(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)


def test_what_is_installed_is_timed_and_the_rest_is_named(monkeypatch):
    monkeypatch.setattr(event_loops, "installed", lambda library: False)
    records = list(event_loops.measure(LOOPS, 1, 0, Silent()))
    assert [(r.method, r.setting["rule"]) for r in records] == [
        (method, rule)
        for rule in ("ASGD", "DC-ASGD-c")
        for method in (event_loops.SIMULATOR, event_loops.JAX_LOOP)
    ]
    text = event_loops.table(records)
    assert "Not installed, so left out: torch. Not installed, so left out: appfl." in text


def made_up(ratios, alone=0.004):
    """Records of a simulator that takes a millisecond a gradient."""
    for (width, workers), ratio in ratios.items():
        setting = {"network": event_loops.NETWORK, "width": width, "workers": workers}
        for method, seconds in (
            (event_loops.SIMULATOR, 0.001),
            (event_loops.TORCH_LOOP, 0.001 * ratio),
            (event_loops.TORCH_GRADIENTS, alone),
            (event_loops.APPFL, 0.02),
        ):
            metrics = {"gradients_per_second": 1 / seconds, "simulator_ratio": seconds / 0.001}
            yield Record(
                method=method, setting=setting | {"rule": "ASGD", "version": "9"}, seed=0,
                metrics=metrics, wall_time=1.0,
            )  # fmt: skip


def test_a_miss_is_explained_by_the_gradients_themselves():
    text = event_loops.table(list(made_up({(32, 16): 12.0, (256, 16): 5.0, (256, 64): 6.0})))
    assert "has 5.0 to 12.0 times the gradients a second of an event loop in PyTorch 9" in text
    assert "(target 10 at every M: missed)" in text
    assert "at width 256 and M = 16, an event takes PyTorch 5000 µs, of which 4000 go" in text
    assert "would still leave a factor of 4.0" in text
    assert (
        "20.0 to 20.0 times the gradients a second of APPFL 9 (target 10 at every M: met)" in text
    )
    assert "left out" not in text


def test_a_target_that_is_met_needs_no_explanation():
    text = event_loops.table(list(made_up({(32, 16): 12.0})))
    assert "PyTorch 9 (target 10 at every M: met)" in text
    assert "an event takes" not in text


def test_the_worst_loop_is_weighed_among_all_of_speed():
    records = list(made_up({(32, 16): 12.0, (256, 16): 5.0}))
    found = speed({"dcasgd_speed": records})
    assert found.headline.startswith("targets met: simulated cluster 0 of 1; worst: ")
    assert "cluster 5.0 times the throughput of an event loop in PyTorch" in found.headline


def test_settings_can_be_recorded():
    assert dataclasses.asdict(LOOPS)["workers"] == (2,)


def test_appfl_is_timed_over_whole_rounds():
    """The gradients of a round are computed together: a part of one may hold none of them."""
    network = TorchNetwork(lambda weights, batch: None, [], (None, None))
    with pytest.raises(ValueError, match="whole rounds of 64 workers, got 32"):
        appfl_clients.simulation(network, 64, 32, 0.1)
