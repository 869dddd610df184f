"""What was built on path space, and the peers to compare it with, each by itself.

Norms and flatness measures that rescaling cannot change, batch normalisation in path space, other
ways to an optimiser that does not see the scale (Path-SGD, equi-normalisation, unit-consistent
gradients), and choices of a copy: the best conditioned one, one with a larger gradient, one to be
quantised, and balanced attention heads.
"""

from gsgd_jax.family.attention_heads import balance_heads
from gsgd_jax.family.basis_path_norm import basis_path_norm, basis_path_penalty
from gsgd_jax.family.enorm import EnormState, enorm, with_enorm
from gsgd_jax.family.equalisation import equalise, quantised
from gsgd_jax.family.path_batch_norm import BatchStatistics, path_batch_norm, skeleton_masks
from gsgd_jax.family.path_conditioning import condition, path_kernel
from gsgd_jax.family.path_norm import path_norm, path_sum
from gsgd_jax.family.path_sgd import path_sgd, scale_by_path_norm
from gsgd_jax.family.psi_flatness import (
    basis_path_spread,
    psi_hessian_product,
    psi_sharpness,
    psi_trace,
)
from gsgd_jax.family.teleportation import teleport
from gsgd_jax.family.unit_consistent import scale_by_unit_consistency

__all__ = [
    "path_norm",
    "path_sum",
    "basis_path_norm",
    "basis_path_penalty",
    "psi_trace",
    "psi_sharpness",
    "psi_hessian_product",
    "basis_path_spread",
    "path_batch_norm",
    "BatchStatistics",
    "skeleton_masks",
    "path_sgd",
    "scale_by_path_norm",
    "with_enorm",
    "EnormState",
    "enorm",
    "condition",
    "path_kernel",
    "scale_by_unit_consistency",
    "teleport",
    "equalise",
    "quantised",
    "balance_heads",
]
