"""The latent search of chosen models: its weight and steps chosen on validation images."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.latent.colored.diagnosis import diagnosis
from benchmarks.latent.colored.grid import picture
from benchmarks.latent.reports.colored_digits import DIAGNOSIS
from benchmarks.latent.training import adam
from benchmarks.latent.trials import Budget
from common.data.generated.colored_digits import ColoredDigits
from common.progress import Bar
from common.results.records import Record
from common.results.selection import best_setting
from common.seeds import streams
from lacim_jax import Examples, LaCIM, Search, infer_along, predict_from


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchBudget(Budget):
    """What every method gets alike, and how latents are searched."""

    search_weights: tuple[float, ...] = (0.1, 1.0)
    """Weights of the prior in the search of the latents."""
    search_steps: tuple[int, ...] = (0, 10, 50, 100)
    search_draws: int = 1


class Trained(NamedTuple):
    """A trained LaCIM, and what its search is chosen and judged by."""

    model: LaCIM
    variables: dict[str, Any]
    validation: Examples
    test: Examples
    record: Record


def searched(models: Sequence[Trained], settings: SearchBudget, bar: Bar) -> Iterator[Record]:
    """Searches validation images with every weight, then test images with the chosen one."""
    tried = []
    for weight in settings.search_weights:
        search = _search_of(settings, weight)
        for trained in models:
            begun = time.perf_counter()
            curve = {
                "step": list(settings.search_steps),
                **_along(trained, "validation", settings.search_steps, search),
            }
            tried.append(
                Record(
                    method=trained.record.method,
                    setting={**trained.record.setting, "search_weight": weight},
                    seed=trained.record.seed,
                    metrics={"validation_accuracy": max(curve["validation_accuracy"])},
                    curve=curve,
                    wall_time=time.perf_counter() - begun,
                )
            )
            bar.advance(note="latent search")
    chosen = best_setting(tried)
    yield from (record for record in tried if record not in chosen)
    best = _chosen_steps(chosen)
    weight = float(chosen[0].setting["search_weight"] or 0)
    search = _search_of(settings, weight)
    for trained, record in zip(models, chosen, strict=True):
        begun = time.perf_counter()
        curve = {**record.curve, **_along(trained, "test", settings.search_steps, search)}
        yield dataclasses.replace(
            record,
            metrics={name: column[best] for name, column in curve.items()},
            curve=curve,
            wall_time=record.wall_time + time.perf_counter() - begun,
        )
        bar.advance(note="latent search")


def _search_of(settings: SearchBudget, weight: float) -> Search:
    return Search(
        optimiser=adam(settings.search_rate),
        weight=weight,
        draws=settings.search_draws,
        chunk_size=200,
    )


def _along(
    trained: Trained, part: str, steps: Sequence[int], search: Search
) -> dict[str, list[float]]:
    """Figures after each number of steps of the search, for the validation or test images."""
    examples = trained.validation if part == "validation" else trained.test
    key = streams(trained.record.seed).noise
    latents = infer_along(
        trained.model, trained.variables, examples.images, key, steps=steps, search=search
    )
    predictions = [predict_from(trained.model, trained.variables, each) for each in latents]
    labels = np.asarray(examples.labels)
    # NaN where training diverged: what such a model answers is no accuracy.
    valid = 0 * trained.record.metrics["validation_accuracy"]
    return {
        f"{part}_accuracy": [
            float(np.mean(p.probabilities.argmax(-1) == labels)) + valid for p in predictions
        ],
        f"{part}_objective": [float(p.objective_after.mean()) for p in predictions],
        f"{part}_disagreement": [float(p.disagreement.mean()) for p in predictions],
    }


def _chosen_steps(searches: Sequence[Record]) -> int:
    """Index of the number of steps with the best validation accuracy, of equal ones the least."""
    return int(np.mean([r.curve["validation_accuracy"] for r in searches], axis=0).argmax())


def diagnosed(trained: Trained, validation: ColoredDigits, column: int) -> Record:
    """What the latents of one model hold, on the validation images of its column."""
    begun = time.perf_counter()
    colored = jax.tree.map(lambda leaf: leaf[:, column], validation)
    metrics = diagnosis(trained.model, trained.variables, colored, trained.validation)
    return dataclasses.replace(
        trained.record,
        setting={**trained.record.setting, DIAGNOSIS: "latents"},
        metrics=metrics,
        wall_time=time.perf_counter() - begun,
    )


def pictured(trained: Trained, settings: SearchBudget) -> Record:
    """A record without figures, of what the latents of one model look like."""
    begun = time.perf_counter()
    curve = picture(
        trained.model, trained.variables, test=trained.test, validation=trained.validation,
        key=streams(trained.record.seed).noise, steps=settings.search_steps[-1],
        search=_search_of(settings, settings.search_weights[0]),
    )  # fmt: skip
    return dataclasses.replace(
        trained.record, setting={**trained.record.setting, "picture": "latents"}, metrics={},
        curve=curve, wall_time=time.perf_counter() - begun,
    )  # fmt: skip
