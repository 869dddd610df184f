"""Domain-adversarial training: a representation that does not reveal the domain."""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from lacim_jax.baselines.domain_risks import at_step
from lacim_jax.erm import ERM, LossFn
from lacim_jax.model.checks import check_weight
from lacim_jax.model.lacim import Examples
from lacim_jax.model.likelihoods import CATEGORICAL, Likelihood


class DANN(nn.Module):
    """ERM's network with an adversary that reads the domain off what the classifier sees.

    Example:
        >>> from lacim_jax import ERM, MLP, MLPEncoder
        >>> network = ERM(encoder=MLPEncoder((64,)), classifier=MLP((32, 2)))
        >>> model = DANN(network, adversary=MLP((32, 3)))  # three training domains
        >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((5, 28, 28, 2)))
        >>> model.apply(variables, jnp.zeros((5, 28, 28, 2))).shape
        (5, 2)
    """

    network: ERM
    adversary: nn.Module
    """Representations [batch, s_dim] to logits [batch, num_domains]."""

    def __call__(self, images: Float[Array, " batch *image"]) -> Float[Array, "batch classes"]:
        """The logits of the labels; it uses every parameter, as `init` needs."""
        return self.both(images, 1.0)[0]

    def both(
        self, images: Float[Array, " batch *image"], strength: ArrayLike
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch num_domains"]]:
        """The logits of labels and of domains, the gradient of the latter reversed on its way back.

        Args:
            images: x.
            strength: what the reversed gradient is multiplied by.
        """
        represented = self.network.represent(images)
        return self.network.classify(represented), self.adversary(reverse(represented, strength))


def dann_loss(
    model: DANN,
    *,
    weight: optax.ScalarOrSchedule,
    label_likelihood: Likelihood = CATEGORICAL,
) -> LossFn:
    r"""The risk plus the adversary's, whose gradient the representation follows uphill.

    The adversary descends its own risk, the encoder ascends it times λ, both in one step:

        $R(y | x) + R_{adv}(d | \mathrm{reverse}_\lambda(\phi(x)))$.

    It is usual to raise λ from 0: $2 / (1 + e^{-10 p}) - 1$ at the fraction p of training.

    Args:
        model: the network and its adversary, which has one output per domain.
        weight: λ, at least 0, or a schedule of it by step.
        label_likelihood: the family of p(y|x).

    Returns:
        `(params, step, examples, key) -> (loss, (step + 1, {"risk", "adversary"}))`, with `step`
        an int32 scalar counted from 0; the key is not used. A step along minus its gradient is a
        step of the game, and the loss itself need not fall.

    Raises:
        ValueError: if the weight is negative.

    References:
        Ganin et al., *Domain-adversarial training of neural networks*, JMLR 17, 2016
        (https://arxiv.org/abs/1505.07818), section 4.2 and equation 18.
    """
    check_weight("weight", weight)

    def loss_fn(
        params: Any, step: jax.Array, examples: Examples, key: Any
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        del key
        logits, domain_logits = cast(
            "tuple[jax.Array, jax.Array]",
            model.apply({"params": params}, examples.images, at_step(weight, step), method="both"),
        )
        # The factor λ sits in the reversed gradient alone: the adversary learns at full strength.
        risk = -jax.vmap(label_likelihood.log_prob)(logits, examples.labels).mean()
        adversary = -jax.vmap(CATEGORICAL.log_prob)(domain_logits, examples.domains).mean()
        return risk + adversary, (step + 1, {"risk": risk, "adversary": adversary})

    return loss_fn


@jax.custom_vjp
def reverse(values: jax.Array, strength: ArrayLike) -> jax.Array:
    """The identity, whose gradient is reversed: minus the strength times the gradient.

    Args:
        values: any array.
        strength: a scalar.

    Example:
        >>> jax.grad(lambda x: reverse(x, 2.0) ** 2)(jnp.asarray(3.0))  # 6, reversed and doubled
        Array(-12., dtype=float32)
    """
    del strength
    return values


# The pass forward keeps the strength for the pass back.
def _forward(values: jax.Array, strength: ArrayLike) -> tuple[jax.Array, ArrayLike]:
    return values, strength


def _backward(strength: ArrayLike, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    factor = jnp.asarray(strength).astype(gradient.dtype)
    return -factor * gradient, jnp.zeros_like(jnp.asarray(strength))


reverse.defvjp(_forward, _backward)
