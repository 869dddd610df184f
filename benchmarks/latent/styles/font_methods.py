"""The methods that learn from fonts, each as it is by default."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.latent.methods import METHODS, Hyper, Method, Ramp, Sizes, modules
from benchmarks.latent.reports.fonts import CORRELATED, ERM, NEVER, POOLED
from lacim_jax import Examples, LaCIM, lacim_loss
from lacim_jax.erm import LossFn


def method_of(name: str, penalty: float) -> tuple[Method, dict[str, float]]:
    """A method as it is by default, with what its loss reads as tuned."""
    if "LaCIM" in name:
        build = functools.partial(_build, pooled=name == POOLED, correlated=name == CORRELATED)
        method = METHODS[POOLED]._replace(build=build, loss=_bound)
        return method._replace(searches=name != CORRELATED), {}
    return METHODS[ERM if name == NEVER else name], {"weight": penalty} if name == "V-REx" else {}


def _build(sizes: Sizes, *, pooled: bool, correlated: bool) -> LaCIM:
    """LaCIM whose domains share their evidence."""
    return LaCIM(
        *modules(sizes), num_domains=1 if pooled else sizes.num_domains, s_dim=sizes.s_dim,
        v_dim=sizes.v_dim, likelihood=sizes.likelihood, correlated_prior=correlated,
    )  # fmt: skip


def _bound(model: Any, hyper: Hyper, ramp: Ramp, sizes: Sizes) -> LossFn:
    """The package's default: the label's weight balanced, the divergence warmed up."""
    loss = lacim_loss(model, beta=lambda step: ramp(jnp.asarray(step)))

    def loss_fn(params: Any, state: Any, examples: Examples, key: jax.Array) -> Any:
        return loss(params, state, seen(model, examples), key)

    return loss_fn


def seen(model: LaCIM, examples: Examples) -> Examples:
    """Examples with the domains that the model tells apart."""
    one = model.num_domains == 1
    return examples._replace(domains=jnp.zeros_like(examples.domains)) if one else examples
