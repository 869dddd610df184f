"""On the authors' data, with networks of their sizes: is our LaCIM as accurate as their code?

Two-class coloured MNIST without flipped labels, as the authors' code makes it: colour agrees with
the label on 90% and 80% of the images of two training domains, and on 10% of the test domain's. A
colour is 204 of 255 bright, and each image has a shade of its own. 15,360 images are seen, each
once; they are 32x32x3 with a margin of two pixels, and digits are as they are. The encoder has
convolutions of 32, 64, 128 and 256 channels, the decoder four transposed ones, s and v have 16
dimensions each, and p(y|s) has layers of 512 and 256.

Theirs is their own code (Sun et al., 2021, https://arxiv.org/abs/2011.02203), run on CPU with
PyTorch 2.15 on the same images, seed by seed, and as their command has it but for the epochs: one,
so that the best epoch on test images, which it prints, is also the last. Batches of 256, SGD with a
step of 0.1, momentum of 0.5 and decay of 0.0002, half of the images mirrored. In test the best of
20 starts is searched by 50 steps of Adam at 0.0005; without them its accuracy is within 0.2 points.
A mirrored digit is another shape, so it was run without mirroring too, and answered from the best
start. On images of two other seeds, drawn as their script draws them, it had 67.7 and 79.4%
mirrored, 74.0 and 91.8 not; the first seed again, its batches in another order, 61.6. In batches
of 64 at the same step it had 45.7, 70.0 and 51.9 on ours, nothing mirrored. An earlier measurement,
whose protocol was not kept, had 84 to 86, which a single run may reach, but not their mean.

Ours is trained as `lacim_jax.fit` trains by default: the label weighed as it is by default, the
divergence warmed up over the first quarter of the steps, Adam at 0.001. It answers from the best
start, without a search of the latents. Batches are theirs, and of 64: in 60 steps nothing has
converged, colour alone has 85% of the held-out images, and what goes beyond it is the digit, half
learnt. The smaller size was chosen on held-out images of two other seeds, where LaCIM had 96.8 and
96.6%, and in batches of 256, on the first of them, 94.9. ERM has our encoder and batches. With a
trunk of the shape of theirs, which pools and averages over places, and group normalisation, ERM had
86.8% there against 96.0: at this budget theirs learns by BatchNorm and its long steps, and swings.

Cost, three seeds, on one core: cpu 2 minutes, day 9; full, three times as many images, was
not run.
Command: python -m benchmarks lacim_reference --preset day --seeds 3
"""

import dataclasses
import functools
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from benchmarks.harness.figures import dots_figure
from benchmarks.harness.registry import Context
from benchmarks.harness.reports import by_method, by_setting, joined, met, values
from benchmarks.latent.methods import METHODS
from common.data import load, take
from common.data.generated.colored_digits import ColoredDigits, colored_domains
from common.progress import Bar
from common.results.comparison import interval
from common.results.records import Record
from common.results.tables import markdown, metric, percent, summarise
from common.seeds import streams
from common.training import Keys, LossFn, fit, init_state, train_step
from common.training.classification import evaluator
from lacim_jax import (
    ERM,
    MLP,
    ConvDecoder,
    ConvEncoder,
    DomainHeads,
    Examples,
    LaCIM,
    erm_loss,
    lacim_loss,
)

LACIM = "LaCIM"
AUTHORS = {
    "the authors' code": (0.619, 0.6705, 0.638),
    "the authors' code, nothing mirrored": (0.8125, 0.73, 0.84),
}
"""Shares of the test images that their code gets right, by seed from 0 on."""
AUTHORS_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the experiment depends on."""

    methods: tuple[str, ...] = ("ERM", "Pool-LaCIM", LACIM)
    data: str = "mnist"
    train_size: int = 17_072
    """A tenth of it is held out."""
    test_size: int = 2000
    correlations: tuple[float, ...] = (0.9, 0.8)
    test_correlation: float = 0.1
    channels: tuple[int, ...] = (32, 64, 128, 256)
    latents: int = 16
    """Dimensions of s, and of v."""
    classifier: tuple[int, ...] = (512, 256)
    batch_sizes: tuple[int, ...] = (64, 256)
    """The second is the authors'; of the first, there are four times as many steps."""
    learning_rate: float = 1e-3


PRESETS = {
    "smoke": Settings(
        data="mnist5k", train_size=1440, test_size=400, channels=(8, 8, 16, 16), classifier=(32,),
        batch_sizes=(64,),
    ),
    "cpu": Settings(train_size=5_690, test_size=1000, batch_sizes=(64,)),
    "day": Settings(),
    "full": Settings(train_size=51_216, test_size=10_000),
}  # fmt: skip


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method and seed."""
    train, test = (
        load(settings.data, part, data_dir=context.data_dir) for part in ("train", "test")
    )
    for size, seed in itertools.product(settings.batch_sizes, context.seeds):
        key = streams(seed).data
        colored = colored_domains(
            key, take(train, settings.train_size, key=key), take(test, settings.test_size, key=key),
            correlations=settings.correlations, test_correlation=settings.test_correlation,
        )  # fmt: skip
        parts = [shaded(part, jax.random.fold_in(key, i)) for i, part in enumerate(colored)]
        title, methods = f"batches of {size}, seed {seed}", settings.methods
        with context.progress.task(title, total=len(methods)) as bar:
            for name in methods:
                yield from context.stages.of(
                    f"{name}, {title}",
                    functools.partial(_trained, name, size, parts, settings, seed, bar),
                )


BRIGHTNESS, SPREAD = 204 / 255, 0.02
"""Of a colour, and the deviation of each of its three channels from one image to the next."""


def shaded(colored: ColoredDigits, key: jax.Array) -> Examples:
    """Digits in the authors' colours, each image in a shade of its own, with a margin.

    Args:
        colored: digits, [n, height, width, 2].
        key: of the shades.

    Returns:
        Images [n, height + 4, width + 4, 3] with their labels and domains.
    """
    mean = BRIGHTNESS * jax.nn.one_hot(colored.colors, 3)
    shade = jnp.clip(mean + SPREAD * jax.random.normal(key, mean.shape), 0, 1)
    images = colored.images.sum(-1, keepdims=True) * shade[:, None, None, :]
    images = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return Examples(images, colored.labels, colored.domains)


def _trained(
    name: str, batch_size: int, parts: Sequence[Examples], settings: Settings, seed: int, bar: Bar
) -> Iterator[Record]:
    """One epoch of one method."""
    begun, keys = time.perf_counter(), streams(seed)
    train, *held_out = parts
    if name != LACIM:
        train = train._replace(domains=jnp.zeros_like(train.domains))
    steps = len(train.labels) // batch_size
    model, loss = _model(name, settings, train.images.shape[1:], steps)
    inputs = (
        (train.images[:1],) if isinstance(model, ERM) else (train.images[:1], jnp.zeros(1, int))
    )
    params = jax.jit(model.init)(keys.init, *inputs)["params"]
    tx = optax.adam(settings.learning_rate)
    trained = fit(
        train_step(cast("LossFn", loss), tx), init_state(params, tx, jnp.zeros([], jnp.int32)),
        train, keys=Keys(keys.order, keys.noise), batch_size=batch_size, epochs=1, bar=bar,
    )  # fmt: skip

    def figures(state: Any, batch: Any) -> dict[str, jax.Array]:
        found = METHODS[name].probabilities(model, {"params": state.params}, batch.images)
        return {"accuracy": (found.argmax(-1) == batch.labels).astype(jnp.float32)}

    metrics: dict[str, float] = {}
    for prefix, part in zip(("validation_", "test_"), held_out, strict=True):
        score = evaluator(figures, part, batch_size=250, prefix=prefix)(trained.state)
        metrics |= {metric: float(value) for metric, value in score.items()}
    yield Record(
        method=name,
        setting={"learning_rate": settings.learning_rate, "batch_size": batch_size},
        seed=seed, metrics=metrics, wall_time=time.perf_counter() - begun,
    )  # fmt: skip


def _model(name: str, settings: Settings, image: tuple[int, ...], steps: int) -> tuple[Any, Any]:
    """A method's model and loss."""
    encoder = ConvEncoder(settings.channels, settings.channels[-1])
    classifier, dim = MLP((*settings.classifier, 2)), settings.latents
    if name == "ERM":
        model = ERM(encoder, classifier, s_dim=dim)
        return model, erm_loss(model)
    decoder = ConvDecoder(image, tuple(reversed(settings.channels)))
    num_domains = len(settings.correlations) if name == LACIM else 1
    model = LaCIM(
        encoder, decoder, classifier, num_domains=num_domains, s_dim=dim, v_dim=dim,
        posterior=DomainHeads(),  # as the authors have
    )  # fmt: skip
    warm_up = optax.linear_schedule(0.0, 1.0, max(steps // 4, 1))
    return model, lacim_loss(model, beta=warm_up)


def tables(records: Sequence[Record]) -> str:
    """Accuracies, with those of the authors' code, and LaCIM beside it seed by seed."""
    rows, verdicts = [], []
    for size, of_size in by_setting(records, "batch_size").items():
        for name, runs in by_method(of_size).items():
            shares = [percent(metric(runs, f"{part}_accuracy")) for part in ("validation", "test")]
            rows.append([name, f"{size}", *shares, _each(values(runs, "test_accuracy"))])
            if name == LACIM:
                verdicts += [_verdict(size, runs, *of) for of in AUTHORS.items()]
    rows += [
        [name, f"{AUTHORS_BATCH}", "-", percent(summarise(each)), _each(each)]
        for name, each in AUTHORS.items()
    ]
    header = ["method", "batch", "held out %", "test %", "seed by seed"]
    return joined(markdown(header, rows), "\n".join(verdicts))


def _each(accuracies: Sequence[float]) -> str:
    return ", ".join(f"{100 * accuracy:.1f}" for accuracy in accuracies)


def _verdict(size: int, ours: Sequence[Record], name: str, theirs: Sequence[float]) -> str:
    """LaCIM's mean and theirs over the seeds that both have, and the difference's interval."""
    both = [(r.metrics["test_accuracy"], theirs[r.seed]) for r in ours if r.seed < len(theirs)]
    if not both:
        return f"- LaCIM in batches of {size}, {name}: no seed in common."
    means = [100 * statistics.fmean(side) for side in zip(*both, strict=True)]
    gain = interval(100 * (one - other) for one, other in both)
    return (
        f"- LaCIM in batches of {size} {means[0]:.1f}, {name} {means[1]:.1f}: "
        f"{gain.mean:+.1f} over {gain.n} seeds, its 95% interval ± {gain.half_width:.1f} (target, "
        f"by the means: at least theirs: {met(means[0], means[1])})"
    )


CAPTIONS = {
    "reference.png": "Test accuracy, with the size of batches: dots are seeds, the mark their mean "
    "with one standard deviation."
}


def plots(records: Sequence[Record], out: Path) -> list[Path]:
    """Test accuracy of each method and of the authors' code."""
    rows = {
        f"{name}, {size}": values(runs, "test_accuracy")
        for size, of_size in by_setting(records, "batch_size").items()
        for name, runs in by_method(of_size).items()
    }
    rows |= {f"{name}, {AUTHORS_BATCH}": each for name, each in AUTHORS.items()}
    label = "test accuracy, %"
    return [dots_figure(out / "reference.png", {"": rows}, label=label, scale=100)]
