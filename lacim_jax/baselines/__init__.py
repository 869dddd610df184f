"""What LaCIM is compared with: same encoder, same budget, same selection.

Penalties on ERM's network. They differ in what they ask of the domains: the same best classifier
(`irm_loss`), the same risk (`vrex_loss`), the least worst risk (`group_dro_loss`), the same two
moments of the representation (`coral_loss`), the same distribution (`mmd_loss`), or a distribution
in which an adversary finds no domain (`DANN`)::

    from lacim_jax import ERM, MLP, MLPEncoder
    from lacim_jax.baselines import irm_loss

    model = ERM(MLPEncoder(), MLP((256, 2)))
    weight = optax.piecewise_constant_schedule(1.0, {500: 100.0})
    loss = irm_loss(model, num_domains=2, weight=weight)
    gradients, (step, terms) = jax.grad(loss, has_aux=True)(params, step, batch, key)

Generative models beside LaCIM: `DIVA`, with latents for the domain, the label and the rest;
`csg_loss`, causal semantic generation, one prior whose independent version serves a new domain;
`ivae`, an identifiable autoencoder all of whose latents may cause the label.

Every loss has the signature of `erm_loss`, so that one training loop serves all.
"""

from lacim_jax.baselines.coral import coral_loss
from lacim_jax.baselines.csg import csg_loss, csg_probabilities
from lacim_jax.baselines.dann import DANN, dann_loss
from lacim_jax.baselines.diva import DIVA, diva_loss
from lacim_jax.baselines.group_dro import group_dro_loss
from lacim_jax.baselines.identifiable_vae import ivae
from lacim_jax.baselines.irm import irm_loss
from lacim_jax.baselines.mmd import mmd_loss
from lacim_jax.baselines.vrex import vrex_loss

__all__ = [
    "irm_loss",
    "vrex_loss",
    "group_dro_loss",
    "coral_loss",
    "mmd_loss",
    "DANN",
    "dann_loss",
    "DIVA",
    "diva_loss",
    "csg_loss",
    "csg_probabilities",
    "ivae",
]
