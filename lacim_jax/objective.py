"""The training objective: a re-parameterised evidence lower bound with importance weights."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from lacim_jax.model.checks import check_batch, check_weight
from lacim_jax.model.lacim import Examples, LaCIM, Variables, apply


class Elbo(NamedTuple):
    """The bound of each example, and what it is made of; nats, summed over pixels and latents."""

    bound: jax.Array  # shape=[batch]: label_weight * label + reconstruction - beta * divergence
    label: jax.Array  # shape=[batch]: log q(y|x,d), estimated
    reconstruction: jax.Array  # shape=[batch]: E log p(x|s,v)
    divergence: jax.Array  # shape=[batch]: -E log p(s,v|d) + E log q(s,v|x,d)
    prior: jax.Array  # shape=[batch]: E log p(s,v|d)
    entropy: jax.Array  # shape=[batch]: -E log q(s,v|x,d)
    kl_per_dim: jax.Array  # shape=[batch, s_dim + v_dim]: KL(q(s,v|x,d) || p(s,v|d)), exact
    log_evidence: jax.Array  # shape=[batch]: a tighter bound on log p(x,y|d), by the same draws
    sample_size: jax.Array  # shape=[batch]: effective number of draws, from 1 to num_samples


def elbo(
    model: LaCIM,
    variables: Variables,
    examples: Examples,
    key: PRNGKeyArray,
    *,
    num_samples: int = 1,
    beta: ArrayLike = 1.0,
    label_weight: ArrayLike = 1.0,
) -> Elbo:
    r"""The evidence lower bound of log p(x, y | d), in the form that keeps y out of the encoder.

    With $q(s,v|x,y,d) = q(s,v|x,d) \, p(y|s) / q(y|x,d)$ and $q(y|x,d) = E_{q(s,v|x,d)} p(y|s)$,

        $L = \log q(y|x,d) + E_{q(s,v|x,d)} \big[ \tfrac{p(y|s)}{q(y|x,d)} \, \ell \big]$,
        $\ell = \log p(x|s,v) + \log p(s,v|d) - \log q(s,v|x,d)$.

    It is estimated from draws $(s_k, v_k) \sim q(s,v|x,d)$, $k = 1, \dots, K$, with
    $w_k = p(y|s_k)$ and $\bar w_k = w_k / \sum_j w_j$, the same draws in both terms:

        $L_K = \log \tfrac{1}{K} \sum_k w_k + \sum_k \bar w_k \ell_k$.

    At K = 1 this is the ordinary bound $\log p(y|s) + \ell$. The expectations E of the fields of
    `Elbo` are weighted by $\bar w_k$ too. `log_evidence` is
    $\log \tfrac{1}{K} \sum_k w_k e^{\ell_k}$, which is never below $L_K$ on the same draws (Jensen)
    and tends to log p(x, y | d); neither weight enters it.

    Sums over pixels and latents, never means, so that `beta=1, label_weight=1` is the bound.

    Args:
        model: the densities.
        variables: its parameters, as `model.init` returns them.
        examples: a batch.
        key: for the draws; a typed PRNG key, scalar.
        num_samples: K, at least 1.
        beta: factor on the divergence, which is $\log q(s,v|x,d) - \log p(s,v|d)$; may be traced.
        label_weight: factor on the label's term; may be traced.

    Returns:
        One bound for each example, with its terms.

    Raises:
        ValueError: if num_samples is not positive, a factor is a negative number, or examples that
            are not traced have pixels, a label or a domain out of range.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = LaCIM(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2)
        >>> examples = Examples(
        ...     images=jnp.full((3, 4, 4, 1), 0.5),
        ...     labels=jnp.asarray([0, 1, 1]),
        ...     domains=jnp.asarray([0, 0, 1]),
        ... )
        >>> variables = jax.jit(model.init)(jax.random.key(0), examples.images, examples.domains)
        >>> terms = compiled_elbo(model, variables, examples, jax.random.key(1), num_samples=4)
        >>> terms.bound.shape
        (3,)

    References:
        Sun et al., *Recovering latent causal factor for generalization to distributional shifts*,
        NeurIPS 2021, section 4.2. Its code has no importance weight, draws anew for each term, and
        takes means over pixels and latents, which multiplies the divergence by tens and the label's
        term by thousands; here both factors are arguments.
        Burda et al., *Importance weighted autoencoders*, 2016, for `log_evidence`.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    check_weight("beta", beta)
    check_weight("label_weight", label_weight)
    check_batch(model, variables, examples)
    images, labels, domains = examples

    posterior = apply(model, variables, "encode", images, domains)
    prior = apply(model, variables, "prior", domains)
    shape = (num_samples, *posterior.mean.shape)
    noise = jax.random.normal(key, shape, posterior.mean.dtype)
    draws = jax.vmap(posterior.sample)(noise)  # [K, batch, dim]

    # Draws and examples become one batch, [K * batch], and are parted again below.
    flat = draws.reshape(-1, draws.shape[-1])
    flat = apply(model, variables, "latents", flat, jnp.tile(domains, num_samples))
    pixels = apply(model, variables, "decode", flat)
    logits = apply(model, variables, "classify", model.split(flat).s)
    pixels, logits = (p.reshape(*draws.shape[:2], *p.shape[1:]) for p in (pixels, logits))

    def every(log_prob: Callable[..., jax.Array], parameters: jax.Array, values: jax.Array):
        return jax.vmap(jax.vmap(log_prob), in_axes=(0, None))(parameters, values)  # [K, batch]

    log_w = every(model.label_likelihood.log_prob, logits, labels)
    log_x = every(model.likelihood.log_prob, pixels, images)
    log_prior = jax.vmap(prior.log_prob)(draws)
    log_posterior = jax.vmap(posterior.log_prob)(draws)

    weights = jax.nn.softmax(log_w, axis=0)  # w_k / sum_j w_j

    def expectation(values: Float[Array, "K batch"]) -> Float[Array, " batch"]:
        return (weights * values).sum(0)

    label = _log_mean_exp(log_w)  # log (1 / K) sum_k w_k
    reconstruction = expectation(log_x)
    prior_term, entropy = expectation(log_prior), -expectation(log_posterior)
    divergence = -(prior_term + entropy)
    return Elbo(
        bound=jnp.asarray(label_weight * label + reconstruction - beta * divergence),
        label=label,
        reconstruction=reconstruction,
        divergence=divergence,
        prior=prior_term,
        entropy=entropy,
        kl_per_dim=prior.kl_from(posterior),
        log_evidence=_log_mean_exp(log_w + log_x + log_prior - log_posterior),
        # Kish's effective sample size: K where all weights are equal, 1 where one has them all.
        sample_size=1 / (weights**2).sum(0),
    )


compiled_elbo = jax.jit(elbo, static_argnames=("model", "num_samples"))
"""`elbo`, compiled once for each model, batch shape and number of draws."""


def _log_mean_exp(values: Float[Array, "K batch"]) -> Float[Array, " batch"]:
    return jax.nn.logsumexp(values, axis=0) - math.log(values.shape[0])


def lacim_loss(
    model: LaCIM,
    *,
    num_samples: int = 1,
    beta: optax.ScalarOrSchedule = 1.0,
    label_weight: optax.ScalarOrSchedule = 1.0,
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]]:
    """The loss to train by: minus the bound, averaged over the batch.

    Args:
        model: the densities.
        num_samples: draws for each example.
        beta: factor on the divergence, or a schedule of it by step: warmed up from 0, as by
            `optax.linear_schedule(0.0, 1.0, 500)`, it keeps the posterior from collapsing onto the
            prior before the decoder has learnt to use it.
        label_weight: factor on the label's term, or a schedule of it by step.

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, terms))`, with `step` an int32 scalar,
        counted from 0, and `terms` the batch means of the bound, its terms and the sample size.

    Raises:
        ValueError: if a factor is a negative number; schedules are not checked.
    """
    check_weight("beta", beta)
    check_weight("label_weight", label_weight)

    def loss_fn(
        params: optax.Params, step: jax.Array, examples: Examples, key: PRNGKeyArray
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        weights = {
            name: weight(step) if callable(weight) else weight
            for name, weight in (("beta", beta), ("label_weight", label_weight))
        }
        terms = elbo(model, {"params": params}, examples, key, num_samples=num_samples, **weights)
        means = {name: value.mean() for name, value in terms._asdict().items() if value.ndim == 1}
        return -means["bound"], (step + 1, means)

    return loss_fn
