"""Trials of a method: what all methods get alike, the settings tried, their training at once."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from benchmarks.latent.methods import Hyper, Method, Sizes
from benchmarks.latent.training import Runs, fit, num_steps, of_column, warm_up
from common.progress import Bar
from common.results.selection import latin_hypercube
from common.training import Fit
from lacim_jax import BERNOULLI, Examples, gaussian_likelihood


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What every method gets alike."""

    widths: tuple[int, ...] = (256, 128)
    """Of the encoder: of its dense layers, or of its convolutions and then its features. The
    decoder has them in the opposite order."""
    convolutions: bool = False
    """Convolutional encoder and decoder; else fully connected."""
    s_dim: int = 16
    v_dim: int = 16
    batch_size: int = 256
    epochs: int = 10
    trials: int = 4
    """Settings tried for each method."""
    learning_rates: tuple[float, float] = (3e-4, 3e-3)
    """The range of the trials, the same for all methods; logarithmic."""
    search_rate: float = 0.03
    search_steps: tuple[int, ...] = (10, 50)
    bfloat16: bool = False
    """Whether encoders and decoders compute in bfloat16; parameters stay float32."""
    at_once: int | None = None
    """Runs trained side by side, as many as fit into memory; None for all there are."""
    noise_scale: float | None = None
    """Standard deviation of p(x|s,v) for real-valued inputs; None for pixels between 0 and 1."""

    def sizes(self, image: tuple[int, ...], *, num_domains: int, num_classes: int) -> Sizes:
        """What all models have in common, for images of a shape."""
        likelihood = BERNOULLI
        if self.noise_scale is not None:
            likelihood = gaussian_likelihood(self.noise_scale)
        return Sizes(
            image, self.widths, self.s_dim, self.v_dim, num_domains, num_classes,
            self.convolutions, self.bfloat16, likelihood,
        )  # fmt: skip


class Setup(NamedTuple):
    """What tells one run from another within a method: carried as the model's own state."""

    column: jax.Array  # of the data; int32, scalar
    hyper: Hyper
    step: jax.Array  # steps taken; int32, scalar
    inner: Any  # what the method's loss carries


def trials(settings: Budget, method: Method) -> list[dict[str, float]]:
    """The settings tried for a method; all methods get the same learning rates."""
    spans = {"learning_rate": settings.learning_rates, **method.ranges}
    return latin_hypercube(spans, settings.trials)


def train(
    model: Any, method: Method, sizes: Sizes, examples: Examples,
    cases: Sequence[tuple[dict[str, float], int]], seeds: Sequence[int], settings: Budget, bar: Bar,
) -> Fit:  # fmt: skip
    """Trains all cases of a method, each a trial and a column, at once; seeds are of columns."""
    steps = num_steps(examples, batch_size=settings.batch_size, epochs=settings.epochs)
    ramp = warm_up(steps)

    def loss(params: optax.Params, setup: Setup, batch: Examples, key: jax.Array) -> Any:
        objective = method.loss(model, setup.hyper, cast("Any", ramp), sizes)
        value, (inner, _) = objective(params, setup.inner, of_column(batch, setup.column), key)
        return value, (setup._replace(step=setup.step + 1, inner=inner), {})

    def setup(hyper: Hyper, column: jax.Array) -> Setup:
        return Setup(column, hyper, jnp.zeros([], jnp.int32), method.state(sizes))

    first = of_column(examples, 0)
    hyper = {name: jnp.asarray([trial[name] for trial, _ in cases]) for name in cases[0][0]}
    runs = Runs(
        seeds=[seeds[c] for _, c in cases],
        setups=jax.vmap(setup)(hyper, jnp.asarray([c for _, c in cases])),
        learning_rates=hyper["learning_rate"],
        weight_decays=hyper.get("weight_decay", jnp.zeros(len(cases))),
    )
    return fit(
        model, loss, examples, runs,
        inputs=(first.images[:1], *((first.domains[:1],) if method.takes_domains else ())),
        batch_size=settings.batch_size, epochs=settings.epochs, at_once=settings.at_once, bar=bar,
    )  # fmt: skip
