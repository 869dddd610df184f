"""What a latent variable model has identified: correlations, diversity of domains, collapse."""

from lacim_jax.identifiability.collapse import Collapse, collapse
from lacim_jax.identifiability.correlation import (
    LatentPairs,
    MeanCorrelation,
    block_correlation,
    mean_correlation,
)
from lacim_jax.identifiability.diversity import Diversity, domain_diversity
from lacim_jax.identifiability.identification import (
    Identification,
    Scores,
    identification,
)

__all__ = [
    "LatentPairs",
    "mean_correlation",
    "MeanCorrelation",
    "block_correlation",
    "identification",
    "Identification",
    "Scores",
    "domain_diversity",
    "Diversity",
    "collapse",
    "Collapse",
]
