"""What was built on path space, and the peers to compare it with, each by itself.

Norms and flatness measures that rescaling cannot change, batch normalisation in path space, and two
other ways to an optimiser that does not see the scale: Path-SGD and equi-normalisation.
"""

from gsgd_jax.family.basis_path_norm import basis_path_norm, basis_path_penalty
from gsgd_jax.family.enorm import EnormState, enorm, with_enorm
from gsgd_jax.family.path_batch_norm import BatchStatistics, path_batch_norm, skeleton_masks
from gsgd_jax.family.path_norm import path_norm, path_sum
from gsgd_jax.family.path_sgd import path_sgd, scale_by_path_norm
from gsgd_jax.family.psi_flatness import (
    basis_path_spread,
    psi_hessian_product,
    psi_sharpness,
    psi_trace,
)

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
]
