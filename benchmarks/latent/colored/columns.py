"""Coloured digits in several versions at once, each a column of the same arrays."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.latent.training import side_by_side
from common.data import load, pooled, take
from common.data.generated.colored_digits import ColoredDomains, colored_domains
from common.seeds import streams


class Column(NamedTuple):
    """One version of the data: all methods are trained on every one."""

    label_noise: float
    seed: int


def load_columns(
    columns: Sequence[Column], data: str, data_dir: Path | None, *,
    sizes: tuple[int | None, int | None], correlations: Sequence[float], test_correlation: float,
    validation: float, pool: int,
) -> ColoredDomains:  # fmt: skip
    """Every column's own choice of digits, domains, colours and flipped labels, [n, columns, ...].

    Sizes are of images for training and validation together, and for testing, None for all; images
    are reduced by averaging over squares of the side `pool`.
    """
    parts = [load(data, split, data_dir=data_dir) for split in ("train", "test")]

    def version(column: Column) -> ColoredDomains:
        key, *chosen = jax.random.split(streams(column.seed).data, 3)
        train, test = (
            part if size is None else take(part, min(size, len(part.labels)), key=one)
            for part, size, one in zip(parts, sizes, chosen, strict=True)
        )
        domains = colored_domains(
            key, train, test, correlations=correlations, test_correlation=test_correlation,
            label_noise=column.label_noise, validation_fraction=validation,
        )  # fmt: skip
        return ColoredDomains(
            *(part._replace(images=pooled(part.images, pool)) for part in domains)
        )

    return side_by_side(map(version, columns))
