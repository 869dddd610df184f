"""What a latent variable model has identified: correlations, diversity of domains, collapse."""

from lacim_jax.identifiability.correlation import (
    LatentPairs,
    MeanCorrelation,
    block_correlation,
    mean_correlation,
)
from lacim_jax.identifiability.diversity import Diversity, domain_diversity
from lacim_jax.identifiability.identification_scores import (
    Identification,
    Scores,
    identification,
)
from lacim_jax.identifiability.posterior_collapse import Collapse, collapse

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
