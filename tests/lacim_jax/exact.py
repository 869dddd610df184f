"""LaCIM with the densities of a linear-Gaussian oracle, so that every answer is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lacim_jax import DomainHeads, Examples, LaCIM, gaussian_likelihood
from tests.oracles import linear_gaussian as oracle


class Identity(nn.Module):
    """A trunk or a decoder that leaves its input as it is."""

    @nn.compact
    def __call__(self, inputs):
        return inputs


def exact_model(instance, *, shift=0.0, stretch=1.0, dtype=jnp.float32):
    """LaCIM with the instance's own densities, and its posterior, or one that is off.

    Args:
        instance: a `LinearGaussian`.
        shift: added to the posterior's mean.
        stretch: factor on the posterior's standard deviations.
        dtype: of the parameters.
    """
    domains, dim = instance.mean.shape
    model = LaCIM(
        encoder=Identity(),
        decoder=nn.Dense(len(instance.A), use_bias=False),
        classifier=nn.Dense(len(instance.B), use_bias=False),
        num_domains=domains,
        s_dim=instance.B.shape[1],
        v_dim=dim - instance.B.shape[1],
        likelihood=gaussian_likelihood(instance.sx),
        label_likelihood=gaussian_likelihood(instance.sy),
        posterior=DomainHeads(),
    )

    def raw(variance):  # the inverse of bounded_log_var
        return model.log_var_bound * np.arctanh(np.log(variance) / model.log_var_bound)

    gains, offsets, variances = zip(
        *(oracle.posterior(instance, d) for d in range(domains)), strict=True
    )
    kernel = np.stack([np.hstack([g.T, np.zeros_like(g.T)]) for g in gains], axis=1)
    bias = [
        np.concatenate([o + shift, raw(stretch**2 * v)])
        for o, v in zip(offsets, variances, strict=True)
    ]
    params = {
        "posterior": {"heads": {"kernel": kernel, "bias": np.asarray(bias)}},
        "decoder": {"kernel": instance.A.T},
        "classifier": {"kernel": instance.B.T},
        "prior_mean": instance.mean,
        "prior_raw_log_var": raw(instance.sd**2),
    }
    return model, {"params": jax.tree.map(lambda w: jnp.asarray(w, dtype), params)}


def observed(instance, domain, n, dtype=jnp.float32):
    """One (x, y), n times over, and its evidence."""
    (x,), (y,) = oracle.draw(instance, domain, np.random.default_rng(domain + 7), 1)
    examples = Examples(
        images=jnp.asarray(np.tile(x, (n, 1)), dtype),
        labels=jnp.asarray(np.tile(y, (n, 1)), dtype),
        domains=jnp.full(n, domain),
    )
    return examples, oracle.log_evidence(instance, domain, x, y)
