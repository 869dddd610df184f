"""An identifiable variational autoencoder: LaCIM in which every latent may cause the label."""

from typing import Any

import flax.linen as nn

from lacim_jax.model.lacim import LaCIM


def ivae(
    encoder: nn.Module,
    decoder: nn.Module,
    classifier: nn.Module,
    *,
    num_domains: int,
    dim: int = 32,
    **options: Any,
) -> LaCIM:
    r"""LaCIM without v: every latent may cause the label, and the domain is the auxiliary variable.

    The iVAE identifies latents by a prior $p(z|u)$ that is factorised given an observed u. With u
    the domain and a classifier on all of z it is $p(z|d) \, p(x|z) \, p(y|z)$: LaCIM with
    `v_dim=0`. What it lacks is the claim that some of z does not cause y, and so the comparison
    shows what that claim is worth. It is trained, searched and used for prediction as LaCIM is.

    Unlike in experiments that take the label as u, the label is no part of u here: at test time it
    is what is to be predicted.

    Args:
        encoder: the trunk, images [batch, ...] to features [batch, features].
        decoder: z [batch, dim] to the parameters of p(x|z), [batch, ...].
        classifier: z [batch, dim] to logits [batch, classes].
        num_domains: how many training domains there are.
        dim: of z.
        **options: further fields of `LaCIM`.

    Returns:
        The model.

    Example:
        >>> from lacim_jax import MLP, MLPDecoder, MLPEncoder
        >>> model = ivae(MLPEncoder((8,)), MLPDecoder((4, 4, 1)), MLP((2,)), num_domains=2, dim=6)
        >>> model.s_dim, model.v_dim
        (6, 0)

    References:
        Khemakhem et al., *Variational autoencoders and nonlinear ICA*, AISTATS 2020
        (https://arxiv.org/abs/1907.04809), equations 5 to 7.
    """
    return LaCIM(
        encoder, decoder, classifier, num_domains=num_domains, s_dim=dim, v_dim=0, **options
    )
