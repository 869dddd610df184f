"""Where the label goes with the style of real images in training and against it in test, who wins?

SpuriousPACS (https://arxiv.org/abs/2404.16277): PACS's seven classes become two, towns (dogs,
guitars, houses, persons) and wilds (elephants, giraffes, horses). Training domains are the
photographs, and a mixture of paintings and cartoons in which 90% of the label 1 are paintings and
90% of the label 0 cartoons. In the test domain it is the other way round: whoever leans on the
style is wrong about 9 images in 10. The shift is one of correlation, on real images: LaCIM's claim.

Images are seen as in `lacim_pacs`, by the same features, and methods and rules of selection are
those of that experiment; its budget is smaller. Which image goes into which domain is drawn by the
seed.

Cost: cpu a minute on one core, day 2, features not included. Full is sized for one accelerator and
was not run.
Command: python -m benchmarks lacim_spurious_pacs --preset day --seeds 3
"""

import dataclasses
from collections.abc import Iterator

import jax

from benchmarks.harness.registry import Context
from benchmarks.latent import runs
from benchmarks.latent.reports import domains as report
from benchmarks.latent.styles import pacs
from common.data import DomainDataset
from common.data.generated.spurious_styles import AGAINST, URBAN, spurious_styles
from common.results.records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(pacs.StyleSettings):
    """What the experiment depends on."""

    styles: tuple[str, str] = ("art_painting", "cartoon")
    """The two that are mixed."""
    kept: tuple[str, ...] = ("photo",)
    """Training domains that are taken as they are."""
    positive: tuple[str, ...] = URBAN
    """The classes whose label is 1."""
    strength: float = 0.9
    """Share of the images whose label goes with the style in training."""


_CPU, _DAY, _FULL = (pacs.PRESETS[name] for name in ("cpu", "day", "full"))

PRESETS = {
    "smoke": Settings(
        methods=("ERM", "CORAL", "LaCIM"), data=pacs.ROTATED, styles=("0 degrees", "30 degrees"),
        kept=("60 degrees",), positive=("5", "6", "7", "8", "9"), pool=4, resolution=None,
        left_out=False, widths=(64, 64), batch_size=128, epochs=6, trials=2, search_steps=(10,),
    ),
    "cpu": Settings(
        methods=("ERM", "V-REx", "Invariant LaCIM", "LaCIM"), components=64, widths=(64,),
        batch_size=128, epochs=8, trials=1, test_size=500, search_steps=(10,), noise_scale=1.0,
    ),
    "day": Settings(
        methods=_DAY.methods, components=_CPU.components, widths=_CPU.widths,
        batch_size=_CPU.batch_size, epochs=16, trials=_CPU.trials,
        learning_rates=_CPU.learning_rates, test_size=_CPU.test_size,
        search_steps=_CPU.search_steps, noise_scale=_CPU.noise_scale,
    ),
    "full": Settings(
        components=_FULL.components, widths=_FULL.widths, epochs=100, trials=_FULL.trials,
        search_steps=_FULL.search_steps, noise_scale=_FULL.noise_scale,
    ),
}  # fmt: skip

tables, plots = report.tables, report.plots

CAPTIONS = {
    "selection.png": "Test accuracy of each method, its settings chosen by each rule: dots are "
    "seeds, the mark their mean with one standard deviation. In the test domain the label goes "
    "against the style that it went with in training."
}


def run(settings: Settings, context: Context) -> Iterator[Record]:
    """Yields a record for each method, trial and seed, and for each latent search that follows."""
    whole = pacs.read_inputs(settings, context)

    def mixed(key: jax.Array) -> DomainDataset:
        return spurious_styles(
            key, whole, styles=settings.styles, positive=settings.positive, kept=settings.kept,
            strength=settings.strength,
        )  # fmt: skip

    num_domains = len(settings.kept) + 1
    columns = runs.columns_of(context.seeds, num_domains, left_out=settings.left_out)
    parts = pacs.load_parts(settings, mixed, AGAINST, columns)
    task = runs.Task(
        parts, columns, num_domains=num_domains, num_classes=2,
        setting={"strength": settings.strength},
    )  # fmt: skip
    yield from runs.run_methods(settings.methods, task, settings, context)
