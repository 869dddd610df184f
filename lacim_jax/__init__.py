"""The latent causal invariant model (LaCIM): training, latent inference, prediction.

Train on several domains, with any optax optimiser::

    import jax, optax
    from lacim_jax import LaCIM, MLP, MLPDecoder, MLPEncoder, Examples, check_examples, lacim_loss

    model = LaCIM(MLPEncoder(), MLPDecoder((28, 28, 2)), MLP((256, 2)), num_domains=2)
    data = Examples(images, labels, domains)            # pixels between 0 and 1
    variables = jax.jit(model.init)(key, data.images[:1], data.domains[:1])
    check_examples(model, variables, data)

    loss = lacim_loss(model, beta=optax.linear_schedule(0.0, 1.0, 500))
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    gradients, (step, terms) = gradient(params, step, batch, key)

Predict on a new domain, which may be none of those::

    from lacim_jax import predict

    prediction = predict(model, {"params": params}, images, key, steps=50)
    prediction.probabilities, prediction.disagreement, prediction.objective_after
"""

from lacim_jax.boosting import Boosted, stable_feature_boosting
from lacim_jax.codes import Codes, coded
from lacim_jax.erm import ERM, erm_loss
from lacim_jax.identifiability import (
    Collapse,
    Diversity,
    Identification,
    LatentPairs,
    MeanCorrelation,
    Scores,
    block_correlation,
    collapse,
    domain_diversity,
    identification,
    mean_correlation,
)
from lacim_jax.inference import (
    ChosenSearch,
    Inference,
    Prediction,
    Regulariser,
    Search,
    SearchState,
    begin_search,
    choose_search,
    infer,
    infer_along,
    mixture_prior,
    predict,
    predict_from,
    search_memory,
    search_within,
    squared_norm,
    step_search,
)
from lacim_jax.invariance import (
    InvarianceTest,
    Selection,
    Trial,
    invariance_test,
    select_invariant,
)
from lacim_jax.invariant_objective import invariant_lacim_loss
from lacim_jax.label_weight import balanced_weight
from lacim_jax.looking import Saliency, active_dims, exchange, saliency, saliency_of, traverse
from lacim_jax.model import (
    BERNOULLI,
    CATEGORICAL,
    MLP,
    ConvDecoder,
    ConvEncoder,
    CorrelatedGaussian,
    Densities,
    DomainHeads,
    Examples,
    Gaussian,
    LaCIM,
    Latents,
    Likelihood,
    MLPDecoder,
    MLPEncoder,
    Posterior,
    Prior,
    ReparameterisedLaCIM,
    SharedEvidence,
    bounded_log_var,
    check_examples,
    discretised_logistic,
    gaussian_likelihood,
    log_mixture,
)
from lacim_jax.objective import Elbo, compiled_elbo, elbo, lacim_loss
from lacim_jax.training import Fitted, fit

__version__ = "0.1.0"

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
    "elbo",
    "compiled_elbo",
    "Elbo",
    "lacim_loss",
    "invariant_lacim_loss",
    "balanced_weight",
    "fit",
    "Fitted",
    "coded",
    "Codes",
    "predict",
    "Prediction",
    "infer",
    "infer_along",
    "Inference",
    "predict_from",
    "Search",
    "Regulariser",
    "mixture_prior",
    "squared_norm",
    "begin_search",
    "step_search",
    "SearchState",
    "search_memory",
    "search_within",
    "choose_search",
    "ChosenSearch",
    "traverse",
    "exchange",
    "active_dims",
    "saliency",
    "Saliency",
    "saliency_of",
    "identification",
    "Identification",
    "Scores",
    "LatentPairs",
    "mean_correlation",
    "MeanCorrelation",
    "block_correlation",
    "domain_diversity",
    "Diversity",
    "collapse",
    "Collapse",
    "invariance_test",
    "InvarianceTest",
    "select_invariant",
    "Trial",
    "Selection",
    "stable_feature_boosting",
    "Boosted",
    "ERM",
    "erm_loss",
]
