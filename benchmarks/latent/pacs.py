"""Where domains differ in style and not in what misleads, does LaCIM carry over better than ERM?

PACS: photographs, art, cartoons and sketches of seven kinds of things; each domain is left out in
turn, and methods learn from the other three. Nothing here is tied to the label in training and
turned about in test, as colour is in `lacim_baselines`: the shift is one of diversity, and LaCIM's
claim is about correlation. What it does here is what it costs where its assumption buys nothing.

Every method has the same encoder trunk and classifier, data, order and number of steps, and as many
trials of its settings. Settings are chosen for each test domain by mean over the seeds, by the
rules that are in use: on held-out images of the training domains; on each training domain of a run
trained without it (full preset only: it multiplies the cost by four); and, in a column of its own,
by an oracle on images of the test domain. Test accuracy is on images that nothing was chosen on.

PACS is read from DATA_DIR/PACS as DOMAIN/CLASS/NAME.jpg, or from DATA_DIR/pacs_64.npz. The smoke
preset runs the same code on embedded digits under four angles.

Published, a pretrained ResNet-50 at 224x224, mean of the four domains, chosen on training domains
(DomainBed, https://arxiv.org/abs/2007.01434): ERM 85.5, IRM 83.5, GroupDRO 84.4, CORAL 86.2,
MMD 84.7, DANN 83.7, V-REx 84.9. Nothing is pretrained here, and images are small.

Cost: cpu 7 minutes on one core. Full not measured; it is sized for 80 GB: a
run keeps 1.1 GB for its backward pass (counted from shapes, before fusion), so that of the 192 runs
of a method with three seeds 32 are trained side by side, 35 GB, beside 6 GB of images.
Command: python -m benchmarks lacim_pacs --preset smoke --seeds 3
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.registry import Context
from benchmarks.latent import runs
from benchmarks.latent.reports import styles as report
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
from common.results.records import Record
from common.seeds import host_generator, streams
from lacim_jax import Examples

ROTATED = "rotated mnist5k"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(runs.DomainSettings):
    """What the experiment depends on; a size of None is what any three domains have."""

    data: str = "PACS"
    """That, or `ROTATED`."""
    test_domains: tuple[str, ...] = ("art_painting", "cartoon", "photo", "sketch")
    test_size: int = 1600
    pool: int = 1


PRESETS = {
    "smoke": Settings(
        methods=("ERM", "CORAL", "LaCIM"), data=ROTATED, test_domains=("0 degrees", "90 degrees"),
        test_size=600, pool=4, left_out=False, widths=(64, 64), batch_size=128, epochs=6, trials=2,
        search_steps=(10,),
    ),
    "cpu": Settings(
        methods=(
            "ERM", "IRM", "V-REx", "GroupDRO", "CORAL", "MMD", "DANN", "DIVA", "Pool-LaCIM", "LaCIM"
        ),
        size=1280,
        pool=4,
        left_out=False,
        widths=(128, 128),
        batch_size=64,
        epochs=16,
        trials=3,
        learning_rates=(7e-4, 5e-3),
    ),
    "full": Settings(
        convolutions=True, widths=(64, 128, 256, 512), epochs=60, trials=16, search_steps=(10, 100),
        at_once=32,
    ),
}  # fmt: skip

tables, plots, CAPTIONS = report.tables, report.plots, report.CAPTIONS


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each test domain, method, trial and seed, and for each latent search."""
    whole = read_images(settings.data, context)
    num_domains = len(whole.domain_names) - 1
    columns = runs.columns_of(context.seeds, num_domains, left_out=settings.left_out)
    for test_domain in settings.test_domains:
        task = runs.Task(
            load_parts(settings, whole, test_domain, columns), columns, num_domains=num_domains,
            num_classes=len(whole.class_names), setting={"test_domain": test_domain},
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


def load_parts(
    settings: Settings, whole: DomainDataset, test_domain: str, columns: Sequence[runs.Column]
) -> runs.Parts:
    """Every column's images: of all domains but one, and of that one."""

    def version(column: runs.Column) -> runs.Parts:
        keys = streams(column.seed)
        fraction = settings.validation
        split = leave_one_out(whole, test_domain, keys.data, validation_fraction=fraction)
        generator = host_generator(keys.data)
        train = _examples(split.train, settings.size, generator, settings.pool)
        choice = _examples(split.validation, None, generator, settings.pool)
        test = _examples(split.test, settings.test_size, generator, settings.pool)
        return runs.assembled(train, choice, test, column)

    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *map(version, columns))


def _examples(
    dataset: DomainDataset, size: int | None, generator: np.random.Generator, pool: int
) -> Examples:
    """At most `size` of the images, shuffled."""
    rows = generator.permutation(len(dataset.labels))[:size]
    return Examples(
        pooled(as_float(dataset.images[rows]), pool),
        jnp.asarray(dataset.labels[rows]),
        jnp.asarray(dataset.domains[rows]),
    )
