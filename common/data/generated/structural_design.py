"""How structural causal models are drawn: their sizes, their domains, their mixing."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

Confounder = Literal["continuous", "discrete"]

CONTINUOUS_NOISE = 0.1
"""Standard deviation of s and v around a continuous c."""

MOST_DOMAINS = 64
"""For how many domains parameters are drawn; a model takes the first of them."""

_DRAWS = 300
"""Designs among which the best conditioned one is chosen."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuralSizes:
    """How many numbers each variable has."""

    s_dim: int = 2
    v_dim: int = 2
    x_dim: int = 10
    """At least s_dim + v_dim."""
    num_classes: int = 4
    """Of y, at least 2."""

    def __post_init__(self):
        """Refuses sizes from which no identifiable model can be made."""
        if self.s_dim < 1 or self.v_dim < 0 or self.x_dim < self.s_dim + self.v_dim:
            raise ValueError(
                "s_dim must be at least 1, v_dim at least 0, and x_dim at least their sum, without "
                "which the latents could not be recovered from x; got "
                f"{self.s_dim}, {self.v_dim} and {self.x_dim}."
            )
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuralSpread:
    """How far the components of (s, v), one for each domain or value of C, are apart."""

    num_values: int = 6
    """K, of a discrete C; at least 2. A continuous C has a component for each domain."""
    mean_spread: float = 0.6
    """Standard deviation of the means m."""
    sds: tuple[float, float] = (0.5, 1.6)
    """Least and largest of the standard deviations t, which are logarithmically uniform."""

    def __post_init__(self):
        """Refuses components that C cannot have."""
        if self.num_values < 2:
            raise ValueError(f"num_values must be at least 2, got {self.num_values}.")
        if not CONTINUOUS_NOISE < self.sds[0] <= self.sds[1]:
            raise ValueError(
                f"sds must be the least and the largest standard deviation, both above "
                f"{CONTINUOUS_NOISE:g}, the part that does not come from C; got {self.sds}."
            )


class Design(NamedTuple):
    """The components of (s, v), and how often each occurs in each domain."""

    mean: np.ndarray  # shape=[components, s_dim + v_dim]: m
    sd: np.ndarray  # shape=[components, s_dim + v_dim]: t
    shares: np.ndarray  # shape=[domains, components]: p(component|d)


def draw_design(
    rng: np.random.Generator,
    *,
    confounder: Confounder,
    sizes: StructuralSizes,
    spread: StructuralSpread,
) -> Design:
    """The best conditioned of many random designs, for `MOST_DOMAINS` domains.

    Args:
        rng: what draws; it is advanced.
        confounder: "continuous" or "discrete".
        sizes: of the latents.
        spread: of the components.
    """
    designs = (_random_design(rng, confounder, sizes, spread) for _ in range(_DRAWS))
    return min(designs, key=lambda design: _condition(design, sizes.s_dim))


def _random_design(
    rng: np.random.Generator,
    confounder: Confounder,
    sizes: StructuralSizes,
    spread: StructuralSpread,
) -> Design:
    """One design, its domains nearly alike in some direction as often as not."""
    dim = sizes.s_dim + sizes.v_dim
    components = MOST_DOMAINS if confounder == "continuous" else spread.num_values
    # Means in antithetic pairs: however many domains, their spread is about the same.
    half = rng.normal(size=(-(-components // 2), dim)).clip(-1.5, 1.5)
    pairs = np.stack([half, -half], axis=1).reshape(-1, dim)
    mean = spread.mean_spread * pairs[:components]
    sd = np.exp(rng.uniform(*np.log(spread.sds), size=(components, dim)))
    if confounder == "continuous":
        return Design(mean, sd, np.eye(components))
    # Means farther apart and components narrower, so that the mixtures are far from Gaussian.
    return Design(2 * mean, sd / 2, rng.dirichlet(np.full(components, 0.5), size=MOST_DOMAINS))


def _condition(design: Design, s_dim: int) -> float:
    """The larger condition number of s and of v, from the fewest domains that can identify them."""
    mean = design.shares @ design.mean
    # Var[z|d] = E[Var[z|c]] + E[E[z|c]^2] - E[z|d]^2, dimension by dimension.
    variance = design.shares @ (design.sd**2 + design.mean**2) - mean**2
    worst = 0.0
    for block in (slice(None, s_dim), slice(s_dim, None)):
        eta = natural_parameters(mean[:, block], variance[:, block])
        # k natural parameters: the k differences of k + 1 domains must span them all.
        differences = (eta[1:] - eta[0])[: eta.shape[1]]
        if eta.shape[1]:
            worst = max(worst, float(np.linalg.cond(differences)))
    return worst


def natural_parameters(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Of Gaussians with independent dimensions: mean / variance and -1 / (2 variance).

    Args:
        mean: [domains, dim].
        variance: [domains, dim].

    Returns:
        [domains, 2 * dim].
    """
    return np.concatenate([mean / variance, -0.5 / variance], axis=1)


def orthogonal(rng: np.random.Generator, dim: int) -> np.ndarray:
    """A matrix drawn uniformly among the rotations and reflections.

    Args:
        rng: what draws; it is advanced.
        dim: rows and columns.
    """
    q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
    # QR is unique once the diagonal of R is positive; only then is Q uniform (Mezzadri, 2007).
    return q * np.sign(np.diag(r))


def label_directions(rng: np.random.Generator, sizes: StructuralSizes) -> np.ndarray:
    """Unit vectors pushed apart, so that each class is likely somewhere and y depends on all of s.

    Args:
        rng: what draws; it is advanced.
        sizes: of s and y.

    Returns:
        One column a class, [s_dim, num_classes].
    """
    s_dim, classes = sizes.s_dim, sizes.num_classes
    if s_dim == 1:
        return np.linspace(-1, 1, classes)[None]
    if s_dim == 2:
        angle = 2 * np.pi * (np.arange(classes) + rng.uniform()) / classes
        return np.stack([np.cos(angle), np.sin(angle)])
    vectors = rng.normal(size=(s_dim, classes))
    vectors = vectors - vectors.mean(1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=0)
