"""Whether the domains differ enough for the latents to be identified: the rank condition."""

import math
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike


class Diversity(NamedTuple):
    """How much the priors of several domains differ; `str` of it says what follows."""

    num_domains: int
    """m."""
    statistics: int
    """k: sufficient statistics of the family of priors, and so natural parameters of a domain."""
    singular_values: np.ndarray  # shape=[min(m - 1, k)], float64: of the differences, descending
    condition: float
    """Largest singular value by the k-th; infinite where there are fewer than k that count."""
    rank: int
    """How many singular values are above the tolerance times the largest."""
    needed: int
    """The fewest domains with which the condition can hold: k + 1."""

    @property
    def sufficient(self) -> bool:
        """Whether the differences have full rank, k."""
        return self.rank == self.statistics

    def __str__(self) -> str:
        """The verdict and its numbers, in three lines."""
        values = ", ".join(f"{value:.3g}" for value in self.singular_values) or "none"
        verdict = (
            f"full rank {self.rank}, condition number {self.condition:.3g}"
            if self.sufficient
            else f"rank {self.rank} of {self.statistics}: the sufficient condition fails"
        )
        more = max(self.needed - self.num_domains, 0)
        remedy = f"; at least {more} more domain{'s' * (more != 1)}" if more else ""
        return (
            f"{self.num_domains} domain{'s' * (self.num_domains != 1)}, {self.statistics} natural "
            f"parameters each; {self.needed} domains are needed{remedy}\n"
            f"differences to the first domain: {verdict}\n"
            f"singular values: {values}"
        )


def domain_diversity(
    mean: ArrayLike, covariance: ArrayLike, *, tolerance: float = 1e-6
) -> Diversity:
    r"""The singular values of the differences of the domains' natural parameters.

    A Gaussian prior $N(\mu_d, \Sigma_d)$ of the block s (or v) has the natural parameters
    $\eta_d = (\Sigma_d^{-1} \mu_d, -\tfrac12 \Sigma_d^{-1})$: k = 2 dim of them if covariances are
    given as variances, dim + dim (dim + 1) / 2 if as matrices, diagonal or not. A sufficient
    condition for the block to be identified is that the m - 1 differences
    $\eta_{d_j} - \eta_{d_1}$ span all k dimensions, for which m >= k + 1 domains are needed. The
    condition number measures how far the condition is from failing.

    Latents have no unit, so each is first brought to mean 0 and variance 1 over all domains. The
    parameter of a covariance between two latents is multiplied by $\sqrt 2$, so that the norm of
    the vector of parameters is the Frobenius norm of the matrix.

    Args:
        mean: $\mu_d$, [domains, dim].
        covariance: $\Sigma_d$; variances [domains, dim] for a diagonal family, or matrices
            [domains, dim, dim].
        tolerance: singular values below this share of the largest count as 0.

    Returns:
        The report; print it.

    Raises:
        ValueError: if shapes do not fit or a covariance is not positive definite.

    Example:
        >>> report = domain_diversity(
        ...     mean=np.array([[0.0], [1.0], [0.0]]), covariance=np.array([[1.0], [1.0], [2.0]])
        ... )
        >>> report.rank, report.needed, report.sufficient
        (2, 3, True)
        >>> print(domain_diversity(np.zeros((1, 2)), np.ones((1, 2))))
        1 domain, 4 natural parameters each; 5 domains are needed; at least 4 more domains
        differences to the first domain: rank 0 of 4: the sufficient condition fails
        singular values: none

    References:
        Khemakhem et al., *Variational autoencoders and nonlinear ICA: a unifying framework*, 2020,
        theorem 1 (iv); Sun et al., *Recovering latent causal factor for generalization to
        distributional shifts*, NeurIPS 2021, theorem 4.4.
    """
    means, covariances = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    diagonal = covariances.ndim == 2
    _check(means, covariances)
    m, dim = means.shape
    if diagonal:
        covariances = covariances[:, :, None] * np.eye(dim)
    centre = means.mean(0)
    # Total variance of each latent: the mean within domains plus that of the domains' means.
    scale = np.sqrt(np.einsum("dii->di", covariances).mean(0) + ((means - centre) ** 2).mean(0))
    means = (means - centre) / scale
    precision = np.linalg.inv(covariances / scale[:, None] / scale)
    linear = np.einsum("dij,dj->di", precision, means)
    # eta = (P mu, -P / 2), P the precision: its diagonal, or its upper triangle with sqrt(2) on
    # what stands for two equal entries.
    one, other = np.diag_indices(dim) if diagonal else np.triu_indices(dim)
    weight = np.where(one == other, 1.0, math.sqrt(2))
    eta = np.concatenate([linear, -0.5 * weight * precision[:, one, other]], axis=1)
    k = eta.shape[1]
    values = np.linalg.svd(eta[1:] - eta[0], compute_uv=False) if m > 1 else np.zeros(0)
    # Relative to the parameters themselves too, or mere rounding would count as diversity.
    floor = tolerance * max(values.max(initial=0.0), float(np.abs(eta).max()))
    rank = int((values > floor).sum())
    return Diversity(
        num_domains=m,
        statistics=k,
        singular_values=values,
        condition=float(values[0] / values[k - 1]) if rank == k else math.inf,
        rank=rank,
        needed=k + 1,
    )


def _check(means: np.ndarray, covariances: np.ndarray) -> None:
    matrices = (*means.shape, means.shape[-1]) if means.ndim else ()
    if means.ndim != 2 or 0 in means.shape or covariances.shape not in (means.shape, matrices):
        raise ValueError(
            "mean must have shape [domains, dim], and covariance the same or [domains, dim, dim], "
            f"got {list(means.shape)} and {list(covariances.shape)}."
        )
    finite = np.isfinite(means).all() and np.isfinite(covariances).all()
    least = covariances.min() if covariances.ndim == 2 else -1.0
    if finite and covariances.ndim == 3:
        least = np.linalg.eigvalsh(covariances).min()
    if not (finite and least > 0):
        raise ValueError(
            "covariances must be positive definite and all numbers finite, got a smallest "
            f"{'eigenvalue' if covariances.ndim == 3 else 'variance'} of {least:g}."
            if finite
            else "means and covariances must be finite, got NaN or infinity."
        )
