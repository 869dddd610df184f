"""What a server does with a stale gradient, and what a worker may send in place of one."""

from dcasgd_jax.rules.compensation import DelayCompensationState, delay_compensation
from dcasgd_jax.rules.constant_delay import ConstantDelayState, constant_delay
from dcasgd_jax.rules.curvature import (
    Arrival,
    Curvature,
    CurvatureCompensationState,
    curvature_compensation,
    outer_product,
)
from dcasgd_jax.rules.dcasgd import dcasgd
from dcasgd_jax.rules.gauss_newton import empirical_fisher, gauss_newton
from dcasgd_jax.rules.hessian import hessian, hessian_diagonal
from dcasgd_jax.rules.local_steps import local_steps
from dcasgd_jax.rules.low_rank import LowRankCompensationState, low_rank_compensation
from dcasgd_jax.rules.model_state import running_average
from dcasgd_jax.rules.pipeline import pipeline_delays
from dcasgd_jax.rules.rotated import RotatedCompensationState, rotated_compensation
from dcasgd_jax.rules.sending import SendingRule

__all__ = [
    "delay_compensation",
    "DelayCompensationState",
    "curvature_compensation",
    "CurvatureCompensationState",
    "Curvature",
    "Arrival",
    "hessian",
    "gauss_newton",
    "empirical_fisher",
    "outer_product",
    "hessian_diagonal",
    "low_rank_compensation",
    "LowRankCompensationState",
    "rotated_compensation",
    "RotatedCompensationState",
    "dcasgd",
    "constant_delay",
    "ConstantDelayState",
    "pipeline_delays",
    "local_steps",
    "SendingRule",
    "running_average",
]
