"""The model: the densities it is made of, the networks behind them, and what data it accepts."""

from lacim_jax.model.checks import check_examples
from lacim_jax.model.correlated import CorrelatedGaussian
from lacim_jax.model.distributions import Gaussian, bounded_log_var, log_mixture
from lacim_jax.model.lacim import Densities, Examples, LaCIM, Latents, Posterior, Prior
from lacim_jax.model.likelihoods import (
    BERNOULLI,
    CATEGORICAL,
    Likelihood,
    discretised_logistic,
    gaussian_likelihood,
)
from lacim_jax.model.networks import MLP, ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from lacim_jax.model.posteriors import DomainHeads, SharedEvidence
from lacim_jax.model.reparameterised import ReparameterisedLaCIM

__all__ = [
    "LaCIM",
    "ReparameterisedLaCIM",
    "Densities",
    "Latents",
    "Examples",
    "check_examples",
    "MLP",
    "MLPEncoder",
    "MLPDecoder",
    "ConvEncoder",
    "ConvDecoder",
    "SharedEvidence",
    "DomainHeads",
    "Gaussian",
    "CorrelatedGaussian",
    "Prior",
    "Posterior",
    "bounded_log_var",
    "log_mixture",
    "Likelihood",
    "BERNOULLI",
    "CATEGORICAL",
    "gaussian_likelihood",
    "discretised_logistic",
]
