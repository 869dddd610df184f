"""Empirical risk minimisation with the same encoder trunk: the baseline to beat."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood

LossFn = Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
"""`(params, state, examples, key) -> (loss, (state, terms))`: what all objectives here are, so that
one training loop serves all. `state` is what an objective carries from step to step: the number of
steps, the weights of the domains, or nothing."""


class ERM(nn.Module):
    """LaCIM's path from image to label and nothing else: trunk, one linear head, classifier.

    The head stands where LaCIM's posterior mean of s does, so that the two differ in the objective
    and not in what they can express. It is one for all domains: it must serve a new one.

    Example:
        >>> from lacim_jax import MLP, MLPEncoder
        >>> model = ERM(encoder=MLPEncoder((64,)), classifier=MLP((32, 2)))
        >>> images = jax.numpy.zeros((3, 28, 28, 2))
        >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), images)
        >>> logits.shape
        (3, 2)
    """

    encoder: nn.Module
    """The trunk: images [batch, ...] to features [batch, features]."""
    classifier: nn.Module
    """[batch, s_dim] to logits [batch, classes]."""
    s_dim: int = 16

    def setup(self):
        """Declares the head."""
        self.head = nn.Dense(self.s_dim)

    def __call__(self, images: Float[Array, " batch *image"]) -> Float[Array, "batch classes"]:
        """The logits of each image."""
        return self.classify(self.represent(images))

    def represent(self, images: Float[Array, " batch *image"]) -> Float[Array, "batch s_dim"]:
        """The head's values: what the classifier sees of each image."""
        return self.head(self.encoder(images))

    def classify(
        self, representation: Float[Array, "batch s_dim"]
    ) -> Float[Array, "batch classes"]:
        """The logits of representations."""
        return self.classifier(representation)


def erm_loss(model: ERM, *, label_likelihood: Likelihood = CATEGORICAL) -> LossFn:
    """Minus the log-likelihood of the labels, averaged over the batch, whatever the domain.

    Args:
        model: the network.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, state, examples, key) -> (loss, (state, {}))`; `state` and `key` are not used,
        but make it interchangeable with `lacim_loss`.
    """

    def loss_fn(
        params: Any, state: Any, examples: Examples, key: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        del key
        logits = jax.numpy.asarray(model.apply({"params": params}, examples.images))
        log_probs = jax.vmap(label_likelihood.log_prob)(logits, examples.labels)
        return -log_probs.mean(), (state, {})

    return loss_fn
