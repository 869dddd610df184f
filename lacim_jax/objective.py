"""The training objective: a re-parameterised evidence lower bound with importance weights."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from lacim_jax.label_weight import check_label_weight, weight_of_batch
from lacim_jax.model.checks import check_batch, check_weight
from lacim_jax.model.lacim import Examples, LaCIM, Variables


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
    return elbo_and_updates(
        model, variables, examples, key,
        num_samples=num_samples, beta=beta, label_weight=label_weight,
    )[0]  # fmt: skip


def elbo_and_updates(
    model: LaCIM,
    variables: Variables,
    examples: Examples,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    beta: ArrayLike,
    label_weight: ArrayLike,
) -> tuple[Elbo, dict[str, Any]]:
    """The bound, and the model's collections beside the parameters as they are afterwards.

    Args:
        model: as in `elbo`, like the others.
        variables: with collections such as {"batch_stats"}, which modules may change.
        examples: a batch.
        key: for the draws, and for what modules draw as "dropout".
        num_samples: K.
        beta: factor on the divergence.
        label_weight: factor on the label's term.

    Returns:
        The bound of each example, shape=[batch], with its terms; and the collections.

    Raises:
        ValueError: as `elbo`.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    check_weight("beta", beta)
    check_weight("label_weight", label_weight)
    check_batch(model, variables, examples)
    images, labels, domains = examples
    current = dict(variables)
    collections = [name for name in current if name != "params"]
    rngs = {"dropout": jax.random.fold_in(key, 1)}

    def read(method: str, *args: Any) -> Any:
        if not collections:
            return model.apply(current, *args, method=method, rngs=rngs)
        result, changed = model.apply(current, *args, method=method, rngs=rngs, mutable=collections)
        current.update(changed)
        return result

    posterior = read("encode", images, domains)
    prior = read("prior", domains)
    shape = (num_samples, *posterior.mean.shape)
    noise = jax.random.normal(key, shape, posterior.mean.dtype)
    draws = jax.vmap(posterior.sample)(noise)  # [K, batch, dim]

    # Draws and examples become one batch, [K * batch], and are parted again below.
    flat = draws.reshape(-1, draws.shape[-1])
    flat = read("latents", flat, jnp.tile(domains, num_samples))
    pixels = read("decode", flat)
    logits = read("classify", model.split(flat).s)
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
    terms = Elbo(
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
    return terms, {name: current[name] for name in collections}


compiled_elbo = jax.jit(elbo, static_argnames=("model", "num_samples"))
"""`elbo`, compiled once for each model, batch shape and number of draws."""


def _log_mean_exp(values: Float[Array, "K batch"]) -> Float[Array, " batch"]:
    return jax.nn.logsumexp(values, axis=0) - math.log(values.shape[0])


def lacim_loss(
    model: LaCIM,
    *,
    num_samples: int = 1,
    beta: optax.ScalarOrSchedule = 1.0,
    label_weight: optax.ScalarOrSchedule | Literal["balanced"] = "balanced",
) -> Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]:
    r"""The loss to train by: minus the bound, averaged over the batch, with a weight on the label.

    Images have hundreds of nats and labels one or two, so in the plain bound the classifier
    starves: what it could gain is lost beside what any pixel can. By default terms are weighed by
    what there is to be explained. With $R_x$ the nats by which the best parameters that are the
    same for all images fall short of each image's own, and $R_y$ likewise of labels, their entropy,

        `label_weight` $= \max(50, 8 R_x / R_y)$,

    so that a share of the label counts eight times what the same share of the image does, whatever
    the number of pixels and the likelihood; and never less than what it takes to be heard beside
    the divergence, which does not know the images' size. `label_weight=1` is the bound.

    A loss sees batches alone. So "balanced" takes $R_x$ from the batch's images, and for $R_y$ the
    logarithm of the number of classes, whichever of them are in the batch. Where classes are far
    from equally frequent, `label_weight=balanced_weight(model, data)` knows the entropy of the
    whole training set; `fit` takes that by default.

    Args:
        model: the densities.
        num_samples: draws for each example.
        beta: factor on the divergence, or a schedule of it by step: warmed up from 0, as by
            `optax.linear_schedule(0.0, 1.0, 500)`, it keeps the posterior from collapsing onto the
            prior before the decoder has learnt to use it.
        label_weight: factor on the label's term, a schedule of it by step, or "balanced".

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, terms))`, with `step` an int32 scalar,
        counted from 0, and `terms` the batch means of the bound, its terms and the sample size, and
        the label's weight. Where modules keep running averages or the like, `step` is a pair
        (step, collections), such as (0, {"batch_stats": ...}), and so is what is returned of it.
        What modules draw as "dropout" comes from the key.

    Raises:
        ValueError: if a factor is a negative number (schedules are not checked), or the weight is
            to be balanced and a likelihood does not say what there is to be explained, or labels
            are not categorical.
    """
    bound = weighted_bound(model, num_samples, beta, label_weight)

    def loss_fn(
        params: optax.Params, state: Any, examples: Examples, key: PRNGKeyArray
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        _, means, following = bound(params, state, examples, key)
        return -means["bound"], (following, means)

    return loss_fn


def weighted_bound(
    model: LaCIM,
    num_samples: int,
    beta: optax.ScalarOrSchedule,
    label_weight: optax.ScalarOrSchedule | Literal["balanced"],
) -> Callable[..., tuple[Elbo, dict[str, jax.Array], Any]]:
    """The bound of a batch as losses are made of it.

    Args:
        model: the densities.
        num_samples: draws for each example.
        beta: as in `lacim_loss`.
        label_weight: as in `lacim_loss`.

    Returns:
        `(params, state, examples, key) -> (terms, their means with the label's weight, the state
        that follows)`, a state being a step, or a step and collections.

    Raises:
        ValueError: as `lacim_loss`.
    """
    check_weight("beta", beta)
    check_label_weight(label_weight, model.likelihood, model.label_likelihood)

    def bound(
        params: optax.Params, state: Any, examples: Examples, key: PRNGKeyArray
    ) -> tuple[Elbo, dict[str, jax.Array], Any]:
        step, collections = state if isinstance(state, tuple) else (state, {})
        variables = {"params": params, **collections}
        own: optax.ScalarOrSchedule = (
            weight_of_batch(model, variables, examples)
            if isinstance(label_weight, str)
            else label_weight
        )
        weights = {
            name: weight(step) if callable(weight) else weight
            for name, weight in (("beta", beta), ("label_weight", own))
        }
        terms, collections = elbo_and_updates(
            model, variables, examples, key, num_samples=num_samples, **weights
        )
        means = {name: value.mean() for name, value in terms._asdict().items() if value.ndim == 1}
        means["label_weight"] = jnp.asarray(weights["label_weight"], means["bound"].dtype)
        return terms, means, (step + 1, collections) if isinstance(state, tuple) else step + 1

    return bound
