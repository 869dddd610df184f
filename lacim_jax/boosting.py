"""What goes with the label in the test domain alone, learnt there without labels."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from lacim_jax.logistic import logistic_regression, standardised

_LEAST_SINGULAR_VALUE = 1e-4
"""Of the pseudo-labels' confusion: below it they say nothing of some class."""


class Boosted(NamedTuple):
    """Answers for the images of a test domain, and what they were made of; float64."""

    logits: np.ndarray  # shape=[n, classes]: log p(y|s,v)
    unstable_logits: np.ndarray  # shape=[n, classes]: log p(y|v) in this domain
    prior: np.ndarray  # shape=[classes]: p(y) in this domain
    confusion: np.ndarray  # shape=[classes, classes]: p(pseudo-label b | label a) at [a, b]


def stable_feature_boosting(stable_logits: ArrayLike, unstable_features: ArrayLike) -> Boosted:
    r"""Uses v in a domain whose images alone are seen, by pseudo-labels that s gives.

    How v goes with the label changes between domains, so a classifier that is to carry over leaves
    it out, and is worse than it need be wherever v says something. If s and v are independent given
    the label, what v says can be learnt in the test domain from the answers of p(y|s), which does
    carry over, and by Bayes' rule

        $\log p(y|s,v) = \log p(y|s) + \log p(y|v) - \log p(y) + \text{const}$.

    Pseudo-labels $\hat y \sim p(y|s)$ are wrong at known rates, whatever v is:

        $C_{ab} = p(\hat y = b \,|\, y = a) = E[p(a|s) \, p(b|s)] / E[p(a|s)]$, $p(y) = E[p(y|s)]$,

        $p(\hat y = b \,|\, v) = \sum_a p(y = a|v) \, C_{ab}$,

    with means over the images given. A logistic regression p(y|v) is fitted to the pseudo-labels'
    shares by maximum likelihood through C. (The paper regresses pseudo-labels on v, inverts C
    afterwards and clips what is then no probability; where p(y|v) is logistic, this needs no
    clipping, and loses nothing.)

    It stands on p(y|s) being right in the test domain, and calibrated: where s leans on v, v is
    learnt the wrong way round. A network's answers seldom are calibrated; a logistic regression of
    labels on its log odds, on held-out images of the training domains, sets scale and offset right.
    Of v that is not independent of s given the label, what both say is counted twice.

    Args:
        stable_logits: of p(y|s), [n, classes], floating-point: as `model.apply(variables, s,
            method="classify")` gives them.
        unstable_features: v, [n, k] or [n]: means of the encoder, or what is made of them. The
            weaker pseudo-labels are, the fewer numbers can be learnt from them: of many dimensions
            take those along which regressions of labels differ between the training domains.

    Returns:
        log p(y|s,v) of the same images, and log p(y|v).

    Raises:
        ValueError: if the shapes do not agree, there are fewer than two classes or examples, values
            are not finite, or pseudo-labels tell nothing of a class.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = rng.integers(2, size=4000)
        >>> s = labels + rng.normal(size=4000)  # p(y=1|s) = sigmoid(s - 1/2)
        >>> v = -3.0 * labels + rng.normal(size=4000)
        >>> stable = np.stack([np.zeros(4000), s - 0.5], axis=1)
        >>> boosted = stable_feature_boosting(stable, v)
        >>> [float(np.mean(x.argmax(1) == labels).round(2)) for x in (stable, boosted.logits)]
        [0.7, 0.94]

    References:
        Eastwood et al., *Spuriosity didn't kill the classifier: using invariant predictions to
        harness spurious features*, NeurIPS 2023, theorem 4.4 for the rates, and algorithm 1.
    """
    stable, v = _checked(stable_logits, unstable_features)
    shares = np.exp(stable)
    prior = shares.mean(axis=0)
    joint = shares.T @ shares / len(shares)  # p(label a, pseudo-label b)
    scale = np.sqrt(np.maximum(prior, np.finfo(np.float64).tiny))
    least = np.linalg.svd(joint / np.outer(scale, scale), compute_uv=False)[-1]
    if least < _LEAST_SINGULAR_VALUE:
        raise ValueError(
            "stable_logits must tell every class from the others, but their pseudo-labels' "
            f"confusion is singular (least singular value {least:.1e}): some class is given to no "
            "image, or all images get the same answer; leave that class out, or train s further."
        )
    confusion = joint / prior[:, None]
    design = np.column_stack([np.ones(len(v)), v])
    unstable = logistic_regression(design, shares, confusion).probabilities
    unstable = np.log(np.maximum(unstable, np.finfo(np.float64).tiny))
    return Boosted(_normalised(stable + unstable - np.log(prior)), unstable, prior, confusion)


def _checked(logits: ArrayLike, features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities [n, classes]; standardised features [n, k]."""
    stable, v = np.asarray(logits, np.float64), np.asarray(features, np.float64)
    v = v[:, None] if v.ndim == 1 else v
    if stable.ndim != 2 or v.ndim != 2 or len(stable) != len(v) or min(stable.shape) < 2:
        raise ValueError(
            "stable_logits are [n, classes] and unstable_features [n, k] or [n], for at least two "
            f"classes and examples, got {list(np.shape(logits))} and {list(np.shape(features))}."
        )
    if not (np.isfinite(stable).all() and np.isfinite(v).all()):
        raise ValueError("logits and features must be finite; leave images with NaN or inf out.")
    return _normalised(stable), standardised(v)


def _normalised(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
