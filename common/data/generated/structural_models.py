"""Structural causal models whose latents are known: Gaussian vectors seen through a known mixing.

    model = structural_model(keys.data, num_domains=5)
    data = model.sample(other_key, 2000)
    data.x, data.labels, data.domains, data.s, data.v
    model.mean, model.covariance                        # of (s, v), domain by domain: exact

The graph is that of LaCIM: D -> C; C -> (S, V); S -> Y; (S, V) -> X. Only p(c|d) depends on the
domain. The domains differ both in mean and in spread, such that the domain alone says little about
the latents (`StructuralModel.domain_mean_correlation`), the latents can be recovered from x, and
the natural parameters of the domains are far from linearly dependent.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from common.data.generated.structural_design import (
    CONTINUOUS_NOISE,
    MOST_DOMAINS,
    Confounder,
    StructuralSizes,
    StructuralSpread,
    draw_design,
    label_directions,
    orthogonal,
)
from common.seeds import host_generator


class StructuralData(NamedTuple):
    """Examples with their latents, domain after domain."""

    x: np.ndarray
    """float32, [n, x_dim]: what is observed."""
    labels: np.ndarray
    """int32, [n], counted from 0: y."""
    domains: np.ndarray
    """int32, [n], counted from 0: d."""
    s: np.ndarray
    """float32, [n, s_dim]: what causes the label."""
    v: np.ndarray
    """float32, [n, v_dim]: what else shapes x."""
    c: np.ndarray
    """What shapes s and v: float32 [n, s_dim + v_dim], or int32 [n] where C is discrete."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuralModel:
    r"""One structural causal model, all its parameters known.

    - Continuous C: $c \sim N(m_d, diag(t_d^2 - 0.1^2))$, and $(s, v) = c + N(0, 0.1^2)$: within a
      domain s and v are independent Gaussians, $N(m_d, diag(t_d^2))$; over all domains not.
    - Discrete C, of K values: $p(c|d) = \pi_d$, and $(s, v) \sim N(m_c, diag(t_c^2))$. Within a
      domain s and v are mixtures, and dependent.
    - $p(y|s) = softmax(slope \cdot s B)$, the columns of B of length 1 and spread out.
    - $x = f(s, v) + N(0, noise^2)$, $f(z) = g(g(z Q_1) Q_2) Q_3$ with orthogonal $Q_1, Q_2$,
      orthonormal rows in $Q_3$, and g the leaky rectifier of slope `leak`: injective, and inverted
      in closed form by `unmix`.
    """

    confounder: Confounder
    s_dim: int
    v_dim: int
    component_mean: np.ndarray
    """m, of each domain or of each value of C: [components, s_dim + v_dim]."""
    component_sd: np.ndarray
    """t, of each of them: [components, s_dim + v_dim]."""
    shares: np.ndarray
    """p(component|d), [num_domains, components]; the identity where C is continuous."""
    label_directions: np.ndarray
    """B, [s_dim, classes]."""
    slope: float
    rotations: tuple[np.ndarray, np.ndarray, np.ndarray]
    """The three Q."""
    leak: float
    noise: float

    @property
    def num_domains(self) -> int:
        """How many domains there are."""
        return len(self.shares)

    @property
    def mean(self) -> np.ndarray:
        """E[(s, v) | d], [num_domains, s_dim + v_dim]."""
        return self.shares @ self.component_mean

    @property
    def covariance(self) -> np.ndarray:
        """Cov[(s, v) | d], [num_domains, s_dim + v_dim, s_dim + v_dim]."""
        # The law of total covariance: what is left within components, and what lies between them.
        within = np.einsum("dk,ki->di", self.shares, self.component_sd**2)
        second = np.einsum("dk,ki,kj->dij", self.shares, self.component_mean, self.component_mean)
        between = second - np.einsum("di,dj->dij", self.mean, self.mean)
        return between + within[:, :, None] * np.eye(within.shape[1])

    def domain_mean_correlation(self) -> np.ndarray:
        """The correlation of each latent with its domain's mean, over equally frequent domains.

        It is the score of an estimate that uses the domain alone, and not x.

        Returns:
            [s_dim + v_dim], from 0 to 1.
        """
        between = self.mean.var(0)
        within = np.einsum("dii->di", self.covariance).mean(0)
        return np.sqrt(between / (between + within))

    def mix(self, latents: np.ndarray) -> np.ndarray:
        """f: what would be observed without noise.

        Args:
            latents: z = (s, v), [n, s_dim + v_dim].

        Returns:
            [n, x_dim].
        """
        first, second, lift = self.rotations
        return self._rectify(self._rectify(latents @ first) @ second) @ lift

    def unmix(self, x: np.ndarray) -> np.ndarray:
        """The inverse of f, after a projection onto its range's linear hull.

        Args:
            x: [n, x_dim].

        Returns:
            z = (s, v), [n, s_dim + v_dim].
        """
        first, second, lift = self.rotations
        return self._straighten(self._straighten(x @ lift.T) @ second.T) @ first.T

    def _rectify(self, values: np.ndarray) -> np.ndarray:
        return np.where(values > 0, values, self.leak * values)

    def _straighten(self, values: np.ndarray) -> np.ndarray:
        return np.where(values > 0, values, values / self.leak)

    def sample(self, key: jax.Array, size: int) -> StructuralData:
        """Draws examples.

        Args:
            key: a typed PRNG key, scalar.
            size: examples of each domain.

        Returns:
            `num_domains * size` examples.

        Raises:
            ValueError: if size is not positive.
        """
        if size < 1:
            raise ValueError(f"size, the examples of each domain, must be positive, got {size}.")
        rng = host_generator(key)
        domains = np.repeat(np.arange(self.num_domains), size)
        # The inverse distribution function: how many cumulated shares a uniform number exceeds.
        component = (rng.uniform(size=(domains.size, 1)) > self.shares.cumsum(1)[domains]).sum(1)
        # Shares sum to 1 only up to rounding, so a number may exceed even the last.
        component = np.minimum(component, self.shares.shape[1] - 1)
        mean, sd = self.component_mean[component], self.component_sd[component]
        draws = rng.normal(size=(2, *mean.shape))
        if self.confounder == "continuous":
            c = mean + np.sqrt(sd**2 - CONTINUOUS_NOISE**2) * draws[0]
            latents, c = c + CONTINUOUS_NOISE * draws[1], c.astype(np.float32)
        else:
            latents, c = mean + sd * draws[0], component.astype(np.int32)
        s, v = latents[:, : self.s_dim], latents[:, self.s_dim :]
        logits = self.slope * s @ self.label_directions
        # The largest of logits plus Gumbel noise is distributed as their softmax says.
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        x = self.mix(latents)
        x = x + self.noise * rng.normal(size=x.shape)
        return StructuralData(
            x=x.astype(np.float32),
            labels=labels.astype(np.int32),
            domains=domains.astype(np.int32),
            s=s.astype(np.float32),
            v=v.astype(np.float32),
            c=c,
        )


def structural_model(
    key: jax.Array,
    *,
    num_domains: int,
    confounder: Confounder = "continuous",
    sizes: StructuralSizes = StructuralSizes(),  # noqa: B008 (immutable)
    spread: StructuralSpread = StructuralSpread(),  # noqa: B008 (immutable)
    slope: float = 3.0,
    leak: float = 0.4,
    noise: float = 0.05,
) -> StructuralModel:
    """Draws a structural causal model; one with fewer domains has the first of one with more.

    Mixing and p(y|s) are the same whatever the number of domains. Domain parameters are drawn many
    times, and the draw whose natural parameters are best conditioned is kept: random domains are
    often nearly alike in some direction.

    Args:
        key: a typed PRNG key, scalar.
        num_domains: m, at least 1.
        confounder: "continuous" or "discrete".
        sizes: how many numbers s, v and x have, and how many classes there are.
        spread: how far the domains are apart.
        slope: of the label's log-odds.
        leak: slope of the rectifier below 0; 1 makes the mixing linear.
        noise: standard deviation on x.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> model = structural_model(jax.random.key(0), num_domains=3)
        >>> data = model.sample(jax.random.key(1), 100)
        >>> data.x.shape, data.s.shape, np.bincount(data.domains).tolist()
        ((300, 10), (300, 2), [100, 100, 100])
        >>> z = np.concatenate([data.s, data.v], axis=1)
        >>> bool(np.abs(model.unmix(model.mix(z)) - z).max() < 1e-5)
        True
    """
    _check(num_domains, confounder, leak=leak, noise=noise)
    dim = sizes.s_dim + sizes.v_dim
    design_key, mixing_key = jax.random.split(key)
    rng = host_generator(mixing_key)
    rotations = (orthogonal(rng, dim), orthogonal(rng, dim), orthogonal(rng, sizes.x_dim)[:dim])
    mean, sd, shares = draw_design(
        host_generator(design_key), confounder=confounder, sizes=sizes, spread=spread
    )
    if confounder == "continuous":  # a component for each domain
        mean, sd, shares = mean[:num_domains], sd[:num_domains], np.eye(num_domains)
    return StructuralModel(
        confounder=confounder,
        s_dim=sizes.s_dim,
        v_dim=sizes.v_dim,
        component_mean=mean,
        component_sd=sd,
        shares=shares[:num_domains],
        label_directions=label_directions(rng, sizes),
        slope=slope,
        rotations=rotations,
        leak=leak,
        noise=noise,
    )


def _check(num_domains: int, confounder: str, *, leak: float, noise: float) -> None:
    if not 1 <= num_domains <= MOST_DOMAINS:
        raise ValueError(f"num_domains must lie between 1 and {MOST_DOMAINS}, got {num_domains}.")
    if not (0 < leak <= 1 and noise >= 0):
        raise ValueError(
            "leak must be above 0, or the mixing could not be inverted, and at most 1, and noise "
            f"at least 0; got {leak:g} and {noise:g}."
        )
    if confounder not in ("continuous", "discrete"):
        raise ValueError(f"confounder must be 'continuous' or 'discrete', got {confounder!r}.")
