"""The methods that learn from several domains, made alike: same trunk, same classifier, one loop.

Each is a model, a loss with ERM's signature, the ranges of what is tuned about it, and how it
answers for an image whose domain is unknown.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from benchmarks.latent.reports.segments import HEADS
from lacim_jax import (
    BERNOULLI,
    ERM,
    MLP,
    ConvDecoder,
    ConvEncoder,
    DomainHeads,
    LaCIM,
    Likelihood,
    MLPDecoder,
    MLPEncoder,
    begin_search,
    erm_loss,
    invariant_lacim_loss,
    lacim_loss,
    mixture_prior,
)
from lacim_jax.baselines import (
    DANN,
    DIVA,
    coral_loss,
    csg_loss,
    csg_probabilities,
    dann_loss,
    diva_loss,
    group_dro_loss,
    irm_loss,
    ivae,
    mmd_loss,
    vrex_loss,
)
from lacim_jax.erm import LossFn

Hyper = Mapping[str, jax.Array]
"""What is tuned about one run: float32 scalars, by name."""

Ramp = Callable[[jax.Array], jax.Array]
"""From 0 to 1 over the first third of training, by step."""


class Sizes(NamedTuple):
    """What all models of an experiment share."""

    image: tuple[int, ...]
    widths: tuple[int, ...]
    """Of the encoder's layers; the decoder has them in the opposite order."""
    s_dim: int
    v_dim: int
    num_domains: int
    num_classes: int
    convolutions: bool = False
    """Convolutional encoder and decoder, the last of `widths` being the encoder's features."""
    bfloat16: bool = False
    """Whether encoder and decoder compute in bfloat16; parameters and densities stay float32."""
    likelihood: Likelihood = BERNOULLI
    """Of what the encoder sees: pixels between 0 and 1, or real values."""


class Method(NamedTuple):
    """One method, ready to be trained and asked."""

    build: Callable[[Sizes], nn.Module]
    loss: Callable[[Any, Hyper, Ramp, Sizes], LossFn]
    ranges: Mapping[str, tuple[float, float]]
    """The range of each tuned setting beside the learning rate; logarithmic."""
    probabilities: Callable[[Any, Any, jax.Array], jax.Array]
    """(model, variables, images) -> [n, classes], the images' domain unknown."""
    state: Callable[[Sizes], Any] = lambda sizes: jnp.zeros([], jnp.int32)
    """What the loss carries at first: its number of steps, as a rule."""
    takes_domains: bool = False
    """Whether the model is initialised with the domains beside the images."""
    searches: bool = False
    """Whether latents can be searched further than the encoder's own."""


def _network(sizes: Sizes) -> ERM:
    encoder, _, classifier = modules(sizes)
    return ERM(encoder, classifier, s_dim=sizes.s_dim)


def modules(sizes: Sizes) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Encoder trunk, decoder and classifier."""
    classifier = MLP((64, sizes.num_classes))
    dtype = jnp.bfloat16 if sizes.bfloat16 else None
    if sizes.convolutions:
        *channels, features = sizes.widths
        decoder = ConvDecoder(sizes.image, tuple(reversed(channels)), dtype=dtype)
        return ConvEncoder(tuple(channels), features, dtype=dtype), decoder, classifier
    decoder = MLPDecoder(sizes.image, tuple(reversed(sizes.widths)), dtype=dtype)
    return MLPEncoder(sizes.widths, dtype=dtype), decoder, classifier


def _of_every_domain(sizes: Sizes, **fields: Any) -> LaCIM:
    fields = {"num_domains": sizes.num_domains, "likelihood": sizes.likelihood} | fields
    return LaCIM(*modules(sizes), s_dim=sizes.s_dim, v_dim=sizes.v_dim, **fields)


def _of_one_domain(sizes: Sizes, **fields: Any) -> LaCIM:
    """All domains as one, and q(s,v|x) read off the features alone, without the prior.

    CSG is made so: in a new domain its prior is another. To Invariant LaCIM it makes no difference:
    evidence times the one prior that there is is one Gaussian too.
    """
    return _of_every_domain(sizes, num_domains=1, posterior=DomainHeads(), **fields)


def _softmax(model: Any, variables: Any, images: jax.Array) -> jax.Array:
    return jax.nn.softmax(model.apply(variables, images))


def _best_start(model: LaCIM, variables: Any, images: jax.Array) -> jax.Array:
    """p(y|s) at the one of the encoder's means, over domains, that explains the image best."""
    noise = jnp.zeros((0, model.num_domains, model.s_dim + model.v_dim))
    state = begin_search(
        model, variables, images, noise, optimiser=optax.identity(), regulariser=mixture_prior,
        weight=1.0,
    )  # fmt: skip
    best = state.start_objective.argmax(axis=1)
    latents = state.latents[jnp.arange(len(images)), best]
    logits: Any = model.apply(variables, model.split(latents).s, method="classify")
    return jax.nn.softmax(logits)


def _pooled(loss: LossFn) -> LossFn:
    """A loss that is told of one domain only."""

    def loss_fn(params: Any, state: Any, examples: Any, key: jax.Array) -> Any:
        return loss(params, state, examples._replace(domains=jnp.zeros_like(examples.domains)), key)

    return loss_fn


def _penalty(loss: Callable[..., LossFn], low: float, high: float, *, late: bool) -> Method:
    """A penalty on ERM's network, its weight tuned; late: 1 at first, then all at once."""

    def make(model: ERM, hyper: Hyper, ramp: Ramp, sizes: Sizes) -> LossFn:
        def weight(step: jax.Array) -> jax.Array:
            return _late(hyper, ramp, step)

        chosen = weight if late else lambda _: hyper["weight"]
        penalised = loss(model, num_domains=sizes.num_domains, weight=chosen)

        def divided(params: Any, step: jax.Array, examples: Any, key: jax.Array) -> Any:
            value, following = penalised(params, step, examples, key)
            return value / jnp.maximum(weight(step), 1), following

        # As in IRM's code, steps of the optimiser do not jump with the weight.
        return divided if late else penalised

    return Method(_network, make, {"weight": (low, high)}, _softmax)


def _late(hyper: Hyper, ramp: Ramp, step: ArrayLike) -> jax.Array:
    """A penalty's weight: 1 until all else is warmed up, then at once as tuned."""
    return jnp.where(ramp(jnp.asarray(step)) < 1, jnp.ones([]), hyper["weight"])


def _generative(hyper: Hyper, ramp: Ramp) -> dict[str, Any]:
    """A bound's two tuned factors, the divergence's warmed up."""
    return {
        "beta": lambda step: hyper["beta"] * ramp(step),
        "label_weight": lambda _: hyper["label_weight"],
    }


def _invariant_lacim(model: LaCIM, hyper: Hyper, ramp: Ramp, sizes: Sizes) -> LossFn:
    """Only its penalty is tuned: the label is weighed by default, the divergence warmed up to 1."""
    return invariant_lacim_loss(
        model, num_domains=sizes.num_domains, beta=lambda step: ramp(jnp.asarray(step)),
        weight=lambda step: _late(hyper, ramp, jnp.asarray(step)), unbiased=False,
    )  # fmt: skip


_BOUND = {"beta": (0.03, 1.0), "label_weight": (3.0, 100.0)}
_DOMAINBED = (0.1, 1e5)
"""The range of a late penalty's weight in DomainBed."""


def _bound(build: Callable[[Sizes], LaCIM]) -> Method:
    """A model whose domains have priors of their own, trained by the bound."""
    return Method(
        build, lambda model, hyper, ramp, _: lacim_loss(model, **_generative(hyper, ramp)), _BOUND,
        _best_start, takes_domains=True, searches=True,
    )  # fmt: skip


METHODS: dict[str, Method] = {
    "ERM": Method(
        _network, lambda model, *_: erm_loss(model), {"weight_decay": (1e-3, 1.0)}, _softmax
    ),
    "IRM": _penalty(irm_loss, *_DOMAINBED, late=True),
    "V-REx": _penalty(vrex_loss, *_DOMAINBED, late=True),
    "GroupDRO": Method(
        _network,
        lambda model, hyper, _, sizes: group_dro_loss(
            model, num_domains=sizes.num_domains, rate=hyper["rate"]
        ),
        {"rate": (1e-3, 1e-1)},
        _softmax,
        state=lambda sizes: jnp.zeros(sizes.num_domains),
    ),
    "CORAL": _penalty(coral_loss, 0.1, 10.0, late=False),
    "MMD": _penalty(mmd_loss, 0.1, 10.0, late=False),
    "DANN": Method(
        lambda sizes: DANN(_network(sizes), adversary=MLP((64, sizes.num_domains))),
        lambda model, hyper, ramp, _: dann_loss(
            model, weight=lambda step: hyper["weight"] * ramp(step)
        ),
        {"weight": (0.01, 10.0)},
        _softmax,
    ),
    "DIVA": Method(
        lambda sizes: DIVA(
            *modules(sizes),
            num_domains=sizes.num_domains,
            num_classes=sizes.num_classes,
            dim=sizes.s_dim,
            likelihood=sizes.likelihood,
        ),
        lambda model, hyper, ramp, _: diva_loss(
            model, **_generative(hyper, ramp), domain_weight=lambda _: hyper["label_weight"]
        ),
        _BOUND,
        _softmax,
    ),
    "CSG": Method(
        lambda sizes: _of_one_domain(sizes, correlated_prior=True),
        lambda model, hyper, ramp, _: _pooled(csg_loss(model, **_generative(hyper, ramp))),
        _BOUND,
        lambda model, variables, images: csg_probabilities(
            model, variables, images, jax.random.key(0), num_samples=8
        ),
        takes_domains=True,
    ),
    "iVAE": _bound(
        lambda sizes: ivae(
            *modules(sizes),
            num_domains=sizes.num_domains,
            dim=sizes.s_dim + sizes.v_dim,
            likelihood=sizes.likelihood,
        )
    ),
    "Pool-LaCIM": Method(
        lambda sizes: _of_every_domain(sizes, num_domains=1),
        lambda model, hyper, ramp, _: _pooled(lacim_loss(model, **_generative(hyper, ramp))),
        _BOUND,
        _best_start,
        takes_domains=True,
        searches=True,
    ),
    "Invariant LaCIM": Method(
        _of_one_domain,
        _invariant_lacim,
        {"weight": _DOMAINBED},
        _best_start,
        takes_domains=True,
    ),
    "LaCIM": _bound(_of_every_domain),
    HEADS: _bound(lambda sizes: _of_every_domain(sizes, posterior=DomainHeads())),
}
"""Every method, in the order of tables."""
