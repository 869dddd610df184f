"""Is what a representation says of the label the same in every domain? A test, and a choice by it.

Accuracy on the training domains cannot tell a cause from what goes with the label in all of them,
only more or less so. Invariance can be tested there: if f holds the causes and nothing else,
p(y | f) is the same in every domain.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lacim_jax.logistic import logistic_regression, standardised


class InvarianceTest(NamedTuple):
    """What was found about p(y | f, d) = p(y | f)."""

    p_value: float  # between 0 and 1: how often chance does so much, where it holds
    statistic: float  # twice the log-likelihood ratio, or the score statistic
    degrees_of_freedom: int  # (classes - 1) (domains - 1) (1 + features that are independent)
    gain: float  # nats an example that knowing the domain adds: the size of the effect


def invariance_test(
    features: ArrayLike,
    labels: ArrayLike,
    domains: ArrayLike,
    *,
    method: Literal["likelihood_ratio", "permutation"] = "likelihood_ratio",
    num_permutations: int = 999,
    seed: int = 0,
) -> InvarianceTest:
    r"""Tests whether the label depends on the domain, given features: H₀: p(y | f, d) = p(y | f).

    Two logistic regressions are fitted by maximum likelihood, of y on f alone, and of y on f with
    an intercept and slopes of its own for each domain. Under H₀ twice the logarithm of the ratio of
    their likelihoods has a χ² distribution,

        $2 (\ell_{f,d} - \ell_f) \sim \chi^2$ with $(C - 1)(m - 1)(1 + k)$ degrees of freedom,

    for C classes, m domains and k features (Wilks), where log p(y | f) is linear in f. Coefficients
    that the examples do not determine count for none: of a feature that follows linearly from
    others, or does not vary within a domain. A network's
    logits are such features, as far as they are calibrated; give those of held-out examples. Wilks'
    distribution is that of many examples to a coefficient, of which there are C m (1 + k): with
    fewer than about ten, what is invariant is rejected too often.

    Where it is not linear, domains with other features would be told apart by the misfit.
    "permutation" does not lean on the form: labels are exchanged between examples of nearly the
    same features, which changes nothing under H₀, and the score statistic of the same alternative
    is worked out anew each time. It takes few features, so that neighbours are near.

    Args:
        features: f, floating-point, [n] or [n, k]: logits, or a representation.
        labels: y, integers, [n].
        domains: d, integers, [n]: any codes.
        method: where the distribution under H₀ comes from.
        num_permutations: of labels, at least 1; the least p-value is 1 / (num_permutations + 1).
        seed: of the permutations.

    Returns:
        The p-value, and the size of the effect. Both are about the domains given: of two domains
        that are alike nothing can be learnt. With one class or one domain, or features that tell
        the domain, the p-value is 1.

    Raises:
        ValueError: if the arrays have not the same length, there is no example, features are not
            finite, there are not more examples than (1 + features) * domains, the method is
            unknown, or it is "permutation" and there is none.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> domains = np.arange(2000) % 2
        >>> cause = rng.normal(size=2000)
        >>> labels = (cause + rng.logistic(size=2000) > 0).astype(int)
        >>> effect = (2 * labels - 1) * np.where(domains == 0, 1.0, 0.2) + rng.normal(size=2000)
        >>> invariance_test(cause, labels, domains).p_value > 0.05
        True
        >>> invariance_test(effect, labels, domains).p_value < 1e-6
        True

    References:
        Peters, Bühlmann and Meinshausen, *Causal inference by using invariant prediction*, 2016,
        for the test of invariance. Wilks, *The large-sample distribution of the likelihood ratio*,
        1938. Kim, Neykov, Balakrishnan and Wasserman, *Local permutation tests for conditional
        independence*, 2022, for exchanges between neighbours.
    """
    f, y, d = _checked(features, labels, domains)
    if method not in ("likelihood_ratio", "permutation"):
        raise ValueError(f'method must be "likelihood_ratio" or "permutation", got {method!r}.')
    if method == "permutation" and (not isinstance(num_permutations, int) or num_permutations < 1):
        raise ValueError(
            "num_permutations must be a whole number, at least 1, got "
            f'{num_permutations!r}; for a p-value without any, method="likelihood_ratio".'
        )
    classes, regions = int(y.max()) + 1, int(d.max()) + 1
    alone = np.column_stack([np.ones(len(f)), f])
    within = np.concatenate([alone * (d == j)[:, None] for j in range(regions)], axis=1)
    # Free coefficients, not columns: p and 1 - p are one feature.
    basis = _basis(within)
    freedom = (classes - 1) * (basis.shape[1] - _basis(alone).shape[1])
    if freedom == 0:
        return InvarianceTest(1.0, 0.0, 0, 0.0)
    if within.shape[1] >= len(y):
        raise ValueError(
            "a test needs more examples than (1 + features) * domains, got "
            f"{len(y)} examples, {f.shape[1]} features and {regions} domains: any labels would be "
            "fitted; give more examples, or logits as features."
        )
    targets = np.eye(classes)[y]
    null, full = (logistic_regression(design, targets) for design in (alone, within))
    gain = max(full.log_likelihood - null.log_likelihood, 0.0) / len(y)
    if method == "likelihood_ratio":
        statistic = 2 * gain * len(y)
        tail = jax.scipy.special.gammaincc(jnp.float32(freedom / 2), jnp.float32(statistic / 2))
        return InvarianceTest(float(tail), float(statistic), freedom, gain)
    found, drawn = _permuted(f, basis, y, null.probabilities, num_permutations, seed)
    # Equal statistics are sums in other orders, and differ by the rounding of what is squared.
    rounding = 1e-9 * found + 1e-12 * len(y)
    p_value = (1 + int((drawn >= found - rounding).sum())) / (1 + num_permutations)
    return InvarianceTest(p_value, found, freedom, gain)


class Trial(NamedTuple):
    """One of several trained models, by what is known of it without test data."""

    score: float  # on held-out examples of the training domains: larger is better
    p_value: float  # of the invariance test on them


class Selection(NamedTuple):
    """Which trial was chosen, and out of how many."""

    chosen: int  # the number of the trial
    accepted: np.ndarray  # shape=[trials], bool: which passed the test
    invariant: bool  # whether the chosen one did


def select_invariant(trials: Sequence[Trial], *, level: float = 0.05) -> Selection:
    """Chooses the trial of best score among those whose invariance is not rejected.

    Where every trial is rejected, the least firmly rejected one is chosen, and the result says so.
    No test data are seen, and no label of another domain. To be accepted is no proof: a model that
    predicts nothing is invariant too, which is why the score decides among the accepted.

    Args:
        trials: scores and p-values.
        level: p-value above which a trial is accepted, between 0 and 1.

    Returns:
        The choice.

    Raises:
        ValueError: if there is no trial, the level is out of range, or no score is a number.

    Example:
        >>> trials = [Trial(score=0.85, p_value=1e-9), Trial(0.71, 0.4), Trial(0.6, 0.9)]
        >>> select_invariant(trials).chosen
        1

    References:
        Gulrajani and Lopez-Paz, *In search of lost domain generalization*, ICLR 2021, for what
        selection by training domains alone comes to.
    """
    if not trials or not 0 < level < 1:
        raise ValueError(
            f"there must be a trial, and a level between 0 and 1, got {len(trials)} and {level}."
        )
    scores, p_values = (
        np.array([getattr(trial, name) for trial in trials], np.float64)
        for name in ("score", "p_value")
    )
    if np.isnan(scores).all():
        raise ValueError("at least one trial must have a score, got NaN for all of them.")
    # A run that diverged has no score, and is neither accepted nor chosen.
    scores = np.where(np.isnan(scores), -np.inf, scores)
    accepted = (p_values > level) & np.isfinite(scores)
    if accepted.any():
        return Selection(int(np.where(accepted, scores, -np.inf).argmax()), accepted, True)
    firmness = np.where(np.isfinite(scores), np.nan_to_num(p_values), -1.0)
    best = np.flatnonzero(firmness == firmness.max())
    return Selection(int(best[scores[best].argmax()]), accepted, False)


_NEIGHBOURS = 16
"""At most so many examples exchange their labels."""


def _neighbours(features: np.ndarray) -> np.ndarray:
    """Blocks of near examples, [n]: halved at the median of the widest feature, again and again."""
    block = np.zeros(len(features), int)
    while np.bincount(block).max() > _NEIGHBOURS and features.shape[1]:
        for number, size in enumerate(np.bincount(block)):
            if size > _NEIGHBOURS:
                rows = np.flatnonzero(block == number)
                widest = np.ptp(features[rows], axis=0).argmax()
                upper = rows[np.argsort(features[rows, widest], kind="stable")[size // 2 :]]
                block[upper] = block.max() + 1
    return block


def _basis(design: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the columns, [n, rank]."""
    left, sizes, _ = np.linalg.svd(design, full_matrices=False)
    # Features of float32 that follow from others do so to about seven digits.
    return left[:, sizes > 1e-6 * sizes[0]]


def _permuted(
    features: np.ndarray, basis: np.ndarray, labels: np.ndarray, probabilities: np.ndarray,
    count: int, seed: int,
) -> tuple[float, np.ndarray]:  # fmt: skip
    """The score statistic of the labels, and of permutations of them between neighbours."""
    examples, classes = probabilities.shape
    block = _neighbours(features)
    order = np.argsort(block, kind="stable")
    generator = np.random.default_rng(seed)

    def statistic(labels: np.ndarray) -> float:
        residual = np.eye(classes)[labels] - probabilities
        return float(np.square(basis.T @ residual).sum())

    drawn = np.empty(count)
    for i in range(count):
        # Sorting by block, then by chance, shuffles within blocks.
        shuffled = np.lexsort((generator.random(examples), block))
        permuted = np.empty_like(labels)
        permuted[order] = labels[shuffled]
        drawn[i] = statistic(permuted)
    return statistic(labels), drawn


def _checked(
    features: ArrayLike, labels: ArrayLike, domains: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised features [n, k]; labels and domains counted from 0."""
    f = np.asarray(features, np.float64)
    f = f[:, None] if f.ndim == 1 else f
    y, d = np.asarray(labels), np.asarray(domains)
    if f.ndim != 2 or not len(f) == len(y) == len(d) or y.ndim != 1 or d.ndim != 1 or not len(f):
        raise ValueError(
            "features are [n] or [n, k], labels and domains [n], for one example at least, got "
            f"{list(np.shape(features))}, {list(y.shape)} and {list(d.shape)}."
        )
    if not np.isfinite(f).all():
        raise ValueError("features must be finite, got NaN or infinity; leave such examples out.")
    return (
        standardised(f),
        np.unique(y, return_inverse=True)[1],
        np.unique(d, return_inverse=True)[1],
    )
