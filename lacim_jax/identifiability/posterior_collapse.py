"""Posterior collapse: which latents carry any information about an example."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lacim_jax.model.checks import check_chunk_size, check_domains, check_images
from lacim_jax.model.lacim import LaCIM, Variables, apply


class Collapse(NamedTuple):
    """Of each dimension of z = (s, v), what the posterior knows beyond the prior.

    `str` of it is a short report.
    """

    kl: np.ndarray  # shape=[dim], float64: mean over examples of KL(q(s,v|x,d) || p(s,v|d)), nats
    activity: np.ndarray  # shape=[dim], float64: variance of the posterior's mean within domains
    active: np.ndarray  # shape=[dim], bool: whether the activity exceeds the threshold
    s_dim: int
    """The first so many dimensions are s, the others v."""

    @property
    def active_s(self) -> int:
        """How many dimensions of s are active."""
        return int(self.active[: self.s_dim].sum())

    @property
    def active_v(self) -> int:
        """How many dimensions of v are active."""
        return int(self.active[self.s_dim :].sum())

    def __str__(self) -> str:
        """Active units, and the divergence of every dimension."""
        lines = []
        blocks = {"s": slice(None, self.s_dim), "v": slice(self.s_dim, None)}
        for name, block in blocks.items():
            kl, active = self.kl[block], self.active[block]
            each = ", ".join(
                f"{value:.3g}{'' if on else ' (idle)'}"
                for value, on in zip(kl, active, strict=True)
            )
            lines.append(
                f"{name}: {int(active.sum())} of {active.size} units active, "
                f"KL {kl.sum():.3g} nats an example: {each or 'none'}"
            )
        return "\n".join(lines)


def collapse(
    model: LaCIM,
    variables: Variables,
    images: ArrayLike,
    domains: ArrayLike,
    *,
    threshold: float = 0.01,
    chunk_size: int = 4096,
) -> Collapse:
    r"""Divergence from the prior and activity of every latent over a data set.

    A unit is active if the mean of its posterior moves with the example,
    $E_d Var_{x|d} E[z_i | x, d] > threshold$. The variance is taken within domains: between them
    the mean moves with the prior even where the encoder ignores x.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, floating-point, [n, ...]; they may stay on the host.
        domains: d, integers, [n], from 0 to num_domains - 1; with one prior for all (Pool-LaCIM)
            they are not looked at.
        threshold: of the activity; latents are of the order of 1.
        chunk_size: examples encoded at once, at least 1.

    Returns:
        The report; print it.

    Raises:
        ValueError: if there is no example, there are not as many domains as examples, a domain has
            no prior, the images' shape or a pixel does not suit the model, or chunks are of none.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((3,)), MLP((2,)), num_domains=2,
        ...               s_dim=1, v_dim=1)
        >>> x, d = jax.random.uniform(jax.random.key(1), (20, 3)), jax.numpy.arange(20) % 2
        >>> report = collapse(model, jax.jit(model.init)(jax.random.key(0), x, d), x, d)
        >>> report.kl.shape, report.active.shape
        ((2,), (2,))

    References:
        Burda et al., *Importance weighted autoencoders*, 2016, section 5.2, for the threshold.
    """
    check_chunk_size(chunk_size)
    pixels, domain_of = np.asarray(images), np.asarray(domains)
    n = len(pixels) if pixels.ndim else 0
    if n == 0 or domain_of.shape != (n,):
        raise ValueError(
            "there must be at least one example and one domain for each, got "
            f"{n} examples and domains of shape {list(domain_of.shape)}."
        )
    if model.num_domains == 1:
        domain_of = np.zeros(n, np.int32)
    check_images(model, variables, pixels)
    check_domains(model, domain_of)
    kls, means = [], []
    for begin in range(0, n, chunk_size):
        part = slice(begin, begin + chunk_size)
        kl, mean = _chunk(model, variables, jnp.asarray(pixels[part]), jnp.asarray(domain_of[part]))
        kls.append(np.asarray(kl, np.float64))
        means.append(np.asarray(mean, np.float64))
    mean = np.concatenate(means)
    # E_d Var_{x|d}: each domain's variance by its share of the examples.
    variances = [
        mean[domain_of == d].var(0) * (domain_of == d).mean() for d in np.unique(domain_of)
    ]
    activity = np.sum(variances, axis=0)
    return Collapse(
        kl=np.concatenate(kls).mean(0),
        activity=activity,
        active=activity > threshold,
        s_dim=model.s_dim,
    )


@functools.partial(jax.jit, static_argnums=0)
def _chunk(
    model: LaCIM, variables: Variables, images: jax.Array, domains: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Divergences and means of the posterior, [n, dim] each; compiled for each size of chunk."""
    posterior = apply(model, variables, "encode", images, domains)
    prior = apply(model, variables, "prior", domains)
    return prior.kl_from(posterior), posterior.mean
