"""Every main program is lowered for CUDA and TPU, without a device: nothing there needs the host.

Each is traced as on an accelerator, from shapes alone. A module that calls back to the host, holds
float64, or lacks the loop that an accelerator is to run, is a fault.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import dcasgd_jax as dc
from benchmarks.delay import cifar10 as dcasgd_cifar10
from benchmarks.delay import imagenet as dcasgd_imagenet
from benchmarks.latent import baselines, colored_digits, identifiability
from benchmarks.latent.methods import METHODS, Sizes
from benchmarks.latent.styles import pacs
from benchmarks.path_space import cifar10 as gsgd_cifar10
from benchmarks.path_space import control, mlp, sequence
from common import networks
from common.networks import Transformer, plain, resnet
from common.training import init_state, train_step
from common.training.classification import network_loss
from common.training.epochs import programs
from dcasgd_jax import peers
from gsgd_jax import choose_skeleton, find_gauge, in_path_space
from lacim_jax import MLP, Examples, LaCIM, MLPDecoder, MLPEncoder, Search, lacim_loss
from lacim_jax.inference import latent_inference
from lacim_jax.inference.latent_inference import is_driven
from tests.lowering import faults, keys, lowered, of

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """Whatever asks which backend it is on is told of an accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def check(function, *args, scanned=False):
    for platform, module in lowered(function, *args).items():
        assert faults(module, scanned=scanned) == [], platform


def test_faults_are_found():
    def host(x):
        return jax.pure_callback(lambda x: x, of((3,)), x)

    with pytest.raises(ValueError, match="different from the lowering platform"):
        lowered(host, of((3,)))
    called = "stablehlo.custom_call @xla_ffi_python_gpu_callback(%0) : tensor<3xf32>"
    assert faults(called, scanned=False) == ["calls the host: callback"]
    with jax.enable_x64(True):
        for module in lowered(lambda x: x * 2, of((3,), jnp.float64)).values():
            assert faults(module, scanned=False) == ["computes in float64"]
    for module in lowered(lambda x: 2 * x, of((3,))).values():
        assert faults(module, scanned=True) == ["has no loop"]
        assert faults(module, scanned=False) == []
    looped = lowered(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x + 1, x), of(()))
    assert all(faults(module, scanned=True) == [] for module in looped.values())


NETWORK = networks.MLP((8, 8, 4))
IMAGES, LABELS = of((16, 6)), of((16,), jnp.int32)
PARAMS = jax.eval_shape(NETWORK.init, jax.random.key(0), IMAGES)["params"]


def losses(params, batch):
    logits = NETWORK.apply({"params": params}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])


def loss(params, batch):
    return losses(params, batch).mean()


@pytest.mark.parametrize("basis", ["cycles", "paths"])
def test_training_in_path_space(basis):
    gauge = find_gauge(lambda p, x: NETWORK.apply({"params": p}, x), PARAMS, IMAGES)
    given = gauge
    if basis == "paths":
        drawn = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), PARAMS)  # no value is looked at
        given = choose_skeleton(gauge, drawn, basis="paths")
    tx = in_path_space(optax.adam(0.01), given)
    step = train_step(network_loss(NETWORK), tx)
    state = jax.eval_shape(lambda p: init_state(p, tx, {}), PARAMS)
    compiled = programs(step, 64, 16, many_runs=False)
    data = of((64, 6)), of((64,), jnp.int32)
    check(compiled.scanned, state, of((4, 16), jnp.int32), keys(), data, scanned=True)
    check(compiled.permute, keys(), of((), jnp.int32))


SCHEDULES = {"round robin": dc.round_robin(4, 16), "gamma": dc.gamma_times(4, 16, seed=0)}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("engine", ["slots", "vmap", "unrolled", "auto"])
def test_simulated_clusters(engine, schedule):
    rule, plan = dc.dcasgd(0.1, 0.04, mean_square_decay=0.95), SCHEDULES[schedule]
    batches = of((16, 16, 6)), of((16, 16), jnp.int32)

    def run(params, batches):
        if engine == "auto":
            return dc.simulate(jax.grad(loss), params, rule, plan, batches)
        if engine == "slots":
            simulator = dc.slot_simulator(jax.grad(loss), rule, 4)
        else:
            simulator = dc.wavefront_simulator(jax.grad(loss), rule, 4, together=engine)
        return simulator.run(simulator.init(params), plan, batches)

    check(run, PARAMS, batches, scanned=True)


GRADIENT = jax.grad(loss)
CURVATURES = {
    "hessian": dc.hessian(GRADIENT),
    "gauss_newton": dc.gauss_newton(
        lambda p, b: NETWORK.apply({"params": p}, b[0]),
        lambda o, b: optax.softmax_cross_entropy_with_integer_labels(o, b[1]).mean(),
    ),
    "empirical_fisher": dc.empirical_fisher(losses),
    "outer_product": dc.outer_product,
    "hessian_diagonal": dc.hessian_diagonal(GRADIENT, jax.random.key(0)),
}
RULES = {
    "constant": dc.delay_compensation(0.04),
    "adaptive": dc.delay_compensation(2.0, mean_square_decay=0.95),
    "low rank": dc.low_rank_compensation(4),
    "rotated": dc.rotated_compensation(),
    "constant delay": dc.constant_delay(dc.dcasgd(0.1, 0.04), 3),
    "staleness aware": peers.staleness_aware(),
    "delay adaptive": peers.delay_adaptive(4),
    "delayed Nesterov": peers.delayed_nesterov(4),
    "FedBuff": peers.fedbuff(optax.sgd(0.1), 4),
    "Rennala": peers.rennala(optax.sgd(0.1), 4),
    "error feedback": peers.error_feedback(optax.sgd(0.1), 3),
    **{name: dc.curvature_compensation(curvature) for name, curvature in CURVATURES.items()},
}


@pytest.mark.parametrize("name", RULES)
def test_compensation_rules(name):
    rule = optax.with_extra_args_support(RULES[name])
    state = jax.eval_shape(rule.init, PARAMS)

    def update(gradients, state, params, stale, batch):
        told = {} if name == "constant delay" else {
            "stale_params": stale, "staleness": jnp.int32(3), "worker": jnp.int32(1),
            "batch": batch,
        }  # fmt: skip
        return rule.update(gradients, state, params, **told)

    check(update, PARAMS, state, PARAMS, PARAMS, (IMAGES, LABELS))


LATENT = LaCIM(MLPEncoder((8,)), MLPDecoder((4, 4, 1), (8,)), MLP((8, 2)), num_domains=2,
               s_dim=2, v_dim=2)  # fmt: skip
EXAMPLES = Examples(of((16, 4, 4, 1)), labels=LABELS, domains=LABELS)
VARIABLES = dict(jax.eval_shape(LATENT.init, jax.random.key(0), EXAMPLES.images, EXAMPLES.domains))


def test_the_bound_and_its_step():
    tx = optax.adam(0.01)
    step = train_step(lacim_loss(LATENT, num_samples=4), tx)
    first = jnp.zeros([], jnp.int32)
    state = jax.eval_shape(lambda p: init_state(p, tx, first), VARIABLES["params"])
    compiled = programs(step, 64, 16, many_runs=False)
    data = jax.tree.map(lambda leaf: of((64, *leaf.shape[1:]), leaf.dtype), EXAMPLES)
    check(compiled.scanned, state, of((4, 16), jnp.int32), keys(), data, scanned=True)


def test_the_latent_search():
    search = Search()
    options = {"optimiser": search.optimiser, "regulariser": search.regulariser}
    begin, step, steps = latent_inference.PROGRAMS
    weight, images = of(()), EXAMPLES.images

    def begun(variables, images, noise, weight):
        return begin(LATENT, variables, images, noise, weight=weight, **options)

    state = jax.eval_shape(begun, VARIABLES, images, of((4, 2, 4)), weight)

    def whole(variables, images, state, count, weight):
        return steps(LATENT, variables, images, state, count, weight=weight, **options)

    def single(variables, images, state, weight):
        return step(LATENT, variables, images, state, weight=weight, **options)

    assert not is_driven(LATENT, VARIABLES, search)
    check(begun, VARIABLES, images, of((4, 2, 4)), weight)
    check(single, VARIABLES, images, state, weight)
    check(whole, VARIABLES, images, state, of((), jnp.int32), weight, scanned=True)


def of_labels(network, image, batch_size, dtype: Any = jnp.float32):
    """The gradient of a classifier's loss, as an experiment takes it, and its arguments."""
    inputs = of((batch_size, *image), dtype)
    variables = dict(jax.eval_shape(network.init, jax.random.key(0), inputs))
    params = variables.pop("params")
    names = list(variables)

    def loss(params, averages, inputs, labels):
        if not names:
            logits, averages = network.apply({"params": params}, inputs), ()
        else:
            logits, averages = network.apply(
                {"params": params, **averages}, inputs, train=True, mutable=names
            )
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), averages

    labels = of((batch_size, *image) if dtype == jnp.int32 else (batch_size,), jnp.int32)
    return jax.grad(loss, has_aux=True), params, variables, inputs, labels


def in_bfloat16(function, *args):
    for module in lowered(function, *args, at_once=True).values():
        assert faults(module, scanned=False) == []
        assert "bf16" in module


HALF = jnp.bfloat16
FULL = {
    "gsgd_cifar10": (plain(34, 10, dtype=HALF), (32, 32, 3), gsgd_cifar10),
    "dcasgd_cifar10": (resnet(20, 10, dtype=HALF), (32, 32, 3), dcasgd_cifar10),
    "dcasgd_imagenet": (resnet(50, 1000, stem="7x7", dtype=HALF), (224, 224, 3), dcasgd_imagenet),
    "gsgd_mlp": (networks.MLP(mlp.PRESETS["full"].widths, use_bias=False, dtype=HALF), (784,), mlp),
}


@pytest.mark.parametrize("name", FULL)
def test_networks_of_full_presets_in_bfloat16(name):
    network, image, experiment = FULL[name]
    full = experiment.PRESETS["full"]
    in_bfloat16(*of_labels(network, image, full.batch_size))


def test_the_transformer_and_the_policy_in_bfloat16():
    full = sequence.PRESETS["full"]
    translator = Transformer(
        60, width=full.width, hidden=full.hidden, heads=full.heads, layers=full.layers, length=20,
        dtype=HALF,
    )  # fmt: skip
    policy = networks.MLP((*control.PRESETS["full"].widths, 3), dtype=HALF)
    for network, shape, dtype in ((translator, (20,), jnp.int32), (policy, (4,), jnp.float32)):
        in_bfloat16(*of_labels(network, shape, 32, dtype))


@pytest.mark.parametrize(
    ("experiment", "image", "domains"),
    [(pacs, (64, 64, 3), 3), (baselines, (28, 28, 2), 2), (colored_digits, (28, 28, 2), 2)],
)
def test_latent_models_of_full_presets_in_bfloat16(experiment, image, domains):
    full, method = experiment.PRESETS["full"], METHODS["LaCIM"]
    sizes = Sizes(image, full.widths, full.s_dim, full.v_dim, domains, 7, full.convolutions, True)
    model = method.build(sizes)
    labels = of((full.batch_size,), jnp.int32)
    examples = Examples(of((full.batch_size, *image)), labels, labels)
    params = jax.eval_shape(model.init, jax.random.key(0), examples.images, labels)["params"]

    def gradient(params, examples, key, beta, weight):
        hyper = {"beta": beta, "label_weight": weight}
        objective = method.loss(model, hyper, lambda _: jnp.ones([]), sizes)
        return jax.grad(lambda p: objective(p, method.state(sizes), examples, key)[0])(params)

    in_bfloat16(gradient, params, examples, keys(), of(()), of(()))


def test_the_model_of_identifiability_in_bfloat16():
    small = dataclasses.replace(
        identifiability.PRESETS["full"], bfloat16=True, size=50, held_out=20
    )
    setting = identifiability.Setting("continuous", 3)
    causal, _ = identifiability.load_parts(small, setting, 0)
    model = identifiability.build(small, "LaCIM", causal)
    labels = of((32,), jnp.int32)
    examples = Examples(of((32, causal.rotations[-1].shape[-1])), labels, labels)
    params = jax.eval_shape(model.init, jax.random.key(0), examples.images, examples.domains)
    objective = lacim_loss(model)

    def gradient(params, examples, key):
        return jax.grad(lambda p: objective(p, jnp.zeros([]), examples, key)[0])(params)

    in_bfloat16(gradient, params["params"], examples, keys())
