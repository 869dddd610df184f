"""Latent search: for each image the latents that explain it best, from many starts at once."""

import dataclasses
import difflib
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from lacim_jax._keywords import names_keywords
from lacim_jax.model.checks import check_chunk_size
from lacim_jax.model.distributions import log_mixture
from lacim_jax.model.lacim import LaCIM, Prior, Variables, apply

Regulariser = Callable[[jax.Array, Prior], jax.Array]
"""J: `(latents [dim], priors [num_domains, dim]) -> scalar`, larger where latents are likelier."""


def mixture_prior(latents: Float[Array, " dim"], priors: Prior) -> Float[Array, ""]:
    r"""The log-density of the latents under the equal mixture of all training domains' priors.

    With weight 1 the search maximises the posterior density of a domain that is any one of those
    trained.

    Args:
        latents: z = (s, v).
        priors: of all training domains, [num_domains, dim].
    """
    return log_mixture(priors, latents)


def squared_norm(latents: Float[Array, " dim"], priors: Prior) -> Float[Array, ""]:
    r"""Minus the squared length, $-\|s\|^2 - \|v\|^2$, whatever the priors.

    Args:
        latents: z = (s, v).
        priors: of all training domains; not used.
    """
    del priors
    return -(latents**2).sum()


# One object, so that searches by default share a compilation. Its step falls over the 50 steps of a
# search by default: it ends nearer to the maximum than with a constant one.
_ADAM = optax.adam(optax.cosine_decay_schedule(0.2, 50, 0.05))


@names_keywords
@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    r"""How latents are searched: by ascent on $\log p(x|s,v) + \lambda J(s,v)$."""

    optimiser: optax.GradientTransformation = _ADAM
    """It is given minus the gradient of one image's objective from one start, and never sees
    another, so that clipping by norm and line searches act on each search by itself. Searches with
    the same optimiser object share a compilation."""
    regulariser: Regulariser = mixture_prior
    """J."""
    weight: float = 1.0
    """λ, at least 0 and finite: how much the training domains' p(s,v|d) says of an image. 1 is
    right where its domain is like one of them. 0 is right where s and v go together in another way
    than in any of them, as where what was spurious turns round: by the graph p(x|s,v) and p(y|s)
    carry over to a new domain, and p(s,v|d) does not."""
    draws: int = 4
    """How many starts are drawn from each training domain's posterior, beside its mean."""
    keep: int | None = 2
    """How many of an image's starts are searched to the end: the best ones after `screening` steps
    (successive halving). The others keep the best latents that they met till then. None for all:
    on trained models that costs more than three times as much, and finds the same labels but for
    one image in a hundred."""
    screening: int = 4
    """Steps from every start before all but `keep` are dropped, at least 0."""
    chunk_size: int = 128
    """Images searched at once; fewer are filled up to it. It bounds the memory: that of decoding
    `chunk_size * num_domains * (1 + draws)` images and of the gradient for their latents."""
    loop: Literal["auto", "scan", "driven"] = "auto"
    """"scan" takes all steps in one compiled loop, "driven" calls a compiled step from Python.
    "auto" drives where the decoder has convolutions and runs on CPU, where XLA runs their gradients
    many times slower inside a loop (https://github.com/jax-ml/jax/issues/12868); `ConvDecoder`
    has products of matrices instead."""

    def __post_init__(self):
        """Refuses a search that cannot be made."""
        check_chunk_size(self.chunk_size)
        if self.loop not in ("auto", "scan", "driven"):
            loops = ("auto", "scan", "driven")
            (near,) = difflib.get_close_matches(str(self.loop), loops, n=1, cutoff=0.0)
            raise ValueError(
                f"loop must be 'auto', 'scan' or 'driven', got {self.loop!r}; did you mean "
                f"{near!r}?"
            )
        if not isinstance(self.draws, int) or self.draws < 0:
            raise ValueError(f"draws must be a whole number, at least 0, got {self.draws!r}.")
        number = isinstance(self.weight, int | float | np.number | np.ndarray | jax.Array)
        if not number or np.ndim(self.weight) or not 0 <= self.weight < math.inf:
            raise ValueError(
                f"weight must be a number of at least 0, and finite, got {self.weight!r}."
            )
        kept, screened = (1 if self.keep is None else self.keep), self.screening
        whole = isinstance(kept, int) and isinstance(screened, int)
        if not whole or kept < 1 or screened < 0:
            raise ValueError(
                "keep must be at least 1 start or None, and screening at least 0 steps, both whole "
                f"numbers, got {self.keep!r} and {self.screening!r}."
            )


class SearchState(NamedTuple):
    """The state of the searches of a batch of images, from every start of each."""

    latents: jax.Array  # shape=[batch, starts, dim]: where the search is
    gradient: jax.Array  # shape=[batch, starts, dim]: of the objective, there
    opt_state: Any  # of each search, its leaves [batch, starts, ...]
    start_objective: jax.Array  # shape=[batch, starts]: where the search began
    best: jax.Array  # shape=[batch, starts, dim]: the best latents met so far
    best_objective: jax.Array  # shape=[batch, starts]: their objective


def begin_search(
    model: LaCIM,
    variables: Variables,
    images: Float[Array, " batch *image"],
    noise: Float[Array, "draws num_domains dim"],
    *,
    optimiser: optax.GradientTransformation,
    regulariser: Regulariser,
    weight: ArrayLike,
) -> SearchState:
    """Places the searches at their starts: the encoder's mean and draws in every training domain.

    The domain of an image is not needed, so images may come from a new one. The means come first,
    in the order of the domains, then the draws.

    Args:
        model: the trained model.
        variables: its variables.
        images: x.
        noise: standard normal. Every image uses the same, and so its search depends neither on
            which images stand beside it nor on their order.
        optimiser: of latents [dim]; it is given minus the gradient of one search's objective.
        regulariser: J.
        weight: λ; may be traced.

    Returns:
        The searches, num_domains * (1 + draws) for each image, before their first step.
    """
    latents = apply(model, variables, "starts", images, noise)
    values, gradient = _value_and_grad(model, variables, images, latents, regulariser, weight)
    values = _not_nan(values)
    opt_state = jax.vmap(jax.vmap(optimiser.init))(latents)
    return SearchState(latents, gradient, opt_state, values, latents, values)


def step_search(
    model: LaCIM,
    variables: Variables,
    images: Float[Array, " batch *image"],
    state: SearchState,
    *,
    optimiser: optax.GradientTransformation,
    regulariser: Regulariser,
    weight: ArrayLike,
) -> SearchState:
    """Takes one step of every search, and keeps the best latents met so far.

    Args:
        model: the trained model.
        variables: its variables.
        images: x, those that the searches began with.
        state: where the searches are.
        optimiser: the one that they began with.
        regulariser: J.
        weight: λ; may be traced.

    Returns:
        The searches one step on.
    """

    def move(latents: jax.Array, gradient: jax.Array, opt_state: Any) -> tuple[jax.Array, Any]:
        # optax descends and the objective is to be maximised, hence the sign.
        updates, opt_state = optimiser.update(-gradient, opt_state, latents)
        return jnp.asarray(optax.apply_updates(latents, updates)), opt_state

    latents, opt_state = jax.vmap(jax.vmap(move))(state.latents, state.gradient, state.opt_state)
    values, gradient = _value_and_grad(model, variables, images, latents, regulariser, weight)
    better = values > state.best_objective  # False where the value is NaN
    return SearchState(
        latents=latents,
        gradient=gradient,
        opt_state=opt_state,
        start_objective=state.start_objective,
        best=jnp.where(better[..., None], latents, state.best),
        best_objective=jnp.where(better, values, state.best_objective),
    )


def narrow_search(state: SearchState, places: Int[Array, "batch kept"]) -> SearchState:
    """The searches from some of each image's starts; the others are dropped.

    Args:
        state: where the searches are.
        places: of the starts to go on from, for each image.
    """
    return jax.tree.map(lambda leaf: jax.vmap(lambda own, i: own[i])(leaf, places), state)


def _value_and_grad(
    model: LaCIM,
    variables: Variables,
    images: Float[Array, " batch *image"],
    latents: Float[Array, "batch starts dim"],
    regulariser: Regulariser,
    weight: ArrayLike,
) -> tuple[Float[Array, "batch starts"], Float[Array, "batch starts dim"]]:
    """The objective log p(x|s,v) + λ J(s,v) of every search, and its gradient in the latents."""
    priors = apply(model, variables, "priors")

    def objective(latents: Float[Array, " dim"], image: Float[Array, "*image"]) -> jax.Array:
        pixels = apply(model, variables, "decode", latents[None])[0]
        return model.likelihood.log_prob(pixels, image) + weight * regulariser(latents, priors)

    over_starts = jax.vmap(jax.value_and_grad(objective), in_axes=(0, None))
    return jax.vmap(over_starts)(latents, images)


def _not_nan(values: Float[Array, "batch starts"]) -> Float[Array, "batch starts"]:
    """NaN as minus infinity, so that any number is better."""
    return jnp.where(jnp.isnan(values), -jnp.inf, values)
