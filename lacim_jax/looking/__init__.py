"""Looking into a trained model: what each latent does to an image, and where."""

from lacim_jax.looking.saliency_maps import Saliency, saliency, saliency_of
from lacim_jax.looking.traversal import active_dims, exchange, traverse

__all__ = ["traverse", "exchange", "active_dims", "saliency", "Saliency", "saliency_of"]
