"""A correlation shift on real images: the label goes with a style in training, not in test.

SpuriousPACS: of PACS's seven classes two are made, which are rarer and more frequent in one of two
styles. Whoever tells paintings from cartoons can guess the label in training, and guesses wrong in
the test domain, where the same share of images goes the other way.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np

from common.data import DomainDataset, from_domains
from common.seeds import host_generator

URBAN = ("dog", "guitar", "house", "person")
"""Label 1 of SpuriousPACS; elephants, giraffes and horses are label 0."""

WITH, AGAINST = "with the style", "against the style"
"""Names of the two mixed domains."""


def spurious_styles(
    key: jax.Array,
    dataset: DomainDataset,
    *,
    styles: tuple[str, str] = ("art_painting", "cartoon"),
    positive: Sequence[str] = URBAN,
    kept: Sequence[str] = ("photo",),
    strength: float = 0.9,
) -> DomainDataset:
    r"""Mixes two domains into two others, in which the label and the style go together or apart.

    With $n_y$ the images of label y in the style that has fewer of them, the domain `WITH` takes
    $n_1$ images of label 1, a share `strength` of them in the first style and the rest in the
    second, and $n_0$ of label 0 the other way round. `AGAINST` takes as many, from the images that
    are left, with the shares exchanged. So the label alone says nothing of the domain.

    Args:
        key: which image comes into which domain; a typed PRNG key, scalar.
        dataset: images of any kind, with classes and domains by name.
        styles: the two domains that are mixed.
        positive: the classes whose label is 1; all others have label 0.
        kept: domains that are taken as they are, before the two.
        strength: share of the images whose label goes with the style in `WITH`; 0 to 1.

    Returns:
        Two classes, 0 and 1, and the domains `kept`, `WITH` and `AGAINST`; no image twice.

    Raises:
        ValueError: if a domain or a class has no such name, a style has no image of a label, or
            the strength is out of range.

    References:
        Salaudeen and Koyejo, *Causally inspired regularization enables domain general
        representations*, 2024, https://arxiv.org/abs/2404.16277, and the script of its code, which
        this follows. There styles are drawn anew with every run of the script; here by a key.
    """
    for name in (*styles, *kept):
        if name not in dataset.domain_names:
            raise ValueError(
                f"{dataset.name} has no domain {name!r}; it has {', '.join(dataset.domain_names)}."
            )
    for name in positive:
        if name not in dataset.class_names:
            raise ValueError(
                f"{dataset.name} has no class {name!r}; it has {', '.join(dataset.class_names)}."
            )
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 and 1, got {strength}.")
    chosen = [dataset.class_names.index(name) for name in positive]
    labels = np.isin(dataset.labels, chosen).astype(np.int32)
    of_domain = {n: dataset.domains == i for i, n in enumerate(dataset.domain_names)}
    domains = np.full(len(labels), -1)
    for index, name in enumerate(kept):
        domains[of_domain[name]] = index
    generator = host_generator(key)
    for label in (0, 1):
        first, second = (
            generator.permutation(np.flatnonzero(of_domain[style] & (labels == label)))
            for style in styles
        )
        n = min(len(first), len(second))
        if n == 0:
            raise ValueError(
                f"both styles, {' and '.join(styles)}, need images of both labels, but one has "
                f"none of label {label}; name other classes as positive, or other styles."
            )
        # A product that is whole but for rounding is whole.
        share = math.floor((strength if label else 1 - strength) * n + 1e-9)
        for rows, cut in ((first[:n], share), (second[:n], n - share)):
            domains[rows[:cut]], domains[rows[cut:]] = len(kept), len(kept) + 1
    taken = domains >= 0
    others = [name for name in dataset.class_names if name not in positive]
    return from_domains(
        dataset.images[taken],
        labels[taken],
        domains[taken],
        class_names=["/".join(others), "/".join(positive)],
        domain_names=[*kept, WITH, AGAINST],
        name=f"{dataset.name}, {' and '.join(styles)} mixed",
    )
