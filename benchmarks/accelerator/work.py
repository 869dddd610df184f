"""What pieces are made of: which steps, how many of them, how many programs. Nothing is run."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.accelerator.costs import Program
from benchmarks.delay.images import cases, waited_for
from benchmarks.delay.language import rules
from benchmarks.delay.language.network import next_byte_loss
from benchmarks.delay.language.settings import PROFILE, lambdas
from benchmarks.delay.report import ADAPTIVE, CONSTANT, SGD
from benchmarks.harness.halving import runs
from benchmarks.latent.methods import METHODS
from benchmarks.latent.reports.colored_digits import LACIM, POOLED
from benchmarks.path_space import methods as path_space
from common.networks import plain, resnet
from lacim_jax import Examples, Search, mixture_prior


class Work(NamedTuple):
    """Steps of one kind, all or a part of what a piece computes at its settings."""

    name: str
    """Of what a step is: steps of one name cost the same."""
    program: Callable[[], Program]
    """Makes a step of one run; seconds for a large network."""
    steps: float
    """Of all runs together."""
    compiled: int
    """Programs that are compiled for it, about."""
    compile_seconds: float
    """That one of them takes on an accelerator's host, about."""
    runs: int = 0
    """Runs that are trained; 0 where ways are timed, or latents searched."""
    together: int = 1
    """What takes its steps side by side."""
    half: bool = False
    """Whether products are in bfloat16; else in float32."""
    driven: bool = False
    """Whether every step is begun from Python."""


class Data(NamedTuple):
    """Of a data set."""

    image: tuple[int, int, int]
    train: int
    test: int


DATA = {
    "cifar10": Data((32, 32, 3), 50_000, 10_000),
    "mnist": Data((28, 28, 1), 60_000, 10_000),
    "mnist5k": Data((28, 28, 1), 4_000, 1_000),
    "digits8x8": Data((8, 8, 1), 1_442, 355),
}

_KEY = jax.ShapeDtypeStruct((), jax.eval_shape(lambda: jax.random.key(0)).dtype)


def shaped(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """An array of which there is the shape alone."""
    return jax.ShapeDtypeStruct(shape, dtype)


def classifier(network: Any, image: tuple[int, ...], batch_size: int) -> Program:
    """The cross-entropy of a network, with its running averages where it has them.

    Args:
        network: a module.
        image: the shape of one.
        batch_size: of a step.
    """
    inputs, labels = shaped(batch_size, *image), shaped(batch_size, dtype=jnp.int32)
    variables = dict(jax.eval_shape(network.init, jax.random.key(0), inputs))
    params = variables.pop("params")
    names = list(variables)

    def loss(params: Any, averages: Any, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        given = {"params": params, **averages}
        logits: Any = (
            network.apply(given, inputs, train=True, mutable=names)[0]
            if names
            else network.apply(given, inputs)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Program(loss, params, (variables, inputs, labels))


def in_path_space(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of gsgd_cifar10."""
    methods = path_space.named(settings.methods, path_space.METHODS)
    rungs = [
        runs(len(settings.rates(method)), settings.epochs, seeds, settings.halving)
        for method in methods
    ]
    budgets = [each for of_method in rungs for each in of_method]

    def of(name: str) -> Work:
        family, _, depth = name.partition("-")
        make = {"plain": plain, "ResNet": resnet}[family]

        def program() -> Program:
            network = make(int(depth), 10, width=settings.width, dtype=_dtype(settings),
                           stem=settings.stem)  # fmt: skip
            return classifier(network, _image(settings), settings.batch_size)

        return Work(
            _named(name, settings), program, _steps(settings) * _epochs(budgets),
            # A program a rung of each method, and those that evaluate.
            compiled=len(budgets) + 1, compile_seconds=20.0,
            runs=sum(count for _, count in budgets),
            together=min(settings.at_once, max(count for _, count in budgets)),
            half=settings.bfloat16,
        )  # fmt: skip

    return tuple(of(name) for name in settings.networks)


def under_delay(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of dcasgd_cifar10."""
    rungs = runs(len(settings.learning_rates), settings.epochs, seeds, settings.halving)
    todo = cases(settings)
    rules_compiled = {
        (case.method if case.method in (CONSTANT, ADAPTIVE) else SGD, waited_for(case) or 1)
        for case in todo
    }

    def program() -> Program:
        network = resnet(settings.depth, 10, width=settings.width, dtype=_dtype(settings),
                         stem=settings.stem or "3x3")  # fmt: skip
        return classifier(network, _image(settings), settings.batch_size)

    work = Work(
        _named(f"ResNet-{settings.depth}", settings), program,
        _steps(settings) * len(todo) * _epochs(rungs),
        compiled=len(rules_compiled) * len(rungs) + 1, compile_seconds=12.0,
        runs=len(todo) * sum(count for _, count in rungs),
        together=min(settings.at_once, max(count for _, count in rungs)), half=settings.bfloat16,
    )  # fmt: skip
    return (work,)


def language(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of delayed_language_model: every call trains as many runs as there are steps in the grid."""
    width, size = len(settings.learning_rates), settings.size
    searched = settings.further + seeds - 1

    def calls() -> Iterator[int]:
        for delay in (*settings.delays, PROFILE):
            yield 1 + searched if delay == 0 else 2 + searched  # also the best step of no delay
        for delay in dict.fromkeys((*settings.main_delays, PROFILE)):
            wanted = settings.rows if delay in settings.main_delays else settings.extra_rules
            for rule in (rule for rule in wanted if rule != rules.NOTHING):
                yield max(1, len(lambdas(rule, settings))) + searched

    def program() -> Program:
        network, window = size.network(), shaped(settings.batch_size, size.length + 1,
                                                 dtype=jnp.int32)  # fmt: skip
        tokens = shaped(1, size.length, dtype=jnp.int32)
        params = jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
        return Program(
            lambda params, rows: next_byte_loss(network, params, rows), params, (window,)
        )

    of = f"a decoder of width {size.width} and {size.layers} layers, batch {settings.batch_size}"
    trained = width * sum(calls()) * len(settings.optimisers)
    compiled = len({rules.NOTHING, *settings.rows}) * len(settings.optimisers)
    work = Work(
        of, program, float(trained * settings.steps), compiled=compiled, compile_seconds=20.0,
        runs=trained, together=width, half=size.bfloat16,
    )  # fmt: skip
    return (work,)


def coloured(settings: Any, seeds: int) -> tuple[Work, ...]:
    """Of lacim_colored_digits: the training, and the search of latents that follows it."""
    data, columns = DATA[settings.data], seeds * len(settings.label_noises)
    height, width, _ = data.image
    image = (height // settings.pool, width // settings.pool, 2)
    method, domains = METHODS["LaCIM"], len(settings.correlations)
    sizes = settings.sizes(image, num_domains=domains, num_classes=2)

    def model() -> tuple[Any, Any, Any, Any]:
        made: Any = method.build(sizes)
        images, labels = shaped(settings.batch_size, *image), shaped(settings.batch_size,
                                                                     dtype=jnp.int32)  # fmt: skip
        params = jax.eval_shape(made.init, jax.random.key(0), images, labels)["params"]
        return made, params, images, labels

    def training() -> Program:
        made, params, images, labels = model()

        def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
            hyper: Any = {"beta": jnp.ones([]), "label_weight": jnp.ones([])}
            objective = method.loss(made, hyper, lambda _: jnp.ones([]), sizes)
            return objective(params, method.state(sizes), Examples(images, labels, labels), key)[0]

        return Program(loss, params, (images, labels, _KEY))

    def searching() -> Program:
        made, params, *_ = model()
        return searched(made, params, image)

    tried = len(settings.methods) * settings.trials * columns
    at_once = settings.trials * columns
    found = [name for name in settings.methods if name in (POOLED, LACIM)]
    held_out = round(settings.validation * min(settings.size or data.train, data.train))
    tested = min(settings.test_size or data.test, data.test)
    # All weights on validation images, and the chosen one on test images.
    images = columns * (len(settings.search_weights) * held_out + tested)
    gradients = sum(
        gradients_of(
            settings.search_draws, domains if name == LACIM else 1, max(settings.search_steps)
        )
        for name in found
    )
    name = f"{image} from {settings.widths}, {'bfloat16' if settings.bfloat16 else 'float32'}"
    return (
        Work(
            f"LaCIM, {name}, batch {settings.batch_size}", training,
            float(tried * settings.epochs * _steps(settings)),
            compiled=2 * len(settings.methods), compile_seconds=5.0, runs=tried,
            together=min(settings.at_once or at_once, at_once), half=settings.bfloat16,
        ),
        Work(
            f"search, {name}", searching, float(images * gradients), compiled=3 * len(found),
            compile_seconds=3.0, together=400, half=settings.bfloat16,
        ),
    )  # fmt: skip


def searched(model: Any, params: Any, image: tuple[int, ...]) -> Program:
    """The objective of the latents of one image, from one start."""

    def loss(latents: jax.Array, params: Any, images: jax.Array) -> jax.Array:
        variables = {"params": params}
        pixels: Any = model.apply(variables, latents, method="decode")
        priors: Any = model.apply(variables, method="priors")
        log_x = jax.vmap(model.likelihood.log_prob)(pixels, images)
        return -(log_x + jax.vmap(lambda z: mixture_prior(z, priors))(latents)).sum()

    latents = shaped(1, model.s_dim + model.v_dim)
    return Program(loss, latents, (params, shaped(1, *image)))


def gradients_of(draws: int, domains: int, steps: int) -> int:
    """How many gradients the search of an image takes by default."""
    search = Search()
    starts = domains * (1 + draws)
    screened, kept = min(search.screening, steps), min(search.keep or starts, starts)
    return starts * (screened + 1) + kept * (steps - screened)


def _epochs(budgets: Any) -> float:
    """Of all runs, from budgets and how many runs have them."""
    return float(sum(budget * count for budget, count in budgets))


def _dtype(settings: Any) -> Any:
    return jnp.bfloat16 if settings.bfloat16 else jnp.float32


def _named(network: str, settings: Any) -> str:
    number = "bfloat16" if settings.bfloat16 else "float32"
    image = "x".join(map(str, _image(settings)))
    size = f"width {settings.width:g}, {image}, batch {settings.batch_size}"
    return f"{network}, {settings.stem or 'usual'} stem, {size}, {number}"


def _image(settings: Any) -> tuple[int, int, int]:
    height, width, channels = DATA[settings.data].image
    return height // settings.pool, width // settings.pool, channels


def _steps(settings: Any) -> int:
    """Of a run, in an epoch."""
    most = DATA[settings.data].train
    most = min(getattr(settings, "size", None) or most, most)
    left = most - round(settings.validation * most)
    return min(getattr(settings, "train_size", None) or left, left) // settings.batch_size
