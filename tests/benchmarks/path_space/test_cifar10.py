"""G-SGD on image networks: every run is recorded, on the same batches, diverged or not."""

import dataclasses
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.harness.courses import rates_of
from benchmarks.harness.halving import UNFINISHED, Halving, reported
from benchmarks.harness.registry import Context
from benchmarks.path_space import cifar10 as gsgd_cifar10
from benchmarks.path_space import training
from benchmarks.path_space.methods import (
    METHODS,
    PAIRS,
    path_sgd_unit,
    problem,
    transformation,
)
from common.progress import Silent
from common.results.records import RecordWriter, read_records
from common.seeds import streams
from common.training import Fit
from gsgd_jax.family import path_norm

TINY = dataclasses.replace(
    gsgd_cifar10.PRESETS["smoke"], width=0.125, train_size=64, test_size=50, batch_size=16,
    networks=("ResNet-8 without norm",), learning_rates=(0.05, 1e30), adaptive_rates=(0.003,),
)  # fmt: skip
CONTEXT = Context(seeds=(0, 1), data_dir=None, progress=Silent())
TRAINED = ("SGD", "G-SGD", "Path-SGD")
BY_NAME = {method.name: method for method in METHODS}


def run(**changes):
    return list(gsgd_cifar10.run(dataclasses.replace(TINY, **changes), CONTEXT))


@pytest.fixture(scope="module", autouse=True)
def drawn_by_rbg():
    """Initial weights are drawn by a generator that takes a quarter of the time to compile."""
    with jax.default_prng_impl("rbg"):
        yield


@pytest.fixture(scope="module")
def records():
    return run(methods=TRAINED)


@pytest.fixture(scope="module")
def normalised():
    """A network with BatchNorm, and its first weights."""
    image = jax.random.normal(jax.random.key(3), (1, 8, 8, 1))
    given, init = problem("plain-8", image, 10, jax.random.key(0), width=0.125)
    return given, init(jax.random.key(1))


def test_there_is_one_record_for_every_run(records):
    found = [(r.method, r.setting["learning_rate"], r.seed) for r in records]
    wanted = itertools.product(TRAINED, (0.05, 1e30), (0, 1))
    assert sorted(found) == sorted(wanted)
    for record in records:
        assert record.setting["network"] == "ResNet-8 without norm"
        assert record.curve["epoch"] == [1, 2]
        for name in ("loss", "validation_accuracy", "test_accuracy"):
            assert len(record.curve[name]) == 2
            np.testing.assert_equal(record.metrics[name], record.curve[name][-1])


def test_with_halving_only_the_best_rate_has_all_epochs(records, tmp_path):
    """It is trained as without, and a rate that diverges is left behind."""
    halved = run(methods=("SGD",), halving=Halving(factor=2, seeds=1))
    finished = reported(halved)
    whole = [r for r in records if r.method == "SGD" and r.setting["learning_rate"] == 0.05]
    assert [(r.setting, r.seed) for r in finished] == [(r.setting, r.seed) for r in whole]
    for one, other in zip(finished, whole, strict=True):
        np.testing.assert_allclose(one.curve["loss"], other.curve["loss"], rtol=1e-5)
    tried = [r for r in halved if r not in finished]
    assert [(r.setting["learning_rate"], r.seed) for r in tried] == [(0.05, 0), (1e30, 0)]
    assert all(r.curve["epoch"] == [1] for r in tried)
    table = gsgd_cifar10.tables(halved)
    assert "with 1 epoch " in table
    assert "0.05 (edge)" in table  # of both that were tried
    assert "rates within" not in table
    assert f"{UNFINISHED}\n\n| method" in gsgd_cifar10.tables(tried)  # stopped in its search
    assert gsgd_cifar10.plots(tried, tmp_path)


def test_diverged_runs_have_no_accuracy_and_are_counted_in_the_table(records):
    for record in records:
        # In path space weights stay within a bound; the loss is finite, and the answers are chance.
        finite = record.setting["learning_rate"] == 0.05 or record.method == "G-SGD"
        assert math.isfinite(record.metrics["loss"]) == finite
        assert math.isfinite(record.metrics["test_accuracy"]) == finite
    table = gsgd_cifar10.tables(records)
    assert table.count("2 of 4") == len(TRAINED) - 1
    assert "not tried" in table  # at 1.0


def test_methods_differ_and_seeds_do(records):
    losses = [r.metrics["loss"] for r in records if r.setting["learning_rate"] == 0.05]
    assert len(set(losses)) == 2 * len(TRAINED)


def test_tables_and_figures_are_made_of_records_read_back(records, tmp_path):
    writer = RecordWriter(tmp_path / "records.jsonl", origin={"run": "1"})
    adam = [dataclasses.replace(r, method="G-Adam") for r in records if r.method == "SGD"]
    for record in (*records, *adam):
        writer.write(record)
    found = read_records(tmp_path / "records.jsonl")
    table = gsgd_cifar10.tables(found)
    assert "### ResNet-8 without norm" in table
    assert "| G-SGD - SGD " in table
    written = gsgd_cifar10.plots(found, tmp_path)
    assert [path.name for path in written] == ["learning_rates.png", "adaptive_rates.png"]
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_runs_side_by_side_are_the_runs_alone(records, monkeypatch):
    """Groups as on an accelerator: two of the four runs at a time, all else the same."""
    monkeypatch.setattr(gsgd_cifar10, "at_once_with_convolutions", lambda at_once: at_once)
    found = run(methods=("SGD",), at_once=3)
    alone = [r for r in records if r.method == "SGD"]
    assert [(r.seed, r.setting) for r in found] == [(r.seed, r.setting) for r in alone]
    for one, other in zip(found, alone, strict=True):
        for name, column in one.curve.items():
            np.testing.assert_allclose(column, other.curve[name], rtol=1e-4)


def test_all_methods_see_the_same_batches_and_steps_that_fall_by_ten(monkeypatch):
    """Runs that take down what they are given, and do nothing."""
    seen = []

    def idle(step, state, data, *, keys, epochs, **options):
        del step, options
        seen.append((np.asarray(state.model_state.rates), jax.random.key_data(keys.order).tolist()))
        names = ("loss", "validation_accuracy", "test_accuracy", *training.CROSS_ENTROPIES)
        return Fit(state, dict.fromkeys(names, np.zeros(epochs)), np.asarray(-1))

    monkeypatch.setattr(training, "fit", idle)
    methods = ("SGD", "SGD, skeleton init", "Path-SGD", "ENorm", "Adam")
    run(methods=methods, epochs=4, learning_rates=(1.0,), adaptive_rates=(0.5,))
    orders = [jax.random.key_data(streams(seed).order).tolist() for seed in CONTEXT.seeds]
    assert [order for _, order in seen] == orders * len(methods)
    rates = np.reshape([rates for rates, _ in seen], (len(methods), 2, -1))
    factors = np.repeat([1.0, 1.0, 0.1, 0.01], 4)  # 64 images in batches of 16: 4 steps an epoch
    for i, size in ((0, 1.0), (1, 1.0), (3, 1.0), (4, 0.5)):
        np.testing.assert_allclose(rates[i], size * np.stack([factors, factors]), rtol=1e-6)
    # Path-SGD's unit is that of each seed's own weights.
    units = rates[2] / factors
    np.testing.assert_allclose(units, units[:, :1] * np.ones(16), rtol=1e-6)
    assert units[0, 0] != units[1, 0]


@pytest.mark.parametrize("course", ["drops", "rise and fall"])
def test_a_run_takes_the_step_sizes_of_its_course(course):
    """Weights that add up the step sizes, whatever the gradient."""

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            del train
            return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name="dense")(x)

    def make(rate):
        return optax.stateless(lambda grads, _: jax.tree.map(lambda g: 0 * g + rate, grads))

    images, labels = jnp.ones((8, 1)), jnp.zeros(8, jnp.int32)
    module = Linear()
    step = jax.jit(training.step_by_rates(module, make, augment=False))
    rates = rates_of(course, 0.5, epochs=4, per_epoch=2)
    params = module.init(jax.random.key(0), images, train=True)["params"]
    state = training.with_rates(training.first_state(make, {})(params), rates)
    totals = []
    for _ in rates:
        state, _ = step(state, (images, labels), jax.random.key(1))
        totals.append(float(state.params["dense"]["kernel"][0, 0]))
    np.testing.assert_allclose(totals, np.cumsum(rates), rtol=1e-5)


def test_path_sgd_steps_as_far_as_sgd_on_average(normalised):
    """κ_e is the derivative of the squared path norm by w_e, over 2 w_e."""
    given, params = normalised

    @jax.jit
    def both(params):
        params = jax.tree.map(lambda w: jnp.where(w == 0, 0.1, w), params)  # the shifts

        def square(params):
            return path_norm(given.by_first_averages, params, given.image, power=2.0) ** 2

        slopes = jax.grad(square)(params)
        kappas = jax.tree.map(lambda g, w: g / (2 * w), slopes, params)
        return path_sgd_unit(given, params), kappas

    unit, kappas = both(params)
    every = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(kappas)])
    assert every.min() > 0
    assert every.max() > 10 * every.min()
    np.testing.assert_allclose(np.mean(unit / every), 1.0, rtol=1e-4)


def test_pairs_share_rule_and_start_and_every_method_has_a_name_of_its_own():
    assert len(BY_NAME) == len(METHODS)
    for ours, theirs in PAIRS:
        one, other = BY_NAME[ours], BY_NAME[theirs]
        assert (one.rule, one.reset) == (other.rule, other.reset)
        assert (one.on, other.on) == ("path space", "weights")


@pytest.mark.parametrize("name", ["G-SGD", "G-Adam"])
def test_from_the_usual_weights_a_step_in_path_space_sees_no_scale(
    name, normalised, standard_promotion
):
    """Weights, and a rescaled copy with the gradient that it then has, step alike."""
    given, params = normalised
    assert given.gauge.num_nodes == 2 + 2 * 2 + 2 * 4 + 2 * 8  # every channel after its norm

    @jax.jit
    def both(params, key):
        # Shifts begin at zero; anything else will do, so that every entry tells its factor.
        params = jax.tree.map(lambda w: jnp.where(w == 0, 0.1, w), params)
        copy = given.gauge.rescale(params, key, spread=0.5)
        factors = jax.tree.map(jnp.divide, copy, params)
        grads = jax.tree.map(jnp.cos, params)
        steps, theirs = (
            tx.update(slopes, tx.init(weights), weights)[0]
            for slopes, weights in (
                (grads, params),
                (jax.tree.map(jnp.divide, grads, factors), copy),
            )
        )
        return steps, jax.tree.map(jnp.divide, theirs, factors), factors

    tx = transformation(BY_NAME[name], given)(0.01)
    found = [jax.tree.leaves(tree) for tree in both(params, jax.random.key(2))]
    for one, other, _ in zip(*found, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    assert max(np.abs(step).max() for step in found[0]) > 1e-3
    assert max(np.abs(factor - 1).max() for factor in found[2]) > 0.5


def test_the_papers_start_is_trained_with_norms_and_augmentation():
    found = run(
        networks=("plain-8",), methods=("G-SGD, skeleton init",), learning_rates=(1.0,),
        augment=True, epochs=1,
    )  # fmt: skip
    assert [r.seed for r in found] == [0, 1]
    assert all(math.isfinite(r.metrics["loss"]) for r in found)
    assert all(0 <= r.metrics["test_accuracy"] <= 1 for r in found)


def test_unknown_networks_and_methods_are_refused():
    with pytest.raises(ValueError, match=r"networks are called .* got 'VGG-16'"):
        run(networks=("VGG-16",))
    with pytest.raises(ValueError, match=r"methods are SGD; G-SGD; .* Got H-SGD"):
        run(methods=("SGD", "H-SGD"))
