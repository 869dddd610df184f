"""Runs side by side are lowered for CUDA and TPU, as an accelerator trains them; nothing is run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dcasgd_jax as dc
from benchmarks.delay import cifar10 as dcasgd_cifar10
from benchmarks.delay.images import Case, Data, Settings
from benchmarks.delay.language import delayed_model, rules
from benchmarks.delay.language import settings as language
from benchmarks.delay.language.network import Size, next_byte_loss
from benchmarks.delay.language.runs import Runner, load
from benchmarks.delay.language.text import Text
from benchmarks.delay.report import ADAPTIVE, ASGD, CONSTANT
from benchmarks.delay.training import Trainer
from benchmarks.path_space.methods import METHODS, problem, transformation
from benchmarks.path_space.training import Setup, first_state, step_by_rates
from common import networks
from common.data import PixelStatistics
from common.training import init_state, train_step
from common.training.classification import network_loss
from common.training.epochs import advancing, programs
from tests.lowering import faults, keys, lowered, of

pytestmark = pytest.mark.usefixtures("standard_promotion")

RUNS = 2


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """Whatever asks which backend it is on is told of an accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def check(function, *args):
    """Lowers a program for all platforms at once: it has a loop, and nothing of the host's."""
    (module,) = lowered(function, *args, at_once=True).values()
    assert faults(module, scanned=True) == []
    return module


def side_by_side(tree):
    """Shapes with a leading axis of runs."""
    return jax.tree.map(lambda leaf: of((RUNS, *leaf.shape), leaf.dtype), tree)


@pytest.mark.parametrize(("backend", "taken"), [("gpu", "scanned"), ("tpu", "scanned"),
                                                ("cpu", "single")])  # fmt: skip
def test_a_step_with_convolutions_is_scanned_on_all_but_cpu(backend, taken, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    network = networks.resnet(8, 4, width=0.125)
    images, labels = jnp.zeros((8, 8, 8, 1)), jnp.zeros(8, jnp.int32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    tx = optax.sgd(0.1)
    averages = {"batch_stats": variables["batch_stats"]}
    state = jax.eval_shape(lambda p, a: init_state(p, tx, a), variables["params"], averages)
    calls = []

    def spy(name, losses):
        return lambda state, *given: (calls.append(name), (state, losses))[1]

    real = programs(train_step(network_loss(network), tx), 8, 4, many_runs=False)
    compiled = real._replace(scanned=spy("scanned", np.zeros(2)), single=spy("single", 0.0))
    advance = advancing(
        compiled, state, (images, labels), order=jax.random.key(1), noise=jax.random.key(2),
        loop="auto",
    )  # fmt: skip
    advance(state, 0, 0, 2)
    assert set(calls) == {taken}


@pytest.mark.parametrize("method", [ASGD, CONSTANT, ADAPTIVE])
def test_runs_of_simulated_workers(method):
    settings: Settings = dataclasses.replace(
        dcasgd_cifar10.PRESETS["full"], depth=8, width=0.25, workers=(4,), methods=(method,),
        rounds=(method,), batch_size=4, epochs=1, evaluations=1, bfloat16=True,
    )  # fmt: skip
    part = jnp.zeros((32, 8, 8, 3)), jnp.zeros(32, jnp.int32)
    trainer = Trainer(
        settings, Data(part, part, part, 10, PixelStatistics(np.zeros(3), np.ones(3)))
    )
    simulator, program = trainer._simulator(Case(method, 4))
    variables = jax.eval_shape(trainer._network.init, jax.random.key(0), part[0])
    state = jax.eval_shape(simulator.init, variables["params"], variables["batch_stats"])
    schedule = dc.gamma_times(4, 8, seed=0)
    schedule = dataclasses.replace(schedule, clock=schedule.staleness)
    module = check(
        program, side_by_side(state), jax.tree.map(lambda c: np.stack([c] * RUNS), schedule),
        of((RUNS, 8, 4), jnp.int32), keys(RUNS), of((), jnp.int32), part,
    )  # fmt: skip
    assert "bf16" in module


@pytest.mark.parametrize(
    ("network", "method"),
    [("plain-34", "G-SGD, skeleton init"), ("plain-8", "G-SGD"), ("plain-8", "SGD")],
)
def test_runs_in_path_space_with_norms(network, method):
    """From the papers' start, plain-34 steps by reference norms."""
    image = jnp.zeros((1, 8, 8, 3))
    with jax.default_prng_impl("rbg"):  # a quarter of the time to compile
        given, init = problem(
            network, image, 10, jax.random.key(0), width=1 / 16, dtype=jnp.bfloat16
        )
        params = jax.eval_shape(init, jax.random.key(0))
    make = transformation(next(each for each in METHODS if each.name == method), given)
    step = step_by_rates(given.module, make, augment=True)
    first = jax.eval_shape(first_state(make, given.averages), params)
    state = side_by_side(first._replace(model_state=Setup(first.model_state, of((4,)))))
    compiled = programs(step, 16, 4, many_runs=True)
    data = of((16, 8, 8, 3)), of((16,), jnp.int32)
    rows = of((4, RUNS, 4), jnp.int32)
    assert "bf16" in check(compiled.scanned, state, rows, keys(RUNS), data)


def test_the_full_language_model_in_bfloat16():
    full = delayed_model.PRESETS["full"]
    network = full.size.network()
    tokens = of((1, full.size.length), jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
    windows = of((full.batch_size, full.size.length + 1), jnp.int32)
    gradient = jax.grad(lambda params, windows: next_byte_loss(network, params, windows))
    (module,) = lowered(gradient, params, windows, at_once=True).values()
    assert faults(module, scanned=False) == []
    assert "bf16" in module


SMALL = language.Settings(
    size=Size(8, 2, 1, 8, bfloat16=True), steps=4, points=2, batch_size=2, watched=2, held_out=2
)


@pytest.fixture(scope="module")
def runner():
    part = np.arange(64, dtype=np.uint8)
    with jax.numpy_dtype_promotion("standard"):
        return Runner(SMALL, load(Text(part, part, part, "", {}), SMALL))


@pytest.mark.parametrize(
    ("optimiser", "rule"),
    [
        (rules.MUON, rules.NOTHING),
        (rules.MUON, rules.BOTH),
        (rules.MUON, rules.FEEDBACK),
        (rules.ADAMW, rules.ADAPTIVE),
    ],
)
def test_runs_of_the_language_model(optimiser, rule, runner):
    case = language.Case(optimiser, rule, 2)
    fixed = runner.delays(2) if rule == rules.FEEDBACK else None
    shared = runner.shared(case, 0)
    assert "bf16" in check(runner.many(case, fixed), of((runner.width, 2)), *shared)
