"""Experiments of LaCIM: latent causes, and prediction out of domain."""
