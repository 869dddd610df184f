"""Mean correlation coefficient (MCC): how well one estimate predicts each true latent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike


class LatentPairs(NamedTuple):
    """True latents and their estimates, of examples of one or several domains."""

    truth: ArrayLike  # shape=[n, dim], floating: what made the examples
    estimate: ArrayLike  # shape=[n, estimates], floating: posterior means, estimates >= dim
    domains: ArrayLike  # shape=[n], integer: d


class MeanCorrelation(NamedTuple):
    """The correlation of every true latent with its own estimate."""

    mcc: float
    """The mean of `by_dim`."""
    by_dim: np.ndarray  # shape=[dim], float64: on the examples that are scored
    matching: np.ndarray  # shape=[dim], int64: which estimate is matched to each true latent


def mean_correlation(
    fit: LatentPairs, score: LatentPairs, *, within: bool = False, degree: int = 1
) -> MeanCorrelation:
    r"""Matches estimates to true latents on one half of the data, and correlates on the other.

    For a true latent $z_i$ and an estimate $\hat z_j$ let $p_{ij}$ be the polynomial of least
    squares, $p_{ij}(\hat z_j) \approx z_i$, on the examples to fit; $r_{ij}$ the correlation of
    both sides there. The matching $\pi$ is the one to one assignment with the largest
    $\sum_i r_{i \pi(i)}$ (Hungarian algorithm), and on the examples to score

        $MCC = \frac{1}{dim} \sum_i corr(z_i, p_{i \pi(i)}(\hat z_{\pi(i)}))$.

    - `degree=1` is Pearson's correlation; its sign comes from the examples to fit, so that an
      estimate that has nothing to do with $z_i$ scores 0 on average and not the mean of |r|.
    - A higher degree is for models that are identified up to a map of each latent by itself.
      Estimates beyond the range of those to fit are moved to its ends.
    - `within=True` centres $z_i$ and the powers of $\hat z_j$ within each domain before the fit,
      takes the correlation in each domain, and averages over domains. An estimate that knows only
      the domain then scores 0; without it, knowing the domains' means is enough to score.

    A quantity that is constant, in all or within a domain, is given correlation 0.

    Args:
        fit: the examples that map and matching are fitted on.
        score: others, of the same domains.
        within: whether correlations are taken domain by domain.
        degree: of the polynomials, at least 1.

    Returns:
        Correlations from -1 to 1.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, estimates are fewer than true
            latents, or there are too few examples (of one domain, for `within`).

    Example:
        >>> z = np.random.default_rng(0).normal(size=(200, 2))
        >>> pairs = LatentPairs(z, -3 * z[:, ::-1], np.zeros(200, int))
        >>> correlation = mean_correlation(pairs, pairs)
        >>> round(correlation.mcc, 6), correlation.matching.tolist()
        (1.0, [1, 0])

    References:
        Hyvärinen and Morioka, *Unsupervised feature extraction by time-contrastive learning and
        nonlinear ICA*, NeurIPS 2016; Khemakhem et al., *Variational autoencoders and nonlinear ICA:
        a unifying framework*, 2020, who match and score on the same examples.
    """
    to_fit, to_score = _checked(fit, score, within=within, degree=degree)
    dim, estimates = to_fit.truth.shape[1], to_fit.estimate.shape[1]
    scale = _Scale.of(to_fit.estimate, bounded=degree > 1)
    fitted, scored = np.empty((dim, estimates)), np.empty((dim, estimates))
    for j in range(estimates):
        basis, score_basis = (
            _powers(scale(half.estimate)[:, j : j + 1], degree) for half in (to_fit, to_score)
        )
        fitted[:, j], scored[:, j] = _correlations(
            to_fit, to_score, basis, score_basis, within=within
        )
    # The assignment with the least cost -r has the largest sum of correlations.
    rows, columns = (np.asarray(index, np.int64) for index in _assign(jnp.asarray(-fitted)))
    matching = columns[np.argsort(rows)]
    by_dim = scored[np.arange(dim), matching]
    return MeanCorrelation(float(by_dim.mean()), by_dim, matching)


def block_correlation(
    fit: LatentPairs, score: LatentPairs, *, within: bool = False, degree: int = 2
) -> np.ndarray:
    r"""The correlation of each true latent with a polynomial of all estimates together.

    It measures what LaCIM claims, that the block s is recovered up to an invertible map, which may
    mix its dimensions: the polynomial of least squares of total degree at most `degree` in all
    $\hat z_j$ is fitted on one half of the data and correlated on the other.

    Args:
        fit: the examples that the map is fitted on.
        score: others, of the same domains.
        within: whether everything is centred, and correlated, domain by domain.
        degree: 1 for a linear map, or 2.

    Returns:
        float64, [dim], from -1 to 1.

    Raises:
        ValueError: if the degree is neither 1 nor 2, shapes do not fit, a value is not finite, or
            there are too few examples (of one domain, for `within`).

    Example:
        >>> z = np.random.default_rng(0).normal(size=(200, 2))
        >>> turned = z @ np.array([[1.0, 1.0], [-1.0, 1.0]])
        >>> pairs = LatentPairs(z, turned, np.zeros(200, int))
        >>> block_correlation(pairs, pairs).round(6), round(mean_correlation(pairs, pairs).mcc, 1)
        (array([1., 1.]), 0.7)
    """
    if degree not in (1, 2):
        raise ValueError(f"degree of a map of the whole block must be 1 or 2, got {degree}.")
    to_fit, to_score = _checked(fit, score, within=within, degree=degree, block=True)
    scale = _Scale.of(to_fit.estimate, bounded=degree > 1)
    basis, score_basis = (_monomials(scale(half.estimate), degree) for half in (to_fit, to_score))
    return _correlations(to_fit, to_score, basis, score_basis, within=within)[1]


# Jitted as a whole: its loops close over their arguments, and outside jit they would be compiled
# anew at every call.
_assign = jax.jit(optax.assignment.hungarian_algorithm)


class _Pairs(NamedTuple):
    """`LatentPairs` as NumPy arrays; domains counted from 0 without a gap."""

    truth: np.ndarray
    estimate: np.ndarray
    domains: np.ndarray


class _Scale(NamedTuple):
    """Brings estimates to mean 0 and variance 1, those of a curve into the range fitted."""

    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, *, bounded: bool) -> "_Scale":
        sd = values.std(0)
        low, high = values.min(0), values.max(0)
        if not bounded:
            low, high = np.full_like(low, -np.inf), np.full_like(high, np.inf)
        return cls(values.mean(0), np.where(sd > 0, sd, 1.0), low, high)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        # Beyond the values it was fitted on a polynomial means nothing, and grows without bound.
        return (np.clip(values, self.low, self.high) - self.mean) / self.sd


def _powers(values: np.ndarray, degree: int) -> np.ndarray:
    """x, x^2, ...: [n, degree]; the constant is left to the centring."""
    return np.concatenate([values**power for power in range(1, degree + 1)], axis=1)


def _monomials(values: np.ndarray, degree: int) -> np.ndarray:
    """All of degree 1, and for `degree=2` all products of two."""
    if degree == 1:
        return values
    one, other = np.triu_indices(values.shape[1])
    return np.concatenate([values, values[:, one] * values[:, other]], axis=1)


def _correlations(
    fit: _Pairs, score: _Pairs, basis: np.ndarray, score_basis: np.ndarray, *, within: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Correlations of truth and regression on both halves, [dim] each."""
    groups = [part.domains if within else np.zeros_like(part.domains) for part in (fit, score)]
    # Centring both sides by group stands in for an intercept of each group.
    centred = _centred(basis, groups[0])
    weights = np.linalg.lstsq(centred, _centred(fit.truth, groups[0]), rcond=None)[0]
    return (
        _correlation(fit.truth, basis @ weights, groups[0]),
        _correlation(score.truth, score_basis @ weights, groups[1]),
    )


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Columns less their mean in each group."""
    count = np.bincount(groups)
    sums = np.stack([np.bincount(groups, column) for column in values.T], axis=1)
    return values - (sums / count[:, None])[groups]


def _correlation(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Of matching columns, averaged over the groups; 0 where either is constant."""
    of_groups = []
    for d in range(groups.max() + 1):
        a, b = one[groups == d], other[groups == d]
        # Relative to its size a constant column has nothing left but rounding.
        flat = [x.std(0) <= 1e-9 * np.maximum(np.abs(x).max(0), 1e-30) for x in (a, b)]
        a, b = a - a.mean(0), b - b.mean(0)
        norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
        constant = flat[0] | flat[1] | (norm == 0)
        of_groups.append(np.where(constant, 0.0, (a * b).sum(0) / np.where(constant, 1.0, norm)))
    return np.mean(of_groups, axis=0)


def _checked(
    fit: LatentPairs, score: LatentPairs, *, within: bool, degree: int, block: bool = False
) -> tuple[_Pairs, _Pairs]:
    if degree < 1:
        raise ValueError(f"degree must be at least 1, got {degree}.")
    parts = []
    known = np.unique(np.asarray(fit.domains))
    for name, part in (("fit", fit), ("score", score)):
        truth, estimate = (np.asarray(x, np.float64) for x in (part.truth, part.estimate))
        domains = np.asarray(part.domains)
        if truth.ndim != 2 or estimate.ndim != 2 or truth.shape[:1] != estimate.shape[:1]:
            raise ValueError(
                "truth and estimate must have shapes [n, dim] and [n, estimates], got "
                f"{list(truth.shape)} and {list(estimate.shape)} to {name}."
            )
        if domains.shape != truth.shape[:1]:
            raise ValueError(
                f"there must be one domain per example, [{len(truth)}], got {list(domains.shape)}."
            )
        if not (np.isfinite(truth).all() and np.isfinite(estimate).all()):
            raise ValueError(
                f"latents must be finite, got NaN or infinity to {name}; count a run that "
                "diverged as such and do not score it."
            )
        if not np.array_equal(np.unique(domains), known):
            raise ValueError(
                f"both halves must have examples of the same domains, got {known.tolist()} to fit "
                f"and {np.unique(domains).tolist()} to {name}."
            )
        _, numbered = np.unique(domains, return_inverse=True)
        parts.append(_Pairs(truth, estimate, numbered))
    fit_part, score_part = parts
    dims = (fit_part.truth.shape[1], fit_part.estimate.shape[1])
    if dims != (score_part.truth.shape[1], score_part.estimate.shape[1]):
        raise ValueError("both halves must have the same latents, got other numbers of columns.")
    if not block and dims[1] < dims[0]:
        raise ValueError(
            f"there must be an estimate for each true latent, got {dims[1]} for {dims[0]}."
        )
    terms = _monomials(np.zeros((1, dims[1])), degree).shape[1] if block else degree
    fewest = min(int(np.bincount(p.domains).min()) if within else len(p.truth) for p in parts)
    if fewest < terms + 2:
        raise ValueError(
            f"a regression with {terms} terms needs at least {terms + 2} examples"
            f"{' of each domain' if within else ''}, got {fewest}."
        )
    return fit_part, score_part
