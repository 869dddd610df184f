"""Where domains differ in style and not in what misleads, does LaCIM carry over better than ERM?

PACS: photographs, art, cartoons and sketches of seven kinds of things; each domain is left out in
turn, and methods learn from the other three. Nothing here is tied to the label in training and
turned about in test, as colour is in `lacim_baselines` and style in `lacim_spurious_pacs`: the
shift is one of diversity, and LaCIM's claim is about correlation. What it does here is what it
costs where its assumption buys nothing.

What methods see of an image are the features that EfficientNet-Lite0, trained on ImageNet, gives
it: the stored 64x64 pixels scaled up to 224x224, 1,280 numbers, turned into the first principal
components of the training images, each of variance 1. The network is not trained further. LaCIM's
decoder explains the components, by a Gaussian of fixed width. LaCIM has one encoder for all
domains, times their priors (`lacim_jax.SharedEvidence`); beside it stands one with a head for each.

Every method has the same encoder trunk and classifier, data, order and number of steps, and as many
trials of its settings, which are those of `lacim_baselines`. Settings are chosen for each test
domain by mean over the seeds, by the rules that are in use and by a fourth, which sees no more than
the first:

- training domains: accuracy on held-out images of the training domains;
- left-out domain: accuracy on each training domain of a run trained without it, averaged;
- invariance: of the trials whose answers say the same of the label in all training domains
  (`lacim_jax.invariance_test`, p > 0.05), the one of best accuracy on the held-out images;
- oracle: accuracy on other images of the test domain. No user could choose so.

A latent search is one more setting: its number of steps, none among them, is chosen by the same
rule, so that it is left out where it harms, as `lacim_jax.predict` does with held-out examples.
Test accuracy is on images that nothing was chosen on.

PACS is read from DATA_DIR/PACS as DOMAIN/CLASS/NAME.jpg, or from DATA_DIR/pacs_64.npz; the weights
come with the extra `features`. Features are computed once, in 5 minutes on one core, and kept in
the user's cache folder. The smoke preset runs the same code on embedded digits under four angles.

Published, a pretrained ResNet-50 at 224x224 trained further, mean of the four domains, chosen on
training domains (DomainBed, https://arxiv.org/abs/2007.01434): ERM 85.5, IRM 83.5, GroupDRO 84.4,
CORAL 86.2, MMD 84.7, DANN 83.7, V-REx 84.9. Here images are small and the network is kept as it is.

Cost: cpu 5 minutes on one core, day 40, features not included; full is sized for one accelerator
and was not run.
Command: python -m benchmarks lacim_pacs --preset day --seeds 3
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from benchmarks.harness.registry import Context
from benchmarks.latent import runs
from benchmarks.latent.reports import styles as report
from benchmarks.latent.reports.segments import HEADS
from benchmarks.latent.training import side_by_side
from common.data import (
    PACS,
    DomainDataset,
    as_float,
    data_root,
    leave_one_out,
    load,
    pooled,
    read_folders,
    read_npz,
)
from common.data.generated.rotated_domains import rotated_digits
from common.features import frozen_features
from common.results.records import Record
from common.seeds import host_generator, streams
from lacim_jax import Examples

ROTATED = "rotated mnist5k"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyleSettings(runs.DomainSettings):
    """What experiments on styles depend on; a size of None is what any three domains have."""

    data: str = "PACS"
    """That, or `ROTATED`."""
    test_size: int = 1600
    choice_size: int | None = None
    """Held-out images of the training domains; None for all there are."""
    pool: int = 1
    resolution: int | None = 224
    """Height and width of images in the pretrained network; None for their own pixels."""
    components: int = 256
    """Of the features of a column's training images, the principal ones that are kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(StyleSettings):
    """What the experiment depends on."""

    test_domains: tuple[str, ...] = ("art_painting", "cartoon", "photo", "sketch")


_CPU = Settings(
    methods=(
        "ERM", "IRM", "V-REx", "GroupDRO", "CORAL", "MMD", "DANN", "DIVA", "Pool-LaCIM",
        "Invariant LaCIM", "LaCIM",
    ),
    components=128,
    size=5400,  # sizes that all domains have: their runs share compiled programs
    choice_size=570,
    test_size=1000,
    widths=(64,),
    batch_size=128,
    epochs=8,
    trials=2,
    learning_rates=(1e-3, 1.6e-2),
    search_steps=(10,),
    noise_scale=1.0,
)  # fmt: skip

PRESETS = {
    "smoke": Settings(
        methods=("ERM", "CORAL", "LaCIM"), data=ROTATED, test_domains=("0 degrees", "90 degrees"),
        test_size=600, pool=4, resolution=None, left_out=False, widths=(64, 64), batch_size=128,
        epochs=6, trials=2, search_steps=(10,),
    ),
    "cpu": _CPU,
    "day": dataclasses.replace(
        _CPU, methods=(*_CPU.methods, HEADS), components=256, test_size=1600, widths=(128,),
        epochs=16, trials=3,
    ),
    "full": Settings(
        components=512, widths=(512,), epochs=60, trials=16, search_steps=(10, 100),
        noise_scale=1.0,
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each test domain, method, trial and seed, and for each latent search."""
    whole = read_inputs(settings, context)
    num_domains = len(whole.domain_names) - 1
    columns = runs.columns_of(context.seeds, num_domains, left_out=settings.left_out)
    for test_domain in settings.test_domains:
        parts = load_parts(settings, lambda _: whole, test_domain, columns)
        task = runs.Task(
            parts, columns, num_domains=num_domains, num_classes=len(whole.class_names),
            setting={"test_domain": test_domain},
        )  # fmt: skip
        yield from runs.run_methods(
            settings.methods, task, settings, context, prefix=f"{test_domain}, "
        )


def read_images(data: str, context: Context) -> DomainDataset:
    """All images of all domains, of "PACS" or `ROTATED`.

    Raises:
        FileNotFoundError: if PACS is not there; it says where it is looked for.
    """
    if data == ROTATED:
        digits = load("mnist5k", "all")
        return rotated_digits(streams(context.seeds[0]).data, digits)
    folder = data_root(context.data_dir)
    stored = folder / "pacs_64.npz"
    return read_npz(stored) if stored.exists() else read_folders(folder / "PACS", levels=PACS)


def read_inputs(settings: StyleSettings, context: Context) -> DomainDataset:
    """What methods see of all images: pixels, or features [n, 1280] of a pretrained network.

    Raises:
        FileNotFoundError: if PACS or the network's weights are not there.
    """
    whole = read_images(settings.data, context)
    if settings.resolution is None:
        return whole
    with context.progress.task("features", total=1) as bar:
        features = frozen_features(whole.images, resolution=settings.resolution, bar=bar)
    return whole._replace(images=features)


def load_parts(
    settings: StyleSettings,
    whole: Callable[[jax.Array], DomainDataset],
    test_domain: str,
    columns: Sequence[runs.Column],
) -> runs.Parts:
    """Every column's images: of all domains but one, and of that one.

    Args:
        settings: sizes, and what is made of the images.
        whole: of a column's key for its data, all images of all domains.
        test_domain: which one is left out.
        columns: the versions.
    """

    def version(column: runs.Column) -> runs.Parts:
        # One key for what the domains are, one for what is held out, one for what is left away.
        mixing, holding_out, choosing = jax.random.split(streams(column.seed).data, 3)
        split = leave_one_out(
            whole(mixing), test_domain, holding_out, validation_fraction=settings.validation
        )
        generator = host_generator(choosing)
        train = _examples(split.train, settings.size, generator, settings.pool)
        choice = _examples(split.validation, settings.choice_size, generator, settings.pool)
        test = _examples(split.test, settings.test_size, generator, settings.pool)
        parts = runs.assembled(train, choice, test, column)
        if settings.resolution is None:
            return parts
        return principal_components(parts, settings.components)

    return side_by_side(map(version, columns))


def principal_components(parts: runs.Parts, count: int) -> runs.Parts:
    """Features in the first principal directions of the training ones, each of variance 1.

    No image of another part, nor a label, has any say in them.
    """
    train = np.asarray(parts.train.images)
    mean, last = train.mean(0), train.shape[1] - 1
    centred = train - mean
    variances, directions = scipy.linalg.eigh(  # ascending
        centred.T @ centred / (len(train) - 1), subset_by_index=(max(last + 1 - count, 0), last)
    )
    turned = (directions / np.sqrt(np.maximum(variances, 1e-12)))[:, ::-1]

    def seen(part: Examples) -> Examples:
        return part._replace(images=jnp.asarray((np.asarray(part.images) - mean) @ turned))

    return runs.Parts(*map(seen, parts))


def _examples(
    dataset: DomainDataset, size: int | None, generator: np.random.Generator, pool: int
) -> Examples:
    """At most `size` of the images, shuffled; stored pixels become numbers between 0 and 1."""
    rows = generator.permutation(len(dataset.labels))[:size]
    images = dataset.images[rows]
    return Examples(
        pooled(as_float(images), pool) if images.dtype == np.uint8 else jnp.asarray(images),
        jnp.asarray(dataset.labels[rows]),
        jnp.asarray(dataset.domains[rows]),
    )
